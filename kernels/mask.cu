// mask.cu -- counts, norms and sums that pruning asks for, and the application of a mask.
//
//   mask_count         count += ones of m
//   masked_abs_sum     partial[b] <- block b's share of sum_i m[i] * |x[i]|
//   squared_distance   partial[b] <- block b's share of sum_i (m[i] * w[i] - z[i])^2
//   squared_norms      out[g] <- sum_i w[g*offset + i*stride]^2,  i in 0..each
//   apply_mask         w <- m * w, exactly +0 where m is 0
//
// Shapes   x, w, z, m: [len], contiguous; f32, m as u8 of 0 and 1; count: u32 that starts at 0;
//          partial: a double a block; out: a double a group, one block a group.
// Launch   1-D; block a multiple of 32 (256 but for tuning); the grid of the two sums fixes their order: keep it.
// Result   deterministic: the only atomic adds integers; sums in f64 in a fixed order.
// Cost     each operand once: memory-bound. squared_norms by channel reads with a stride of c and lets the L2 serve
//          the neighbours; it runs once an epoch.
// Source   Kundu et al. 2021, algorithm 1 (mean momentum, channel norms); the dynamic-L2 term of its eq. 4.
// Host     src/ops/mask.rs     Cases  tests/cases/mask.toml
#include "common/atomic.cuh"
#include "common/elements.cuh"
#include "common/warp.cuh"

extern "C" __global__ void __launch_bounds__(256) mask_count_u8(const u8* m, u32* count, i64 len) {
    u32 ones = 0;
    const i64 stride = i64(gridDim.x) * blockDim.x, first = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    for (i64 i = first; i < len / 16; i += stride) {
        const Pack<u32, 4> words = load<4>(reinterpret_cast<const u32*>(m) + 4 * i);
        for (int j = 0; j < 4; ++j) ones += popc(words.at[j]);
    }
    for (i64 i = len / 16 * 16 + first; i < len; i += stride) ones += m[i];
    ones = block_sum(ones);
    if (threadIdx.x == 0) atomic_add_u32(count, ones);
}

// The block's share of a sum over 0..len, left in its place of `partial`.
template <class Term>
__device__ inline void sum_share(i64 len, double* partial, Term term) {
    double sum = 0.0;
    const i64 stride = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < len; i += stride) sum += term(i);
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256) masked_abs_sum_f32(const float* x, const u8* m, double* partial, i64 len) {
    sum_share(len, partial, [=](i64 i) { return m[i] != 0 ? double(fabsf(x[i])) : 0.0; });
}

extern "C" __global__ void __launch_bounds__(256) squared_distance_f32(const float* w, const u8* m, const float* z, double* partial, i64 len) {
    sum_share(len, partial, [=](i64 i) {
        const double distance = (m[i] != 0 ? double(w[i]) : 0.0) - double(z[i]);
        return distance * distance;
    });
}

extern "C" __global__ void __launch_bounds__(256) squared_norms_f32(const float* w, double* out, i64 each, i64 offset, i64 stride) {
    const float* group = w + blockIdx.x * offset;
    double sum = 0.0;
    for (i64 i = threadIdx.x; i < each; i += blockDim.x) {
        const double value = double(group[i * stride]);
        sum += value * value;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

struct ApplyMask {
    float* w;
    const u8* m;

    template <int V>
    __device__ void at(i64 i) const {
        Pack<float, V> v = load<V>(w + i);
        const Pack<u8, V> active = load<V>(m + i);
        for (int j = 0; j < V; ++j) v.at[j] = active.at[j] != 0 ? v.at[j] : 0.0f;
        store(w + i, v);
    }
};

extern "C" __global__ void __launch_bounds__(256) apply_mask_f32(float* w, const u8* m, i64 len) {
    each_pack(len, ApplyMask{w, m});
}
