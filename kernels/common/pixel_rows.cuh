// Rows of an implicit matrix: row m is an output pixel, its elements the input pixels under the filter, tap by tap.
#pragma once
#include "common/implicit_gemm.cuh"

// n images of h x w pixels of `chunks` chunks are read, p x q outputs made; output (i, j) reads with its first tap pixel
// (row + i * step, column + j * step), with tap (r, s) the pixel (r, s) behind that, or before it in an input gradient.
struct Convolution {
    i32 n, h, w, chunks;
    i32 p, q;
    i32 r, s, step;
    i32 row, column;
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

// The loader of `implicit_gemm.cuh` for rows of pixels. SIGN: the direction in which taps go.
template <class Channels, int SIGN>
struct PixelRows {
    static constexpr int COUNT = ROWS / 32;
    Channels channels;
    Convolution conv;
    Odometer tap;  // chunk, s, r
    i32 image[COUNT], row[COUNT], column[COUNT];

    __device__ PixelRows(Channels channels, const Convolution& conv)
        : channels(channels), conv(conv), tap(i32(threadIdx.x % 4), 4, conv.chunks, max(conv.s, 1)) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const i32 m = i32(blockIdx.x) * ROWS + i32(threadIdx.x / 4) + 32 * i;
            image[i] = m / conv.q / conv.p;
            row[i] = conv.row + m / conv.q % conv.p * conv.step;
            column[i] = conv.column + m % conv.q * conv.step;
        }
    }

    __device__ void load(u8* stage) {
        channels.select(tap.digit[0]);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const i32 h = row[i] + SIGN * tap.digit[2], w = column[i] + SIGN * tap.digit[1];
            const bool valid = image[i] < conv.n && tap.digit[2] < conv.r && h >= 0 && h < conv.h && w >= 0 && w < conv.w;
            const i64 pixel = (i64(image[i]) * conv.h + h) * conv.w + w;
            channels.copy(stage + swizzled(int(threadIdx.x / 4) + 32 * i, int(threadIdx.x % 4)), pixel, valid);
        }
        tap.advance();
    }
};

// One phase along an axis of an input gradient: the pixels i with (i + pad) % stride == phase are reached by the taps
// t with t % stride == phase, and by no others. Each phase is a convolution of stride 1.
struct AxisPhase {
    i32 first;   // the first pixel
    i32 pixels;  // number of pixels, `stride` apart
    i32 taps;    // number of taps, `stride` apart from `phase` on
    i32 source;  // where the first pixel finds the gradient for the first tap

    __device__ AxisPhase(i32 phase, i32 extent, i32 all_taps, i32 stride, i32 pad)
        : first((phase + stride - pad % stride) % stride),
          pixels(first < extent ? (extent - first - 1) / stride + 1 : 0),
          taps(phase < all_taps ? (all_taps - phase - 1) / stride + 1 : 0),
          source((first + pad) / stride) {}
};

// The chunks of the taps of a phase in rows of all taps, as one thread takes them.
struct PhaseChunks {
    Odometer tap;  // chunk, s, r
    i32 taps, stride, row, column, s;

    __device__ bool inside() const { return tap.digit[2] < taps; }
    __device__ i32 at() const {
        return ((row + tap.digit[2] * stride) * s + column + tap.digit[1] * stride) * tap.extent[0] + tap.digit[0];
    }
    __device__ void advance() { tap.advance(); }
};

// Row m of a phase is a pixel of images of h x w.
struct PhasePlace {
    i32 p, q, first_row, first_column, stride, h, w;

    __device__ i64 at(i32 m) const {
        if (stride == 1) return m;
        const i32 row = first_row + m / q % p * stride, column = first_column + m % q * stride;
        return (i64(m / q / p) * h + row) * w + column;
    }
};
