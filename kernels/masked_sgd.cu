// masked_sgd.cu -- one SGD step of many parameters, which keeps pruned weights at exactly zero.
//
//   g <- g + weight_decay * w + rho * (w - z) * m
//   v <- first ? g : momentum * v + g
//   w <- m * (w - lr * (nesterov ? g + momentum * v : v))       m[i] in {0, 1}: 0 = pruned
//
// Shapes   by parameter w, v (in and out), g, z: [len], contiguous, f32; m: [len] u8. m null = all ones; z null = no pull.
//          16 parameters, of which some may be empty.
// Launch   1-D, 256 threads: the blocks of the parameters behind each other, SHARE elements a block, the last one's fewer.
// Result   deterministic: one writer per element, no atomics. Same bits as the CPU path, NaNs aside.
// Cost     reads 13 B (17 B with z) and writes 8 B an element: memory-bound. A parameter of a few hundred elements, of
//          which a network has four a layer, costs a block and not a launch.
// Source   Sutskever et al. 2013, eq. 3-4, in PyTorch's form; mask: Han et al. 2015; z: Kundu et al. 2021, eq. 4.
// Host     src/ops/masked_sgd.rs (CPU path, checks, launch)     Cases  tests/cases/masked_sgd.toml
#include "common/elements.cuh"

struct SgdParameter {
    float* w;
    float* v;
    const float* g;
    const u8* m;
    const float* z;
    i64 len;
    float rho;
    i32 first;
};

// Elements of a block, as SHARE of src/ops/masked_sgd.rs.
constexpr i64 SHARE = 8192;

struct SgdStep {
    SgdParameter p;
    float lr, momentum, weight_decay;
    bool nesterov;

    template <int V>
    __device__ void at(i64 i) const {
        Pack<float, V> weight = load<V>(p.w + i), velocity = {}, target = {};
        const Pack<float, V> gradient = load<V>(p.g + i);
        if (p.first == 0) velocity = load<V>(p.v + i);
        if (p.z != nullptr) target = load<V>(p.z + i);
        Pack<u8, V> mask = {};
        if (p.m != nullptr) mask = load<V>(p.m + i);
        for (int j = 0; j < V; ++j) {
            const bool active = p.m == nullptr || mask.at[j] != 0;
            float total = gradient.at[j] + weight_decay * weight.at[j];
            if (p.z != nullptr && active) total += p.rho * (weight.at[j] - target.at[j]);
            velocity.at[j] = p.first != 0 ? total : momentum * velocity.at[j] + total;
            const float direction = nesterov ? total + momentum * velocity.at[j] : velocity.at[j];
            weight.at[j] = active ? weight.at[j] - lr * direction : 0.0f;
        }
        store(p.v + i, velocity);
        store(p.w + i, weight);
    }
};

// The parameter that the block belongs to becomes `own`, and `block` its number there, `left`; for the others `left`
// is below 0 or past the end.
__device__ inline void take(SgdParameter& own, i64& block, i64& left, const SgdParameter& candidate) {
    const i64 blocks = (candidate.len + SHARE - 1) / SHARE;
    if (left >= 0 && left < blocks) own = candidate, block = left;
    left -= blocks;
}

// The arguments of one parameter. One by one, not in an array in memory, so that the launcher sees every pointer.
#define PARAMETER(i) \
    float *w##i, float *v##i, const float *g##i, const u8 *m##i, const float *z##i, i64 len##i, float rho##i, i32 first##i
#define TAKE(i) take(own, block, left, {w##i, v##i, g##i, m##i, z##i, len##i, rho##i, first##i})

extern "C" __global__ void __launch_bounds__(256) masked_sgd_f32(float lr, float momentum, i32 nesterov, float weight_decay, PARAMETER(0), PARAMETER(1), PARAMETER(2), PARAMETER(3), PARAMETER(4), PARAMETER(5), PARAMETER(6), PARAMETER(7), PARAMETER(8), PARAMETER(9), PARAMETER(10), PARAMETER(11), PARAMETER(12), PARAMETER(13), PARAMETER(14), PARAMETER(15)) {
    SgdParameter own = {};
    i64 block = 0, left = blockIdx.x;
    TAKE(0), TAKE(1), TAKE(2), TAKE(3), TAKE(4), TAKE(5), TAKE(6), TAKE(7);
    TAKE(8), TAKE(9), TAKE(10), TAKE(11), TAKE(12), TAKE(13), TAKE(14), TAKE(15);
    const SgdStep step{own, lr, momentum, weight_decay, nesterov != 0};
    const i64 begin = block * SHARE, end = min(begin + SHARE, own.len), whole = end - (end - begin) % 4;
    for (i64 i = begin + 4 * i64(threadIdx.x); i < whole; i += 4 * i64(blockDim.x)) step.at<4>(i);
    for (i64 i = whole + i64(threadIdx.x); i < end; i += i64(blockDim.x)) step.at<1>(i);
}
