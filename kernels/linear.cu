// linear.cu -- fully connected layers.
//
//   forward          out[m,n] = bias[n] + sum_k a[m,k] * b[n,k]; with transposed weights also the input gradient
//   backward_weight  dw[o,f]  = sum_n dy[n,o] * x[n,f]
//
// The tiles of conv2d.cu over plain matrices; operands packed as there.
//
// Shapes   a: [m,depth], b: [n,depth], dy: [n,packed_o], x: [n,packed_f] in whole 16-byte chunks; out: [m,n],
//          bias: [n] or null, partials: [splits,o,f]; f32.
// Launch   128 threads; forward: grid (ceil(m / 128), ceil(n / 64)); backward_weight: grid (ceil(packed_f / 128),
//          ceil(o / 64), splits). Shared memory is static, below 48 KiB.
// Result   deterministic: one writer per element, sums in a fixed order; no atomics.
// Cost     the head of a network: bound by reading the weights.
// Source   Goto and van de Geijn 2008 (tiling)
// Host     src/ops/linear.rs, src/ops/implicit_gemm.rs     Cases  tests/cases/linear.toml
// mma: linear_forward_tf32 linear_forward_bf16 linear_backward_weight_tf32 linear_backward_weight_bf16
#include "common/implicit_gemm.cuh"
#include "common/implicit_gemm_weight.cuh"

namespace {

template <class Mode>
__device__ inline void product(Stages& stages, const typename Mode::T* a, const typename Mode::T* b, const float* bias,
                               float* out, i32 m, i32 n, i32 depth) {
    const i32 chunks = depth / CHUNK<Mode>;
    const MatrixRows<Mode, ROWS, WholeRow> rows{a, m, i32(blockIdx.x) * ROWS, chunks, WholeRow(chunks)};
    const Columns<Mode, WholeRow> columns{b, chunks, chunks, WholeRow(chunks)};
    multiply_tile(stages, rows, columns, Output<EveryRow>{out, bias, nullptr, m, n, n, {}});
}

// A convolution of one tap over images of one pixel.
template <class Mode>
__device__ inline void backward_weight(WeightStages& stages, const typename Mode::T* dy, const typename Mode::T* x,
                                       float* partials, i32 steps, i32 n, i32 packed_f, i32 f, i32 packed_o, i32 o) {
    const WeightGradient g{n, 1, 1, packed_f / CHUNK<Mode>, f, 1, 1, packed_o / CHUNK<Mode>, o, 1, 1, 1, 0};
    weight_tile<Mode>(stages, dy, x, partials, steps, g);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128) linear_forward_f32(const float* a, const float* b, const float* bias, float* out, i32 m, i32 n, i32 depth) {
    SHARED(stages, Stages);
    product<F32>(stages, a, b, bias, out, m, n, depth);
}

extern "C" __global__ void __launch_bounds__(128) linear_forward_tf32(const float* a, const float* b, const float* bias, float* out, i32 m, i32 n, i32 depth) {
    SHARED(stages, Stages);
    product<Tf32>(stages, a, b, bias, out, m, n, depth);
}

extern "C" __global__ void __launch_bounds__(128) linear_forward_bf16(const bf16* a, const bf16* b, const float* bias, float* out, i32 m, i32 n, i32 depth) {
    SHARED(stages, Stages);
    product<Bf16>(stages, a, b, bias, out, m, n, depth);
}

extern "C" __global__ void __launch_bounds__(128) linear_backward_weight_f32(const float* dy, const float* x, float* partials, i32 steps, i32 n, i32 packed_f, i32 f, i32 packed_o, i32 o) {
    SHARED(stages, WeightStages);
    backward_weight<F32>(stages, dy, x, partials, steps, n, packed_f, f, packed_o, o);
}

extern "C" __global__ void __launch_bounds__(128) linear_backward_weight_tf32(const float* dy, const float* x, float* partials, i32 steps, i32 n, i32 packed_f, i32 f, i32 packed_o, i32 o) {
    SHARED(stages, WeightStages);
    backward_weight<Tf32>(stages, dy, x, partials, steps, n, packed_f, f, packed_o, o);
}

extern "C" __global__ void __launch_bounds__(128) linear_backward_weight_bf16(const bf16* dy, const bf16* x, float* partials, i32 steps, i32 n, i32 packed_f, i32 f, i32 packed_o, i32 o) {
    SHARED(stages, WeightStages);
    backward_weight<Bf16>(stages, dy, x, partials, steps, n, packed_f, f, packed_o, o);
}
