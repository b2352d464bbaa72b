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

extern "C" __global__ void __launch_bounds__(256) masked_sgd_f32(float* w, float* v, const float* g, const u8* m, const float* z, float lr, float momentum, i32 nesterov, float weight_decay, float rho, i32 first, i64 len) {
    each_pack(len, [=](i64 i, auto width) {
        constexpr int V = decltype(width)::value;
        Pack<float, V> weight = load<V>(w + i);
        Pack<float, V> velocity = {};
        if (!first) velocity = load<V>(v + i);
        const Pack<float, V> gradient = load<V>(g + i);
        Pack<u8, V> active;
        for (int j = 0; j < V; ++j) active.at[j] = 1;
        if (m != nullptr) active = load<V>(m + i);
        Pack<float, V> target = {};
        if (z != nullptr) target = load<V>(z + i);
        for (int j = 0; j < V; ++j) {
            float total = gradient.at[j] + weight_decay * weight.at[j];
            if (z != nullptr && active.at[j] != 0) total += rho * (weight.at[j] - target.at[j]);
            velocity.at[j] = first ? total : momentum * velocity.at[j] + total;
            const float direction = nesterov ? total + momentum * velocity.at[j] : velocity.at[j];
            weight.at[j] = active.at[j] != 0 ? weight.at[j] - lr * direction : 0.0f;
        }
        store(v + i, velocity);
        store(w + i, weight);
    });
}
