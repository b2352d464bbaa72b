// infer_layers.cu -- the layers between the convolutions of inference, on activations in their storage type.
//
//   input       y[i, c] <- (x[i, c] - mean[c]) / std[c] from f32, or x[i, c] where mean and std are null
//   max_pool2   y[n,p,q,c] <- max x[n, 2p+{0,1}, 2q+{0,1}, c]
//   mean        y[n, c] <- sum_hw x[n, hw, c] / hw, in f32
//   image       y[i, c] <- x[i, c], without what pads the row, in f32
//   relu        y <- max(x, 0)            add   y <- a + b, rounded once
//
// A row of an activation has whole 16-byte chunks, `to` or `from` elements, with zeros from channel c on. Operations that need not
// know the rows have their f32 kernels in pool.cu and elementwise.cu.
//
// Shapes   input: x [pixels, c] f32, y [pixels, to]; max_pool2: [n, h, w, chunks], [n, h/2, w/2, chunks]; mean: x [n, pixels, from],
//          y [n, c] f32; image: x [pixels, from], y [pixels, c] f32; relu, add: [chunks]. mean, std: [c], f32.
// Launch   1-D grid-stride: any grid, any block, no shared memory, no sync.
// Result   deterministic: one writer per element, sums over pixels in order (f32). Maxima are exact, a NaN is one.
// Cost     each operand once: memory-bound, 16 B accesses of activations.
// Source   as normalize.cu, pool.cu, elementwise.cu.
// Host     src/ops/infer_layers.rs     Cases  tests/cases/infer_layers.toml
#include "common/elements.cuh"
#include "common/storage.cuh"

namespace {

template <class T>
using Chunk = Pack<T, 16 / int(sizeof(T))>;

template <class T>
__device__ inline void input(const float* x, const float* mean, const float* std, T* y, i64 pixels, i32 c, i32 to) {
    constexpr int LENGTH = 16 / int(sizeof(T));
    const i32 chunks = to / LENGTH;
    each(pixels * chunks, [&](i64 i) {
        const float* const pixel = x + i / chunks * c;
        const i32 first = i32(i % chunks) * LENGTH;
        Chunk<T> out = {};
#pragma unroll
        for (int j = 0; j < LENGTH; ++j) {
            const i32 channel = first + j;
            if (channel >= c) break;
            narrow(&out.at[j], mean == nullptr ? pixel[channel] : (pixel[channel] - mean[channel]) / std[channel]);
        }
        store(y + i * LENGTH, out);
    });
}

template <class T>
__device__ inline void mean(const T* x, float* y, i32 n, i32 pixels, i32 c, i32 from) {
    each(i64(n) * c, [&](i64 i) {
        const T* const channel = x + i / c * pixels * from + i % c;
        float sum = 0.0f;
        for (i64 pixel = 0; pixel < pixels; ++pixel) sum += widen(channel[pixel * from]);
        y[i] = sum / float(pixels);
    });
}

template <class T>
__device__ inline void image(const T* x, float* y, i64 pixels, i32 c, i32 from) {
    each(pixels * c, [&](i64 i) { y[i] = widen(x[i / c * from + i % c]); });
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) infer_layers_input_f32(const float* x, const float* mean, const float* std, float* y, i64 pixels, i32 c, i32 to) {
    input(x, mean, std, y, pixels, c, to);
}

extern "C" __global__ void __launch_bounds__(256) infer_layers_input_bf16(const float* x, const float* mean, const float* std, bf16* y, i64 pixels, i32 c, i32 to) {
    input(x, mean, std, y, pixels, c, to);
}

extern "C" __global__ void __launch_bounds__(256) infer_layers_mean_f32(const float* x, float* y, i32 n, i32 pixels, i32 c, i32 from) {
    mean(x, y, n, pixels, c, from);
}

extern "C" __global__ void __launch_bounds__(256) infer_layers_mean_bf16(const bf16* x, float* y, i32 n, i32 pixels, i32 c, i32 from) {
    mean(x, y, n, pixels, c, from);
}

extern "C" __global__ void __launch_bounds__(256) infer_layers_image_f32(const float* x, float* y, i64 pixels, i32 c, i32 from) {
    image(x, y, pixels, c, from);
}

extern "C" __global__ void __launch_bounds__(256) infer_layers_image_bf16(const bf16* x, float* y, i64 pixels, i32 c, i32 from) {
    image(x, y, pixels, c, from);
}

extern "C" __global__ void __launch_bounds__(256) infer_layers_max_pool2_bf16(const bf16* x, bf16* y, i32 n, i32 h, i32 w, i32 chunks) {
    const i32 p = h / 2, q = w / 2;
    each(i64(n) * p * q * chunks, [&](i64 i) {
        const i64 pixel = i / chunks, line = pixel / q;
        const i64 corner = ((line / p * h + line % p * 2) * w + pixel % q * 2) * chunks + i % chunks;
        Chunk<bf16> best = load<8>(x + corner * 8);
        for (int k = 1; k < 4; ++k) {
            const Chunk<bf16> other = load<8>(x + (corner + (i64(k / 2) * w + k % 2) * chunks) * 8);
#pragma unroll
            for (int j = 0; j < 8; ++j) narrow(&best.at[j], max_nan(widen(best.at[j]), widen(other.at[j])));
        }
        store(y + i * 8, best);
    });
}

extern "C" __global__ void __launch_bounds__(256) infer_layers_relu_bf16(const bf16* x, bf16* y, i64 chunks) {
    each(chunks, [&](i64 i) {
        Chunk<bf16> values = load<8>(x + i * 8);
#pragma unroll
        for (int j = 0; j < 8; ++j) narrow(&values.at[j], max_nan(widen(values.at[j]), 0.0f));
        store(y + i * 8, values);
    });
}

extern "C" __global__ void __launch_bounds__(256) infer_layers_add_bf16(const bf16* a, const bf16* b, bf16* y, i64 chunks) {
    each(chunks, [&](i64 i) {
        Chunk<bf16> values = load<8>(a + i * 8);
        const Chunk<bf16> more = load<8>(b + i * 8);
#pragma unroll
        for (int j = 0; j < 8; ++j) narrow(&values.at[j], widen(values.at[j]) + widen(more.at[j]));
        store(y + i * 8, values);
    });
}
