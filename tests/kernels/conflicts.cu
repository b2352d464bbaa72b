// conflicts.cu -- accesses to shared memory whose bank conflicts are known by hand: lane l touches element l * stride.
#include "common/async_copy.cuh"
#include "common/atomic.cuh"
#include "common/mma.cuh"
#include "common/warp.cuh"

namespace {

// 16 KiB; 128 requests to fill it with zeros, none with a conflict.
using Tile = u32[4096];

__device__ inline void clear(Tile& tile) {
    for (u32 i = threadIdx.x; i < 4096; i += 32) tile[i] = 0;
    __syncthreads();
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32) conflicts_load4(u32* y, u32 stride) {
    SHARED(tile, Tile);
    clear(tile);
    y[threadIdx.x] = tile[threadIdx.x * stride];
}

extern "C" __global__ void __launch_bounds__(32) conflicts_load8(u32* y, u32 stride) {
    SHARED(tile, Tile);
    clear(tile);
    const uint2 v = load_whole(reinterpret_cast<const uint2*>(tile) + threadIdx.x * stride);
    y[threadIdx.x] = v.x + v.y;
}

extern "C" __global__ void __launch_bounds__(32) conflicts_load16(float* y, u32 stride) {
    SHARED(tile, Tile);
    clear(tile);
    const float4 v = load_float4(tile + 4 * threadIdx.x * stride);
    y[threadIdx.x] = v.x + v.y + v.z + v.w;
}

extern "C" __global__ void __launch_bounds__(32) conflicts_store2(u32 stride) {
    SHARED(tile, Tile);
    clear(tile);
    reinterpret_cast<u16*>(tile)[threadIdx.x * stride] = 1;
}

extern "C" __global__ void __launch_bounds__(32) conflicts_ldmatrix_x4(u32* y, u32 stride) {
    SHARED(tile, Tile);
    clear(tile);
    y[threadIdx.x] = ldmatrix_x4(tile + 4 * threadIdx.x * stride).x;
}

extern "C" __global__ void __launch_bounds__(32) conflicts_ldmatrix_x2(u32* y, u32 stride) {
    SHARED(tile, Tile);
    clear(tile);
    y[threadIdx.x] = ldmatrix_x2_trans(tile + 4 * threadIdx.x * stride).x;
}

extern "C" __global__ void __launch_bounds__(32) conflicts_cp_async16(const u32* x, u32 stride) {
    SHARED(tile, Tile);
    cp_async16(tile + 4 * threadIdx.x * stride, x, true);
    cp_async_commit();
    cp_async_wait<0>();
}

extern "C" __global__ void __launch_bounds__(32) conflicts_cp_async4(const u32* x, u32 stride) {
    SHARED(tile, Tile);
    cp_async4(tile + threadIdx.x * stride, x, true);
    cp_async_commit();
    cp_async_wait<0>();
}

extern "C" __global__ void __launch_bounds__(32) conflicts_atomic(u32 stride) {
    SHARED(tile, Tile);
    clear(tile);
    atomic_add_u32(tile + threadIdx.x * stride, 1);
}

// Lanes 0-15 load once, lanes 16-31 twice, and only the upper half of the warp ever gets to the last load.
extern "C" __global__ void __launch_bounds__(32) conflicts_apart(u32* y, u32 stride) {
    SHARED(tile, Tile);
    clear(tile);
    u32 sum = 0;
#pragma GCC unroll 1
    for (u32 i = 0; i <= threadIdx.x / 16; ++i) sum += tile[threadIdx.x * stride + i];
    if (threadIdx.x >= 16) sum += tile[threadIdx.x];
    y[threadIdx.x] = sum;
}

// Two warps of two blocks, one load each.
extern "C" __global__ void __launch_bounds__(64) conflicts_two_warps(u32* y, u32 stride) {
    SHARED(tile, u32[64]);
    tile[threadIdx.x] = 0;
    __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = tile[threadIdx.x * stride % 64];
}
