// adam.cu -- one Adam step that keeps pruned weights at exactly zero.
//
//   g  <- g + weight_decay * w + rho * (w - z) * m
//   m1 <- m1 + (1 - beta1) * (g - m1)
//   m2 <- beta2 * m2 + (1 - beta2) * g * g
//   w  <- m * (w - step_size * (m1 / (sqrt(m2) / root + eps)))   step_size = lr/(1-beta1^t), root = sqrt(1-beta2^t)
//
// Shapes   w, m1, m2 (in and out), g, z: [len], contiguous; f32; m: [len] u8. m null = all ones; z null = no pull.
// Launch   1-D grid-stride: any grid, any block, no shared memory, no sync.
// Result   deterministic: one writer per element, no atomics. Same bits as the CPU path.
// Cost     reads 17 B (21 B with z) and writes 12 B an element: memory-bound.
// Source   Kingma & Ba 2015, algorithm 1, in PyTorch's form.
// Host     src/ops/adam.rs     Cases  tests/cases/adam.toml
#include "common/elements.cuh"

extern "C" __global__ void __launch_bounds__(256) masked_adam_f32(float* w, float* first, float* second, const float* g, const u8* m, const float* z, float step_size, float root, float beta1, float beta2, float eps, float weight_decay, float rho, i64 len) {
    each_pack(len, [=](i64 i, auto width) {
        constexpr int V = decltype(width)::value;
        Pack<float, V> weight = load<V>(w + i);
        Pack<float, V> mean = load<V>(first + i);
        Pack<float, V> square = load<V>(second + i);
        const Pack<float, V> gradient = load<V>(g + i);
        for (int j = 0; j < V; ++j) {
            const bool active = m == nullptr || m[i + j] != 0;
            float total = gradient.at[j] + weight_decay * weight.at[j];
            if (z != nullptr && active) total += rho * (weight.at[j] - z[i + j]);
            mean.at[j] += (1.0f - beta1) * (total - mean.at[j]);
            square.at[j] = beta2 * square.at[j] + (1.0f - beta2) * total * total;
            const float direction = mean.at[j] / (sqrtf(square.at[j]) / root + eps);
            weight.at[j] = active ? weight.at[j] - step_size * direction : 0.0f;
        }
        store(first + i, mean);
        store(second + i, square);
        store(w + i, weight);
    });
}
