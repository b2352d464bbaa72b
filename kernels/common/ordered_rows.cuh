// Rows of an implicit matrix in one of three orders, and the filter taps that a tile of them needs.
//
//   IMAGES      row m is the output pixel m of [n, p, q]
//   QUADS       each 32 rows are 8 windows of 2 x 2 pixels, the windows in order of [n, p / 2, q / 2]: row
//               8 i + j of them is pixel i of window j, so that one lane of a product has all four of a window.
//               An odd last row or column of pixels is in no window and is not computed.
//   POSITIONS   row m is the output pixel m of [p, q, n]: a tile has few positions of many images. A tap that is
//               padding for one image is padding for all, and is skipped.
#pragma once
#include "common/warp_tile.cuh"

enum RowOrder : i32 { IMAGES = 0, QUADS = 1, POSITIONS = 2 };

// n images of h x w pixels of `chunks` chunks, filters of r x s taps, p x q outputs of k channels.
struct InferenceConv {
    i32 n, h, w, chunks;
    i32 p, q, k;
    i32 r, s, stride, pad;
    i32 order;

    // Windows of QUADS.
    __device__ i32 windows() const { return n * (p / 2) * (q / 2); }
    __device__ i32 rows() const { return order == QUADS ? 4 * windows() : n * p * q; }
};

// One row: where its first tap reads, as a number of chunks and as row and column, and its pixel in [n, p, q].
struct TileRow {
    i32 base, row, column, pixel;

    // Row m. Where there is none it lies far above its image, and its pixel is -1.
    __device__ TileRow(const InferenceConv& g, i32 m) {
        const u32 n = u32(g.n), p = u32(g.p), q = u32(g.q), i = u32(m);
        u32 image, y, x;
        if (g.order == POSITIONS) {
            image = i / n < p * q ? i % n : n, y = i / n / q, x = i / n % q;
        } else if (g.order == IMAGES) {
            image = i / q / p, y = i / q % p, x = i % q;
        } else {
            const u32 window = i / 32 * 8 + i % 8, place = i / 8 % 4, line = window / (q / 2);
            image = line / (p / 2), y = 2 * (line % (p / 2)) + place / 2, x = 2 * (window % (q / 2)) + place % 2;
        }
        row = image < n ? i32(y) * g.stride - g.pad : -(1 << 30);
        column = i32(x) * g.stride - g.pad;
        base = image < n ? ((i32(image) * g.h + row) * g.w + column) * g.chunks : 0;
        pixel = image < n ? i32((image * p + y) * q + x) : -1;
    }
};

// A rectangle of taps: all that reach a pixel from one of the rows asked for, some others where those are many positions.
struct Taps {
    i32 row, rows, column, columns;

    // For the rows first..=last, both with a pixel.
    __device__ Taps(const InferenceConv& g, i32 first, i32 last) {
        const i32 side = g.order == QUADS ? 2 : 1, width = g.q / side, plane = g.p / side * width;
        i32 from = 0, to = plane - 1;
        if (g.order == POSITIONS) {
            from = first / g.n, to = last / g.n;
        } else {
            if (g.order == QUADS) first /= 4, last /= 4;
            if (first / plane == last / plane) from = first % plane, to = last % plane;
        }
        const i32 top = from / width, bottom = to / width;
        const i32 left = top == bottom ? from % width : 0, right = top == bottom ? to % width : width - 1;
        reach(g, top * side, bottom * side + side - 1, g.h, g.r, row, rows);
        reach(g, left * side, right * side + side - 1, g.w, g.s, column, columns);
    }

  private:
    __device__ static void reach(const InferenceConv& g, i32 first, i32 last, i32 extent, i32 taps, i32& from, i32& count) {
        from = max(0, g.pad - last * g.stride);
        count = max(0, min(taps, extent + g.pad - first * g.stride) - from);
    }
};

// Where a thread is in the sum: its chunk of channels at a tap, four chunks on with each step. The four chunks of a
// step go through all taps before the next four come: what a tap reads, its neighbours read in the steps around it,
// from L1. Where the chunks of a pixel are not fours, a tap's chunks follow each other instead and steps straddle taps.
struct TapPlace {
    i32 digit[4];  // chunk of a run, column, row, run
    i32 by[4];
    i32 extent[3], runs;
    Taps taps;

    __device__ TapPlace(const InferenceConv& g, const Taps& taps, i32 first_step)
        : extent{g.chunks % 4 == 0 ? 4 : g.chunks, max(taps.columns, 1), max(taps.rows, 1)},
          runs(taps.rows * taps.columns == 0 ? 0 : g.chunks % 4 == 0 ? g.chunks / 4 : 1), taps(taps) {
        split(4 * first_step + i32(threadIdx.x % 4), digit);
        split(4, by);
    }

    __device__ bool inside() const { return digit[3] < runs; }
    __device__ i32 chunk() const { return digit[3] * extent[0] + digit[0]; }
    __device__ i32 column() const { return taps.column + digit[1]; }
    __device__ i32 row() const { return taps.row + digit[2]; }

    __device__ void advance() {
#pragma unroll
        for (int i = 0; i < 4; ++i) digit[i] += by[i];
#pragma unroll
        for (int i = 0; i < 3; ++i)
            if (digit[i] >= extent[i]) digit[i] -= extent[i], ++digit[i + 1];
    }

  private:
    __device__ void split(i32 value, i32 (&out)[4]) const {
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            out[i] = value % extent[i];
            value /= extent[i];
        }
        out[3] = value;
    }
};

// The rows of a block's tile, made by a thread each; read after a barrier.
template <int HEIGHT>
struct TileRows {
    int4* rows;

    __device__ void fill(const InferenceConv& g, i32 first) const {
        const int i = int(threadIdx.x);
        if (i >= HEIGHT) return;
        const TileRow row(g, first + i);
        store_whole(rows + i, make_int4(row.base, row.row, row.column, row.pixel));
    }
    __device__ i32 pixel(int row) const { return rows[row].w; }
};

// Copies HEIGHT rows of pixels to a stage, a step at a time.
template <class Mode, int HEIGHT, int THREADS>
struct OrderedPixels {
    static constexpr int APART = THREADS / 4, COUNT = HEIGHT / APART;
    const typename Mode::T* x;
    i32 h, w, chunks;
    i32 base[COUNT], row[COUNT], column[COUNT];

    __device__ OrderedPixels(const typename Mode::T* x, const InferenceConv& g, const TileRows<HEIGHT>& tile)
        : x(x), h(g.h), w(g.w), chunks(g.chunks) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const int4& from = tile.rows[int(threadIdx.x / 4) + APART * i];
            base[i] = from.x, row[i] = from.y, column[i] = from.z;
        }
    }

    // Zeros without `more`. Where nothing is read the address may be anything.
    __device__ void load(u8* stage, const TapPlace& tap, bool more) const {
        const i32 offset = (tap.row() * w + tap.column()) * chunks + tap.chunk();
        u8* const target = stage + swizzled(i32(threadIdx.x / 4), i32(threadIdx.x % 4));
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const bool inside = u32(row[i] + tap.row()) < u32(h) && u32(column[i] + tap.column()) < u32(w);
            cp_async16_cached(target + APART * i * ROW_BYTES, x + i64(base[i] + offset) * CHUNK<Mode>, more && tap.inside() && inside);
        }
    }
};

// Copies WIDTH filters [k, r, s, chunks] from `first` on to a stage.
template <class Mode, int WIDTH, int THREADS>
struct FilterRows {
    static constexpr int APART = THREADS / 4, COUNT = (WIDTH + APART - 1) / APART;
    const typename Mode::T* filter;
    i32 first, k, s, chunks, length;

    __device__ FilterRows(const typename Mode::T* filter, const InferenceConv& g, i32 first)
        : filter(filter), first(first), k(g.k), s(g.s), chunks(g.chunks), length(g.r * g.s * g.chunks) {}

    __device__ void load(u8* stage, const TapPlace& tap, bool more) const {
        const i32 row = i32(threadIdx.x / 4), at = (tap.row() * s + tap.column()) * chunks + tap.chunk();
        u8* const target = stage + swizzled(row, i32(threadIdx.x % 4));
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            if (WIDTH % APART != 0 && row + APART * i >= WIDTH) break;
            const i32 number = first + row + APART * i;
            const bool valid = more && tap.inside() && number < k;
            cp_async16(target + APART * i * ROW_BYTES, filter + i64(number * length + at) * CHUNK<Mode>, valid);
        }
    }
};
