// What follows the sums of an inference layer, in f32: residual, ReLU, and the way to whole 16-byte stores.
#pragma once
#include "common/elements.cuh"
#include "common/ordered_rows.cuh"
#include "common/storage.cuh"

__device__ inline float2 max_nan(float2 a, float2 b) { return make_float2(max_nan(a.x, b.x), max_nan(a.y, b.y)); }
__device__ inline float2 max_nan(float2 a, float b) { return make_float2(max_nan(a.x, b), max_nan(a.y, b)); }

// The least value of a result: 0 behind a ReLU.
__device__ inline float least(bool relu) { return relu ? 0.0f : -__uint_as_float(0x7F800000u); }

// Columns from `end` on of a chunk that starts at column n are padding and become 0, whatever they were.
template <class T>
__device__ inline void clear_padding(Pack<T, 16 / int(sizeof(T))>& chunk, i32 n, i32 end) {
    constexpr int LENGTH = 16 / int(sizeof(T));
    if (n + LENGTH <= end) return;
#pragma unroll
    for (int j = 0; j < LENGTH; ++j)
        if (n + j >= end) chunk.at[j] = T{};
}

// Results of a block in shared memory, rows of COLUMNS elements. Chunks are permuted so that neither the rows of a
// fragment nor the chunks of a row meet in a bank: a fragment's store is one chunk of eight rows (bf16), or two
// neighbouring chunks of four rows (f32), and then the rows must stay two chunks apart.
template <class T, int COLUMNS>
struct ResultTile {
    static constexpr int LENGTH = 16 / int(sizeof(T)), CHUNKS = COLUMNS / LENGTH;
    static constexpr int TURN = CHUNKS < 8 ? CHUNKS : 8, HOLD = CHUNKS < 8 ? 8 / CHUNKS : 1;
    static constexpr int APART = int(sizeof(T)) / 2;
    u8* memory;

    __device__ u8* chunk(int row, int chunk) const {
        return memory + (row * CHUNKS + (chunk ^ (row / HOLD * APART % TURN))) * 16;
    }
    __device__ T* at(int row, int column) const {
        return reinterpret_cast<T*>(chunk(row, column / LENGTH)) + column % LENGTH;
    }
};
