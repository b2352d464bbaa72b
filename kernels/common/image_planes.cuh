// Activations with images innermost, and tiles of them in shared memory: what the sparse convolutions of inference read.
//
// [image block][channel][row][column][images of a block]: 8 images as bf16 or 4 as f32, 16 bytes either way. So each tap
// of each pixel is one aligned row of 16 bytes, and an offset that is the same for all pixels.
#pragma once
#include "common/operand.cuh"

constexpr i32 PLANE_ROW = 16;

// `blocks` of images, c planes of h x w are read, k planes of p x q computed.
struct PlaneLayer {
    i32 blocks, c, h, w, k, p, q, stride, pad;
};

// Outputs of a block: 2^block_bits blocks of images, p x q each. In shared memory their inputs, height x width with the
// border: a block of images `sheet` rows of 16 bytes behind the one before, a channel `plane` rows.
struct PlaneTile {
    i32 block_bits, p, q, height, width, sheet, plane;

    __device__ i32 blocks() const { return 1 << block_bits; }
    __device__ i32 row(i32 channel, i32 of, i32 i, i32 j) const { return channel * plane + of * sheet + i * width + j; }
};

// Where a tile of outputs starts.
struct TilePlace {
    i32 block, p, q;

    __device__ TilePlace(const PlaneLayer& layer, const PlaneTile& tile) {
        const i32 along = (layer.q + tile.q - 1) / tile.q, down = (layer.p + tile.p - 1) / tile.p;
        const i32 at = i32(blockIdx.x);
        q = at % along * tile.q;
        p = at / along % down * tile.p;
        block = at / along / down * tile.blocks();
    }
};

// A tile's inputs on their way to shared memory, `chunk` channels at a time, in two stages that take turns. Threads of a
// 1-D block share the rows of a chunk.
struct TileStages {
    u8* shared;
    const u8* x;
    i32 chunks, chunk;
    TilePlace place;
    PlaneLayer layer;
    PlaneTile tile;
    Odometer first;  // this thread's first row: column, row, channel and block of images

    __device__ TileStages(u8* shared, const u8* x, i32 chunks, i32 chunk, const PlaneLayer& layer, const PlaneTile& tile)
        : shared(shared), x(x), chunks(chunks), chunk(chunk), place(layer, tile), layer(layer), tile(tile),
          first(i32(threadIdx.x), i32(blockDim.x), tile.width, tile.height) {}

    __device__ u8* stage(i32 number) const { return shared + number % 2 * (chunk * tile.plane * PLANE_ROW); }

    // Starts the copies of a chunk, zeros where the image ends, as one group; behind the last chunk an empty one.
    __device__ void load(i32 number) const {
        if (number < chunks) {
            u8* const to = stage(number);
            each_row(number, [&](i32 channel, i32 of, i32 i, i32 j) {
                const i32 row = place.p * layer.stride - layer.pad + i, column = place.q * layer.stride - layer.pad + j;
                const i32 image = place.block + of;
                const bool valid = image < layer.blocks && row >= 0 && row < layer.h && column >= 0 && column < layer.w;
                const i32 source = ((image * layer.c + number * chunk + channel) * layer.h + row) * layer.w + column;
                cp_async16(to + tile.row(channel, of, i, j) * PLANE_ROW, x + (valid ? i64(source) * PLANE_ROW : 0), valid);
            });
        }
        cp_async_commit();
    }

    // body(channel of the chunk, block of images, row, column) for each row that this thread copies.
    template <class Body>
    __device__ void each_row(i32 number, Body body) const {
        const i32 planes = min(chunk, layer.c - number * chunk) << tile.block_bits;
        for (Odometer at = first; at.digit[2] < planes; at.advance())
            body(at.digit[2] >> tile.block_bits, at.digit[2] & (tile.blocks() - 1), at.digit[1], at.digit[0]);
    }
};
