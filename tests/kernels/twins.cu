// twins.cu -- one instruction a kernel. The tests fill the registers lane by lane from the tables of the PTX ISA.
#include "common/async_copy.cuh"
#include "common/atomic.cuh"
#include "common/mma.cuh"
#include "common/philox.cuh"
#include "common/warp.cuh"

extern "C" __global__ void __launch_bounds__(32) twin_mma_m16n8k16_bf16(const uint4* a, const uint2* b, const float4* c, float4* d) {
    const u32 lane = threadIdx.x;
    d[lane] = mma_m16n8k16_bf16(a[lane], b[lane], c[lane]);
}

extern "C" __global__ void __launch_bounds__(32) twin_mma_m16n8k8_tf32(const uint4* a, const uint2* b, const float4* c, float4* d) {
    const u32 lane = threadIdx.x;
    d[lane] = mma_m16n8k8_tf32(a[lane], b[lane], c[lane]);
}

extern "C" __global__ void __launch_bounds__(32) twin_mma_sp_m16n8k32_bf16(const uint4* a, const uint4* b, const float4* c, const u32* metadata, float4* d, i32 selector) {
    const u32 lane = threadIdx.x;
    d[lane] = selector == 0 ? mma_sp_m16n8k32_bf16<0>(a[lane], b[lane], c[lane], metadata[lane])
                            : mma_sp_m16n8k32_bf16<1>(a[lane], b[lane], c[lane], metadata[lane]);
}

// Four matrices, one behind another; lane l passes row l % 8 of matrix l / 8.
extern "C" __global__ void __launch_bounds__(32) twin_ldmatrix(const uint4* rows, uint4* x4, uint4* x4_trans, uint2* x2, uint2* x2_trans) {
    SHARED(tile, uint4[32]);
    const u32 lane = threadIdx.x;
    tile[lane] = rows[lane];
    __syncthreads();
    x4[lane] = ldmatrix_x4(&tile[lane]);
    x4_trans[lane] = ldmatrix_x4_trans(&tile[lane]);
    x2[lane] = ldmatrix_x2(&tile[lane]);
    x2_trans[lane] = ldmatrix_x2_trans(&tile[lane]);
}

extern "C" __global__ void __launch_bounds__(256) twin_convert(const float* x, bf16* y, float* back, u32* pairs, u32* tf32) {
    const u32 i = blockIdx.x * 256 + threadIdx.x;
    y[i] = f32_to_bf16(x[i]);
    back[i] = bf16_to_f32(f32_to_bf16(x[i]));
    pairs[i] = pack_bf16x2(x[i], x[i ^ 1]);
    tf32[i] = f32_to_tf32(x[i]);
}

extern "C" __global__ void __launch_bounds__(256) twin_extremes(const float* a, const float* b, float* least, float* most, float* most_or_nan) {
    const u32 i = threadIdx.x;
    least[i] = fminf(a[i], b[i]);
    most[i] = fmaxf(a[i], b[i]);
    most_or_nan[i] = max_nan(a[i], b[i]);
}

// Rows of 64 results: idx, up, down, xor, 8-byte idx, ballot, any, all, sum, maximum.
extern "C" __global__ void __launch_bounds__(64) twin_warp(const i32* x, const u32* by, i64* y) {
    const u32 i = threadIdx.x;
    y[i] = shfl_idx(x[i], by[i]);
    y[64 + i] = shfl_up(x[i], 3);
    y[128 + i] = shfl_down(x[i], 5);
    y[192 + i] = shfl_xor(x[i], 9);
    y[256 + i] = shfl_idx(i64(x[i]) << 32, by[i]);
    y[320 + i] = ballot(x[i] > 0, FULL_MASK);
    y[384 + i] = any(x[i] == 40, FULL_MASK);
    y[448 + i] = all(x[i] > -1000, FULL_MASK);
    y[512 + i] = warp_sum(x[i]);
    y[576 + i] = warp_max(x[i]);
}

extern "C" __global__ void __launch_bounds__(1024) twin_block(const float* x, float* sums, float* maxima, float* minima) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    sums[i] = block_sum(x[i]);
    maxima[i] = block_max(x[i]);
    minima[i] = warp_min(x[i]);
    sums[i] += 0.0f * block_sum(x[i]);
}

extern "C" __global__ void __launch_bounds__(32) twin_cp_async(const u8* x, u8* y, i32 valid) {
    SHARED(tile, u8[32 * 28]);
    const u32 i = threadIdx.x;
    u8* const wide = tile + 16 * i;
    u8* const middle = tile + 512 + 8 * i;
    u8* const narrow = tile + 768 + 4 * i;
    cp_async16(wide, x + 16 * i, i32(i) < valid);
    cp_async8(middle, x + 512 + 8 * i, i32(i) < valid);
    cp_async_commit();
    cp_async4(narrow, x + 768 + 4 * i, i32(i) < valid);
    cp_async_commit();
    cp_async_wait<1>();
    for (u32 k = 0; k < 16; ++k) y[16 * i + k] = wide[k];
    for (u32 k = 0; k < 8; ++k) y[512 + 8 * i + k] = middle[k];
    cp_async_wait<0>();
    for (u32 k = 0; k < 4; ++k) y[768 + 4 * i + k] = narrow[k];
}

extern "C" __global__ void __launch_bounds__(64) twin_atomic(u32* words, u64* wide, i32* signed_word) {
    const u32 i = blockIdx.x * 64 + threadIdx.x;
    atomic_add_u32(&words[0], i);
    atomic_inc(&words[1], 99);
    atomic_max_u32(&words[2], i * 2654435761u);
    atomic_min_u32(&words[3], i * 2654435761u);
    atomic_or_u32(&words[4], 1u << i % 31);
    atomic_add_u64(wide, u64(i) << 32);
    atomic_add_i32(signed_word, -i32(i));
}

extern "C" __global__ void __launch_bounds__(256) twin_philox(u32 key0, u32 key1, u32 layer, u64 step, u32* bits, float* uniform, float* normal) {
    const u32 i = blockIdx.x * 256 + threadIdx.x;
    const uint2 key = make_uint2(key0, key1);
    bits[i] = philox_bits(key, layer, step, i);
    uniform[i] = unit(bits[i]);
    normal[i] = philox_normal(key, layer, step, i);
}

extern "C" __global__ void __launch_bounds__(256) twin_bits(const u32* x, u32* y) {
    const u32 i = threadIdx.x;
    y[i] = popc(x[i]) + 100 * clz(x[i]) + 10000 * ffs(x[i]);
}
