// softmax_xent.cu -- softmax and cross-entropy: losses, their mean, and the gradient of the logits.
//
//   each[n]         <- log sum_k exp(z[n,k] - max_n) - (z[n,label_n] - max_n)
//   residual[n,k]   <- exp(z[n,k] - max_n) / sum_k exp(..) - [k == label_n]
//   mean            <- sum_n each[n] / n          (softmax_xent_mean)
//   dz              <- residual * (dy[0] / n)     (softmax_xent_backward)
//
// Shapes   z, residual: [n, k]; labels: [n] i32; each: [n]; mean, dy: [1]; f32. residual null = not wanted.
// Launch   softmax_xent: a warp a row, block a multiple of 32, any 1-D grid; _mean: one block, a multiple of 32;
//          _backward: 1-D grid-stride.
// Result   deterministic: fixed order of sums; the mean is summed in f64. A label outside 0..k gives NaN.
// Cost     three passes over z, two of them from cache: memory-bound, k is small.
// Source   the usual shift by the maximum; gradient of log-softmax.
// Host     src/ops/softmax_xent.rs     Cases  tests/cases/softmax_xent.toml
#include "common/elements.cuh"
#include "common/warp.cuh"

extern "C" __global__ void __launch_bounds__(256) softmax_xent_f32(const float* logits, const i32* labels, float* losses, float* residual, i32 n, i32 k) {
    const i32 warps = i32(blockDim.x / 32);
    const i32 lane = i32(lane_id());
    for (i32 row = i32(blockIdx.x) * warps + i32(warp_id()); row < n; row += i32(gridDim.x) * warps) {
        const float* z = logits + i64(row) * k;
        float top = -__uint_as_float(0x7F800000u);
        for (i32 i = lane; i < k; i += 32) top = fmaxf(top, z[i]);
        top = warp_max(top);
        float sum = 0.0f;
        for (i32 i = lane; i < k; i += 32) sum += expf(z[i] - top);
        sum = warp_sum(sum);
        const i32 label = labels[row];
        if (residual != nullptr) {
            float* out = residual + i64(row) * k;
            for (i32 i = lane; i < k; i += 32) out[i] = expf(z[i] - top) / sum - (i == label ? 1.0f : 0.0f);
        }
        if (lane == 0) {
            const bool inside = label >= 0 && label < k;
            losses[row] = inside ? logf(sum) - (z[label] - top) : __uint_as_float(0x7FC00000u);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) softmax_xent_mean_f32(const float* losses, float* mean, i32 n) {
    double sum = 0.0;
    for (i32 i = i32(threadIdx.x); i < n; i += i32(blockDim.x)) sum += double(losses[i]);
    sum = block_sum(sum);
    if (threadIdx.x == 0) mean[0] = float(sum / n);
}

extern "C" __global__ void __launch_bounds__(256) softmax_xent_backward_f32(const float* residual, const float* dy, float* dz, i32 n, i64 len) {
    const float factor = dy[0] / float(n);
    each(len, [=](i64 i) { dz[i] = residual[i] * factor; });
}
