// pgd_step.cu -- projected gradient descent in the L-infinity ball: random start and one step.
//
//   pgd_start   x <- clip(x0 + U(-eps, eps), 0, 1)
//   pgd_step    x <- min(max(x + step_size * sign(g), max(x0 - eps, 0)), min(x0 + eps, 1)),   sign(0) = sign(NaN) = 0
//
// Shapes   x, x0, g: [len], contiguous, f32, pixels in [0, 1].
// Launch   1-D grid-stride: any grid, any block, no shared memory, no sync.
// Result   deterministic: one writer per element. Same bits as the CPU path, NaNs aside; element i of a start is number
//          first_index + i of the stream, so the batching of images does not matter.
// Cost     the step reads 12 B and writes 4 B an element: memory-bound. The start: a Philox block for 4 elements.
// Source   Madry et al. 2018; Salmon et al. 2011.
// Host     src/ops/pgd_step.rs     Cases  tests/cases/pgd_step.toml
#include "common/elements.cuh"
#include "common/philox.cuh"

// By comparisons, as the CPU path: fminf and fmaxf leave the sign of a zero open.
__device__ inline float clip(float x, float lo, float hi) { return x < lo ? lo : x > hi ? hi : x; }

extern "C" __global__ void __launch_bounds__(256) pgd_start_f32(const float* x0, float* x, float eps, u32 key0, u32 key1, u32 layer, u64 step, i64 first_index, i64 len) {
    const i64 offset = first_index % 4;
    // A thread takes the elements of one Philox block: 4i .. 4i+3 of the stream.
    each((offset + len + 3) / 4, [=](i64 i) {
        const uint4 bits = philox_block(make_uint2(key0, key1), layer, step, u32(first_index / 4 + i));
        const u32 numbers[4] = {bits.x, bits.y, bits.z, bits.w};
        for (int j = 0; j < 4; ++j) {
            const i64 at = 4 * i + j - offset;
            const float noise = eps * (2.0f * unit(numbers[j]) - 1.0f);
            if (at >= 0 && at < len) x[at] = clip(x0[at] + noise, 0.0f, 1.0f);
        }
    });
}

struct PgdStep {
    float* x;
    const float* x0;
    const float* g;
    float eps, step_size;

    template <int V>
    __device__ void at(i64 i) const {
        Pack<float, V> v = load<V>(x + i);
        const Pack<float, V> center = load<V>(x0 + i), gradient = load<V>(g + i);
        for (int j = 0; j < V; ++j) {
            const float slope = gradient.at[j];
            const float moved = slope > 0.0f ? v.at[j] + step_size : slope < 0.0f ? v.at[j] - step_size : v.at[j];
            v.at[j] = clip(moved, clip(center.at[j] - eps, 0.0f, 1.0f), clip(center.at[j] + eps, 0.0f, 1.0f));
        }
        store(x + i, v);
    }
};

extern "C" __global__ void __launch_bounds__(256) pgd_step_f32(float* x, const float* x0, const float* g, float eps, float step_size, i64 len) {
    each_pack(len, PgdStep{x, x0, g, eps, step_size});
}
