// right.cu -- correct kernels that a careless check would take for wrong.
#include "common/async_copy.cuh"
#include "common/atomic.cuh"
#include "common/convert.cuh"
#include "common/warp.cuh"

// The last block to finish adds up what all have stored.
extern "C" __global__ void __launch_bounds__(64) right_last_block(float* partial, u32* count, float* y) {
    SHARED(last, bool[1]);
    partial[blockIdx.x * 64 + threadIdx.x] = float(threadIdx.x);
    thread_fence();
    __syncthreads();
    if (threadIdx.x == 0) last[0] = atomic_inc(count, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    if (!last[0]) return;
    thread_fence();
    float sum = 0.0f;
    for (u32 b = 0; b < gridDim.x; ++b) sum += partial[b * 64 + threadIdx.x];
    y[threadIdx.x] = sum;
}

// Threads and blocks own halves of a word: rows of 33 elements, one block each.
extern "C" __global__ void __launch_bounds__(64) right_halves_of_words(const bf16* x, bf16* y) {
    SHARED(row, bf16[33]);
    const u32 i = blockIdx.x * 33 + threadIdx.x;
    if (threadIdx.x < 33) {
        row[threadIdx.x] = x[i];
        row[threadIdx.x] = f32_to_bf16(2.0f * bf16_to_f32(row[threadIdx.x]));
    }
    __syncthreads();
    if (threadIdx.x < 33) y[i] = row[32 - threadIdx.x];
}

// In place, so that neighbours of a word read and write it.
extern "C" __global__ void __launch_bounds__(64) right_bytes_in_place(u8* x) {
    const u32 i = blockIdx.x * 33 + threadIdx.x;
    if (threadIdx.x < 33) x[i] = u8(x[i] + 1);
}

// A histogram of bytes, in shared memory and then over all blocks.
extern "C" __global__ void __launch_bounds__(64) right_histogram(const u8* x, u32* bins, i32 len) {
    SHARED(own, u32[256]);
    for (u32 i = threadIdx.x; i < 256; i += 64) own[i] = 0;
    __syncthreads();
    for (u32 i = blockIdx.x * 64 + threadIdx.x; i < u32(len); i += gridDim.x * 64) atomic_add_u32(&own[x[i]], 1);
    __syncthreads();
    for (u32 i = threadIdx.x; i < 256; i += 64) atomic_add_u32(&bins[i], own[i]);
}

// Half warps shuffle at once, each with its own mask.
extern "C" __global__ void __launch_bounds__(64) right_half_warps(float* y) {
    const bool low = threadIdx.x % 32 < 16;
    const u32 mask = low ? 0x0000FFFFu : 0xFFFF0000u;
    float v = float(threadIdx.x);
    if (low) {
        for (u32 bits = 8; bits > 0; bits /= 2) v += shfl_xor(v, bits, mask);
    } else {
        for (u32 bits = 8; bits > 0; bits /= 2) v = fmaxf(v, shfl_xor(v, bits, mask));
    }
    y[threadIdx.x] = v;
}

// A warp of 16 lanes with the right mask.
extern "C" __global__ void __launch_bounds__(48) right_partial_warp(u32* y) {
    const u32 mask = threadIdx.x < 32 ? FULL_MASK : 0x0000FFFFu;
    y[threadIdx.x] = ballot(threadIdx.x % 3 == 0, mask);
}

// Lanes pass values through shared memory with __syncwarp alone; the block's warps never meet.
extern "C" __global__ void __launch_bounds__(64) right_syncwarp(const float* x, float* y) {
    SHARED(tile, float[64]);
    float v = x[threadIdx.x];
    for (int i = 0; i < 3; ++i) {
        tile[threadIdx.x] = v;
        __syncwarp();
        v = tile[threadIdx.x ^ 1] + 1.0f;
        __syncwarp();
    }
    y[threadIdx.x] = v;
}

// Two buffers filled by cp.async in turn; what lies outside is zero.
extern "C" __global__ void __launch_bounds__(32) right_double_buffer(const float* x, float* y, i32 len) {
    SHARED(tile, float[2][128]);
    float sum = 0.0f;
    const int steps = (len + 127) / 128;
    cp_async16(&tile[0][4 * threadIdx.x], x + 4 * threadIdx.x, 4 * i32(threadIdx.x) < len);
    cp_async_commit();
    for (int i = 0; i < steps; ++i) {
        const int next = 128 * (i + 1) + 4 * i32(threadIdx.x);
        if (i + 1 < steps) cp_async16(&tile[(i + 1) % 2][4 * threadIdx.x], x + next, next < len);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        for (int k = 0; k < 4; ++k) sum += tile[i % 2][32 * k + (threadIdx.x ^ 5)];
        __syncthreads();
    }
    y[threadIdx.x] = sum;
}

// A constant table of the program.
extern "C" __global__ void __launch_bounds__(32) right_constant_table(i32* y) {
    static const i32 table[8] = {3, 1, 4, 1, 5, 9, 2, 6};
    y[threadIdx.x] = table[threadIdx.x % 8];
}
