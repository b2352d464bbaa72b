// speed.cu -- products whose only use is to measure what the checks cost.
#include "common/async_copy.cuh"
#include "common/mma.cuh"
#include "common/warp.cuh"

// c = a b for n x n floats, n a multiple of 32: two loads of shared memory a product, the worst case.
extern "C" __global__ void __launch_bounds__(1024) speed_scalar_gemm(const float* a, const float* b, float* c, i32 n) {
    SHARED(left, float[32][33]);
    SHARED(right, float[32][33]);
    const i32 row = i32(blockIdx.y * 32 + threadIdx.y), column = i32(blockIdx.x * 32 + threadIdx.x);
    float sum = 0.0f;
    for (i32 k = 0; k < n; k += 32) {
        left[threadIdx.y][threadIdx.x] = a[row * n + k + i32(threadIdx.x)];
        right[threadIdx.y][threadIdx.x] = b[(k + i32(threadIdx.y)) * n + column];
        __syncthreads();
        for (i32 i = 0; i < 32; ++i) sum = sum + left[threadIdx.y][i] * right[i][threadIdx.x];
        __syncthreads();
    }
    c[row * n + column] = sum;
}

// The same from global memory, without shared memory.
extern "C" __global__ void __launch_bounds__(256) speed_global_gemm(const float* a, const float* b, float* c, i32 n) {
    const i32 row = i32(blockIdx.y), column = i32(blockIdx.x * 256 + threadIdx.x);
    if (column >= n) return;
    float sum = 0.0f;
    for (i32 k = 0; k < n; ++k) sum = sum + a[row * n + k] * b[k * n + column];
    c[row * n + column] = sum;
}

// c = a b' for bf16, 32 x 32 tiles a block of 4 warps, rows of 32 columns padded to 40.
extern "C" __global__ void __launch_bounds__(128) speed_mma_gemm(const bf16* a, const bf16* b, float* c, i32 n) {
    SHARED(left, bf16[32][40]);
    SHARED(right, bf16[32][40]);
    const u32 warp = warp_id(), lane = lane_id(), wm = 16 * (warp % 2), wn = 16 * (warp / 2);
    float4 d[2] = {make_float4(0, 0, 0, 0), make_float4(0, 0, 0, 0)};
    const u32 row = threadIdx.x / 4, part = 8 * (threadIdx.x % 4);
    for (i32 k = 0; k < n; k += 32) {
        cp_async16(&left[row][part], a + (blockIdx.y * 32 + row) * n + k + part, true);
        cp_async16(&right[row][part], b + (blockIdx.x * 32 + row) * n + k + part, true);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        for (u32 i = 0; i < 32; i += 16) {
            const uint4 fa = ldmatrix_x4(&left[wm + lane % 16][i + 8 * (lane / 16)]);
            const uint4 fb = ldmatrix_x4(&right[wn + lane % 8 + 8 * (lane / 16)][i + 8 * (lane / 8 % 2)]);
            d[0] = mma_m16n8k16_bf16(fa, make_uint2(fb.x, fb.y), d[0]);
            d[1] = mma_m16n8k16_bf16(fa, make_uint2(fb.z, fb.w), d[1]);
        }
        __syncthreads();
    }
    for (u32 i = 0; i < 2; ++i) {
        float* const out = c + (blockIdx.y * 32 + wm + lane / 4) * n + blockIdx.x * 32 + wn + 8 * i + 2 * (lane % 4);
        out[0] = d[i].x;
        out[1] = d[i].y;
        out[8 * n] = d[i].z;
        out[8 * n + 1] = d[i].w;
    }
}

// An empty thread.
extern "C" __global__ void __launch_bounds__(1024) speed_empty() {}
