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

// Where a tile of outputs starts, and how its inputs get to shared memory. Tile: 2^block_bits blocks of images of p x q
// outputs each, which read height x width pixels; `row` is where a pixel lies, in rows of 16 bytes.
template <class Tile>
struct TilePlace {
    i32 block, p, q;

    __device__ TilePlace(const PlaneLayer& layer, const Tile& tile) {
        const i32 along = (layer.q + tile.q - 1) / tile.q, down = (layer.p + tile.p - 1) / tile.p;
        const i32 at = i32(blockIdx.x);
        q = at % along * tile.q;
        p = at / along % down * tile.p;
        block = at / along / down * tile.blocks();
    }

    // Starts the copies of `channels` channels from `first` on, zeros where the image ends; `at` is this thread's first
    // row of them.
    __device__ void load(u8* stage, const u8* x, i32 first, i32 channels, Odometer at, const PlaneLayer& layer,
                         const Tile& tile) const {
        const i32 planes = channels << tile.block_bits;
        for (; at.digit[2] < planes; at.advance()) {
            const i32 i = at.digit[1], j = at.digit[0], of = at.digit[2] & (tile.blocks() - 1);
            const i32 channel = at.digit[2] >> tile.block_bits;
            const i32 row = p * layer.stride - layer.pad + i, column = q * layer.stride - layer.pad + j;
            const bool valid = block + of < layer.blocks && row >= 0 && row < layer.h && column >= 0 && column < layer.w;
            const i32 source = (((block + of) * layer.c + first + channel) * layer.h + row) * layer.w + column;
            const i32 target = tile.row(channel, of, i, j);
            cp_async16(stage + target * PLANE_ROW, x + (valid ? i64(source) * PLANE_ROW : 0), valid);
        }
    }
};
