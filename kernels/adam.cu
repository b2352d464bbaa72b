// adam.cu -- one Adam step that keeps pruned weights at exactly zero.
//
//   g  <- g + weight_decay * w + rho * (w - z) * m
//   m1 <- m1 + first_rate * (g - m1)              first_rate = 1 - beta1
//   m2 <- keep * m2 + second_rate * g * g         keep = beta2, second_rate = 1 - beta2
//   w  <- m * (w - step_size * (m1 / (sqrt(m2) / root + eps)))   step_size = lr/(1-beta1^t), root = sqrt(1-beta2^t)
//
// Shapes   w, m1, m2 (in and out), g, z: [len], contiguous; f32; m: [len] u8. m null = all ones; z null = no pull.
// Launch   1-D grid-stride: any grid, any block, no shared memory, no sync.
// Result   deterministic: one writer per element, no atomics. Same bits as the CPU path, NaNs aside.
// Cost     reads 17 B (21 B with z) and writes 12 B an element: memory-bound.
// Source   Kingma & Ba 2015, algorithm 1, in PyTorch's form.
// Host     src/ops/adam.rs     Cases  tests/cases/adam.toml
#include "common/elements.cuh"

struct AdamStep {
    float* w;
    float* first;
    float* second;
    const float* g;
    const u8* m;
    const float* z;
    float step_size, root, first_rate, keep, second_rate, eps, weight_decay, rho;

    template <int V>
    __device__ void at(i64 i) const {
        Pack<float, V> weight = load<V>(w + i), mean = load<V>(first + i), square = load<V>(second + i), target = {};
        const Pack<float, V> gradient = load<V>(g + i);
        if (z != nullptr) target = load<V>(z + i);
        Pack<u8, V> mask = {};
        if (m != nullptr) mask = load<V>(m + i);
        for (int j = 0; j < V; ++j) {
            const bool active = m == nullptr || mask.at[j] != 0;
            float total = gradient.at[j] + weight_decay * weight.at[j];
            if (z != nullptr && active) total += rho * (weight.at[j] - target.at[j]);
            mean.at[j] += first_rate * (total - mean.at[j]);
            square.at[j] = keep * square.at[j] + second_rate * total * total;
            const float direction = mean.at[j] / (sqrtf(square.at[j]) / root + eps);
            weight.at[j] = active ? weight.at[j] - step_size * direction : 0.0f;
        }
        store(first + i, mean);
        store(second + i, square);
        store(w + i, weight);
    }
};

extern "C" __global__ void __launch_bounds__(256) masked_adam_f32(float* w, float* first, float* second, const float* g, const u8* m, const float* z, float step_size, float root, float first_rate, float keep, float second_rate, float eps, float weight_decay, float rho, i64 len) {
    each_pack(len, AdamStep{w, first, second, g, m, z, step_size, root, first_rate, keep, second_rate, eps, weight_decay, rho});
}
