// masked_sgd.cu -- one SGD step that keeps pruned weights at exactly zero.
//
//   g <- g + weight_decay * w + rho * (w - z) * m
//   v <- first ? g : momentum * v + g
//   w <- m * (w - lr * (nesterov ? g + momentum * v : v))       m[i] in {0, 1}: 0 = pruned
//
// Shapes   w, v (in and out), g, z: [len], contiguous; f32; m: [len] u8. m null = all ones; z null = no pull.
// Launch   1-D grid-stride: any grid, any block, no shared memory, no sync.
// Result   deterministic: one writer per element, no atomics. Same bits as the CPU path.
// Cost     reads 13 B (17 B with z) and writes 8 B an element: memory-bound.
// Source   Sutskever et al. 2013, eq. 3-4, in PyTorch's form; mask: Han et al. 2015; z: Kundu et al. 2021, eq. 4.
// Host     src/ops/masked_sgd.rs (CPU path, checks, launch)     Cases  tests/cases/masked_sgd.toml
#include "common/elements.cuh"

struct SgdStep {
    float* w;
    float* v;
    const float* g;
    const u8* m;
    const float* z;
    float lr, momentum, weight_decay, rho;
    bool nesterov, first;

    template <int V>
    __device__ void at(i64 i) const {
        Pack<float, V> weight = load<V>(w + i), velocity = {}, target = {};
        const Pack<float, V> gradient = load<V>(g + i);
        if (!first) velocity = load<V>(v + i);
        if (z != nullptr) target = load<V>(z + i);
        Pack<u8, V> mask = {};
        if (m != nullptr) mask = load<V>(m + i);
        for (int j = 0; j < V; ++j) {
            const bool active = m == nullptr || mask.at[j] != 0;
            float total = gradient.at[j] + weight_decay * weight.at[j];
            if (z != nullptr && active) total += rho * (weight.at[j] - target.at[j]);
            velocity.at[j] = first ? total : momentum * velocity.at[j] + total;
            const float direction = nesterov ? total + momentum * velocity.at[j] : velocity.at[j];
            weight.at[j] = active ? weight.at[j] - lr * direction : 0.0f;
        }
        store(v + i, velocity);
        store(w + i, weight);
    }
};

extern "C" __global__ void __launch_bounds__(256) masked_sgd_f32(float* w, float* v, const float* g, const u8* m, const float* z, float lr, float momentum, i32 nesterov, float weight_decay, float rho, i32 first, i64 len) {
    each_pack(len, SgdStep{w, v, g, m, z, lr, momentum, weight_decay, rho, nesterov != 0, first != 0});
}
