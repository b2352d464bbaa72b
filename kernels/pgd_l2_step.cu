// pgd_l2_step.cu -- one step of projected gradient descent in the L2 ball, image by image.
//
//   u   <- g / |g|_2,  0 where g is 0 or not finite        d <- x - x0 + step_size * u
//   x   <- clip(x0 + d * min(1, eps / |d|_2), 0, 1)
//
// Shapes   x, x0, g: [n, size], contiguous, f32, pixels in [0, 1].
// Launch   a block an image (grid n), block a multiple of 32.
// Result   deterministic: sums in a fixed order, in f64. g is divided by its largest element first, so that the squares of
//          the smallest gradients do not become 0. Equal to the CPU path except for the order of the sums.
// Cost     reads 4 B three times of g, twice of x and x0, writes 4 B an element, the repeats from cache: memory-bound.
// Source   Madry et al. 2018, section 3 (the L2 ball); normalised steps as in Foolbox.
// Host     src/ops/pgd_l2_step.rs     Cases  tests/cases/pgd_l2_step.toml
#include "common/warp.cuh"

__device__ inline float clip(float x, float lo, float hi) { return x < lo ? lo : x > hi ? hi : x; }

extern "C" __global__ void __launch_bounds__(256) pgd_l2_step_f32(float* x, const float* x0, const float* g, float eps, float step_size, i64 size) {
    const i64 first = i64(blockIdx.x) * size;
    x += first;
    x0 += first;
    g += first;
    float top = 0.0f;
    for (i64 i = threadIdx.x; i < size; i += blockDim.x) top = fmaxf(top, fabsf(g[i]));
    top = block_max(top);
    double squares = 0.0;
    if (top > 0.0f)
        for (i64 i = threadIdx.x; i < size; i += blockDim.x) {
            const double share = g[i] / top;
            squares += share * share;
        }
    const float length = sqrtf(float(block_sum(squares)));
    const bool moves = length >= 1.0f && !isinf(top);
    // An element that a thread writes below is read by that thread alone.
    double distance = 0.0;
    for (i64 i = threadIdx.x; i < size; i += blockDim.x) {
        const float d = x[i] - x0[i] + (moves ? step_size * (g[i] / top / length) : 0.0f);
        distance += double(d) * double(d);
    }
    const float radius = sqrtf(float(block_sum(distance)));
    const float shrink = radius > eps ? eps / radius : 1.0f;
    for (i64 i = threadIdx.x; i < size; i += blockDim.x) {
        const float d = x[i] - x0[i] + (moves ? step_size * (g[i] / top / length) : 0.0f);
        x[i] = clip(x0[i] + d * shrink, 0.0f, 1.0f);
    }
}
