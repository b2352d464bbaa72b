// Rows of an implicit matrix: row m is an output pixel, its elements the input pixels under the filter, tap by tap.
#pragma once
#include "common/implicit_gemm.cuh"

// An image batch of packed rows, `chunks` chunks a pixel, and the convolution over it. In the input gradient the
// "input" is dy and the "output" dx.
struct Convolution {
    i32 n, h, w, chunks;
    i32 p, q;
    i32 r, s, stride, pad;
};

// Copies a pixel's chunk as it is in memory.
template <class Mode>
struct DenseChannels {
    using T = typename Mode::T;
    const T* x;
    i32 chunks;
    i32 chunk = 0;

    __device__ void select(i32 next) { chunk = next; }

    __device__ void copy(u8* target, i64 pixel, bool valid) const {
        const i64 at = valid ? pixel * chunks + chunk : 0;
        cp_async16(target, x + at * CHUNK<Mode>, valid);
    }
};

// The loader of `implicit_gemm.cuh` for rows of pixels. `TRANSPOSED`: the input gradient, where output (h, w) reads
// dy at ((h + pad - r) / stride, ..) for the taps that divide.
template <class Channels, bool TRANSPOSED>
struct PixelRows {
    static constexpr int COUNT = ROWS / 32;
    Channels channels;
    Convolution conv;
    Odometer tap;  // chunk, s, r
    i32 image[COUNT], row[COUNT], column[COUNT];

    __device__ PixelRows(Channels channels, const Convolution& conv)
        : channels(channels), conv(conv), tap(i32(threadIdx.x % 4), 4, conv.chunks, conv.s) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const i32 m = i32(blockIdx.x) * ROWS + i32(threadIdx.x / 4) + 32 * i;
            const i32 q = m % conv.q, p = m / conv.q % conv.p;
            image[i] = m / conv.q / conv.p;
            row[i] = TRANSPOSED ? p + conv.pad : p * conv.stride - conv.pad;
            column[i] = TRANSPOSED ? q + conv.pad : q * conv.stride - conv.pad;
        }
    }

    __device__ void load(u8* stage) {
        channels.select(tap.digit[0]);
        const i32 s = tap.digit[1], r = tap.digit[2];
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            i32 h = row[i] + (TRANSPOSED ? -r : r), w = column[i] + (TRANSPOSED ? -s : s);
            bool valid = image[i] < conv.n && r < conv.r && h >= 0 && w >= 0;
            if (TRANSPOSED && conv.stride > 1) {
                valid = valid && h % conv.stride == 0 && w % conv.stride == 0;
                h /= conv.stride;
                w /= conv.stride;
            }
            valid = valid && h < conv.h && w < conv.w;
            const i64 pixel = (i64(image[i]) * conv.h + h) * conv.w + w;
            channels.copy(stage + swizzled(int(threadIdx.x / 4) + 32 * i, int(threadIdx.x % 4)), pixel, valid);
        }
        tap.advance();
    }
};
