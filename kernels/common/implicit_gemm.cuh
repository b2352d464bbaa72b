// out[m, n] = bias[n] + sum_k a[m, k] * b[n, k], the sum along rows of both operands: forward passes and input
// gradients.
//
// A block of 4 warps computes 128 rows by COLUMNS = 64, 32 or 16 columns (as few as there are), each warp 32 rows.
// Steps of 64 bytes of k pass through three stages of shared memory, filled by cp.async.
//
// `A` says what the rows of `a` are: `load(stage)` starts the copies of this thread's chunks, one of each of the
// rows thread / 4 + 32 i, and moves on by a step.
#pragma once
#include "common/warp_tile.cuh"

constexpr int ROWS = 128;
constexpr int WARP_ROWS = 32;
constexpr int MAX_COLUMNS = 64;
constexpr int STAGE_BYTES = (ROWS + MAX_COLUMNS) * ROW_BYTES;
using Stages = u8[STAGES][STAGE_BYTES];

// The chunks of a row in order, as one thread takes them: every fourth.
struct WholeRow {
    i32 chunk, end;

    __device__ explicit WholeRow(i32 end) : chunk(i32(threadIdx.x % 4)), end(end) {}
    __device__ bool inside() const { return chunk < end; }
    __device__ i32 at() const { return chunk; }
    __device__ void advance() { chunk += 4; }
};

// Rows of a plain matrix of `length` chunks a row, from row `first` on, HEIGHT of them in a tile; `chunks` says which
// chunks of a row are taken, and in which order.
template <class Mode, int HEIGHT, class Chunks>
struct MatrixRows {
    using T = typename Mode::T;
    static constexpr int COUNT = (HEIGHT + 31) / 32;
    const T* source;
    i32 rows, first, length;
    Chunks chunks;

    __device__ void load(u8* stage) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const int row = int(threadIdx.x / 4) + 32 * i;
            if (HEIGHT % 32 != 0 && row >= HEIGHT) break;
            const bool valid = first + row < rows && chunks.inside();
            const i64 at = valid ? i64(first + row) * length + chunks.at() : 0;
            cp_async16(stage + swizzled(row, int(threadIdx.x % 4)), source + at * CHUNK<Mode>, valid);
        }
        chunks.advance();
    }
};

// Row m of a product is row m of the output.
struct EveryRow {
    __device__ i64 at(i32 m) const { return m; }
};

// Where a product goes: row m at `out + place.at(m) * stride`, column n of it at `columns[n]`, or at n where that is
// null.
template <class Place>
struct Output {
    float* out;
    const float* bias;
    const i32* columns;
    i32 rows, count, stride;
    Place place;

    __device__ void put(i32 m, i32 n, float value) const {
        if (m >= rows || n >= count) return;
        if (bias != nullptr) value += bias[n];
        out[place.at(m) * stride + (columns == nullptr ? n : columns[n])] = value;
    }

    // Two neighbours, n even.
    __device__ void put(i32 m, i32 n, float2 value) const {
        if (m >= rows || n + 1 >= count || stride % 2 != 0 || columns != nullptr) {
            put(m, n, value.x);
            put(m, n + 1, value.y);
            return;
        }
        if (bias != nullptr) value.x += bias[n], value.y += bias[n + 1];
        *reinterpret_cast<float2*>(out + place.at(m) * stride + n) = value;
    }
};

// `b` of a product: a matrix of `length` chunks a row, of which `chunks` takes `depth`.
template <class Mode, class Chunks>
struct Columns {
    const typename Mode::T* source;
    i32 length, depth;
    Chunks chunks;
};

// The tile (blockIdx.x, blockIdx.y), whose rows `a` loads.
template <class Mode, int COLUMNS, class A, class Chunks, class Place>
__device__ inline void multiply_tile(Stages& stages, A a, const Columns<Mode, Chunks>& b, const Output<Place>& output) {
    const i32 m = i32(blockIdx.x) * ROWS + i32(warp_id()) * WARP_ROWS, n = i32(blockIdx.y) * MAX_COLUMNS;
    const i32 steps = (b.depth + 3) / 4;
    MatrixRows<Mode, COLUMNS, Chunks> columns{b.source, output.count, n, b.length, b.chunks};
    const auto load = [&](i32 step) {
        if (step < steps) {
            u8* const stage = stages[step % STAGES];
            a.load(stage);
            columns.load(stage + ROWS * ROW_BYTES);
        }
        cp_async_commit();
    };
    for (i32 step = 0; step < STAGES - 1; ++step) load(step);

    using Tile = WarpTile<Mode, WARP_ROWS, COLUMNS>;
    Tile tile;
    for (i32 step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // the stage that is filled next was read in the step before
        load(step + STAGES - 1);
        const u8* const stage = stages[step % STAGES];
        if (m < output.rows) tile.step(stage + int(warp_id()) * WARP_ROWS * ROW_BYTES, stage + ROWS * ROW_BYTES);
    }
    tile.each([&](int row, int column, typename Tile::Value value) { output.put(m + row, n + column, value); });
}

// As few columns as the rest of the matrix has: a pruned layer does not multiply zeros.
template <class Mode, class A, class Chunks, class Place>
__device__ inline void multiply_tile(Stages& stages, A a, const Columns<Mode, Chunks>& b, const Output<Place>& output) {
    const i32 rest = output.count - i32(blockIdx.y) * MAX_COLUMNS;
    if (rest > 32) multiply_tile<Mode, 64>(stages, a, b, output);
    else if (rest > 16) multiply_tile<Mode, 32>(stages, a, b, output);
    else multiply_tile<Mode, 16>(stages, a, b, output);
}
