// masked_sgd.cu -- one SGD step of all parameters, which keeps pruned weights at exactly zero.
//
//   g <- g + weight_decay * w + rho * (w - z) * m
//   v <- first ? g : momentum * v + g
//   w <- m * (w - lr * (nesterov ? g + momentum * v : v))       m[i] in {0, 1}: 0 = pruned
//
// Shapes   by parameter w, v (in and out), g, z: [len], contiguous, f32; m: [len] u8. m null = all ones; z null = no pull.
//          parameters: [count], in device memory, blocks ascending.
// Launch   one launch for all parameters: blocks of 256, SHARE elements each; block `first_block` is a parameter's first.
// Result   deterministic: one writer per element, no atomics. Same bits as the CPU path.
// Cost     reads 13 B (17 B with z) and writes 8 B an element: memory-bound. A parameter of a few hundred elements, of
//          which a network has four a layer, costs a block and not a launch.
// Source   Sutskever et al. 2013, eq. 3-4, in PyTorch's form; mask: Han et al. 2015; z: Kundu et al. 2021, eq. 4.
// Host     src/ops/masked_sgd.rs (CPU path, checks, launch)     Cases  tests/cases/masked_sgd.toml
#include "common/elements.cuh"

// As `row` of src/ops/masked_sgd.rs writes it.
struct SgdParameter {
    float* w;
    float* v;
    const float* g;
    const u8* m;
    const float* z;
    i64 len;
    i64 first_block;
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

extern "C" __global__ void __launch_bounds__(256) masked_sgd_f32(const SgdParameter* parameters, i32 count, float lr, float momentum, i32 nesterov, float weight_decay) {
    SHARED(own, i32[1]);
    const i64 block = blockIdx.x;
    // The parameter of this block: the only one that starts here or before, and whose successor does not.
    for (i32 i = i32(threadIdx.x); i < count; i += i32(blockDim.x))
        if (parameters[i].first_block <= block && (i + 1 == count || parameters[i + 1].first_block > block)) own[0] = i;
    __syncthreads();
    const SgdStep step{parameters[own[0]], lr, momentum, weight_decay, nesterov != 0};
    const i64 begin = (block - step.p.first_block) * SHARE, end = min(begin + SHARE, step.p.len);
    const i64 whole = end - (end - begin) % 4;
    for (i64 i = begin + 4 * i64(threadIdx.x); i < whole; i += 4 * i64(blockDim.x)) step.at<4>(i);
    for (i64 i = whole + i64(threadIdx.x); i < end; i += i64(blockDim.x)) step.at<1>(i);
}
