// elementwise.cu -- functions of one element.
#include "common/math.cuh"

extern "C" __global__ void __launch_bounds__(256) relu_forward_f32(const float* x, float* y, i64 len) {
    const i64 stride = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < len; i += stride) y[i] = fmaxf(x[i], 0.0f);
}
