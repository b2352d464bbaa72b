// normalize.cu -- pixels to zero mean and unit deviation, by channel.
//
//   y[i, c] <- (x[i, c] - mean[c]) / std[c]
//
// Shapes   x, y: [len], len a multiple of c, channels last; mean, std: [c]; f32. mean null = 0 (the gradient).
// Launch   1-D grid-stride: any grid, any block, no shared memory, no sync.
// Result   deterministic: one writer per element. Same bits as the CPU path, NaNs aside.
// Cost     reads and writes 4 B an element: memory-bound; c is 1 or 3, so packs of four would straddle pixels.
// Source   the preprocessing layer of Madry et al. 2018's models.
// Host     src/ops/normalize.rs     Cases  tests/cases/normalize.toml
#include "common/elements.cuh"

extern "C" __global__ void __launch_bounds__(256) normalize_f32(const float* x, const float* mean, const float* std, float* y, i64 len, i32 c) {
    const i64 stride = i64(gridDim.x) * blockDim.x;
    const i64 first = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    // The channel moves on by the same amount each round: one division a thread.
    const i32 advance = i32(stride % c);
    i32 channel = i32(first % c);
    for (i64 i = first; i < len; i += stride) {
        const float center = mean == nullptr ? 0.0f : mean[channel];
        y[i] = (x[i] - center) / std[channel];
        channel += advance;
        if (channel >= c) channel -= c;
    }
}
