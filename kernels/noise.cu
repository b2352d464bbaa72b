// noise.cu -- noise-injected weights, and the gradient of the noise's scale.
//
//   moments, deviation     sigma <- sqrt(sum (w - mean)^2 / (len - 1)) over the whole tensor
//   forward                y[i] <- m[i] * (w[i] + alpha[i / each] * (sigma * n[i]))
//   backward_alpha         dalpha[k] <- sum_{i / each == k} m[i] * dy[i] * (sigma * n[i])
//
//   n[i] is standard normal number i of the stream (key, layer, step), drawn anew in every kernel. forward_bf16 rounds y: one
//   pass adds noise, masks, casts and, where rows are whole chunks, packs the operand of a convolution.
//
// Shapes   w, y, dy, m: [len], f32, y also bf16, m as u8, null = all ones; alpha, dalpha: [len / each] f32; sigma: [1] f32;
//          partial: two doubles a block (moments), one a block (backward_alpha).
// Launch   forward: 1-D grid-stride; moments: 1-D, the grid fixes the order; backward_alpha: grid (slices, groups), blocks
//          a multiple of 32; deviation: one block; backward_alpha_finish: a thread a group.
// Result   deterministic: sums in f64 in a fixed order, of differences to w[0], so that a large mean cancels
//          nothing. Same bits as the CPU path where sigma is, NaNs aside.
// Cost     forward reads 5 B and writes 4 B, or 2 B in bf16, an element beside 40 integer multiplications for 4 elements.
//          moments read 4 B.
// Source   Rakin et al. 2019 section 3; He et al. 2019; Salmon et al. 2011; Box & Muller 1958.
// Host     src/ops/noise.rs     Cases  tests/cases/noise.toml
#include "common/elements.cuh"
#include "common/philox.cuh"
#include "common/storage.cuh"
#include "common/warp.cuh"

struct Moments {
    const float* w;
    double center;
    double* sums;

    template <int V>
    __device__ void at(i64 i) const {
        const Pack<float, V> value = load<V>(w + i);
        for (int j = 0; j < V; ++j) {
            const double off = double(value.at[j]) - center;
            sums[0] += off;
            sums[1] += off * off;
        }
    }
};

extern "C" __global__ void __launch_bounds__(256) noise_moments_f32(const float* w, double* partial, i64 len) {
    double sums[2] = {0.0, 0.0};
    each_pack(len, Moments{w, double(w[0]), sums});
    const double sum = block_sum(sums[0]), square = block_sum(sums[1]);
    if (threadIdx.x == 0) {
        partial[2 * blockIdx.x] = sum;
        partial[2 * blockIdx.x + 1] = square;
    }
}

extern "C" __global__ void __launch_bounds__(256) noise_deviation_f32(const double* partial, float* sigma, i32 blocks, i64 len) {
    double sum = 0.0, square = 0.0;
    for (i32 block = i32(threadIdx.x); block < blocks; block += i32(blockDim.x)) {
        sum += partial[2 * block];
        square += partial[2 * block + 1];
    }
    sum = block_sum(sum);
    square = block_sum(square);
    if (threadIdx.x != 0) return;
    const float variance = float((square - sum * sum / double(len)) / double(len - 1));
    sigma[0] = sqrtf(variance > 0.0f ? variance : 0.0f);
}

namespace {

// Four weights a thread and draw; one division tells where they lie among the coefficients.
template <class T>
__device__ inline void forward(float deviation, const u8* m, uint2 key, u32 layer, u64 step, const float* w, const float* alpha, T* y, i64 each_alpha, i64 len) {
    each((len + 3) / 4, [=](i64 block) {
        const i64 i = 4 * block;
        const int count = int(min(i64(4), len - i));
        Pack<float, 4> weight = {};
        Pack<u8, 4> kept = {{1, 1, 1, 1}};
        if (count == 4) {
            weight = load<4>(w + i);
            if (m != nullptr) kept = load<4>(m + i);
        } else {
            for (int j = 0; j < 3; ++j) {
                if (j >= count) continue;
                weight.at[j] = w[i + j];
                if (m != nullptr) kept.at[j] = m[i + j];
            }
        }
        const float4 four = philox_normals(key, layer, step, u32(block));
        const float n[4] = {four.x, four.y, four.z, four.w};
        i64 group = i / each_alpha, left = each_alpha - (i - group * each_alpha);
        Pack<T, 4> noisy = {};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (j >= count) continue;
            const float value = weight.at[j] + alpha[group] * (deviation * n[j]);
            narrow(&noisy.at[j], kept.at[j] != 0 ? value : 0.0f);
            if (--left == 0) ++group, left = each_alpha;
        }
        if (count == 4) return store(y + i, noisy);
        for (int j = 0; j < 3; ++j)
            if (j < count) y[i + j] = noisy.at[j];
    });
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) noise_forward_f32(const float* sigma, const u8* m, u32 key0, u32 key1, u32 layer, u64 step, const float* w, const float* alpha, float* y, i64 each_alpha, i64 len) {
    forward(sigma[0], m, make_uint2(key0, key1), layer, step, w, alpha, y, each_alpha, len);
}

extern "C" __global__ void __launch_bounds__(256) noise_forward_bf16(const float* sigma, const u8* m, u32 key0, u32 key1, u32 layer, u64 step, const float* w, const float* alpha, bf16* y, i64 each_alpha, i64 len) {
    forward(sigma[0], m, make_uint2(key0, key1), layer, step, w, alpha, y, each_alpha, len);
}

extern "C" __global__ void __launch_bounds__(256) noise_backward_alpha_f32(const float* sigma, const u8* m, u32 key0, u32 key1, u32 layer, u64 step, const float* dy, double* partial, i64 each_alpha) {
    const float deviation = sigma[0];
    const i64 first = blockIdx.y * each_alpha, end = first + each_alpha;
    double sum = 0.0;
    // Blocks of the stream that touch this group; the ones at its ends belong to the neighbours too.
    each((end + 3) / 4 - first / 4, [&](i64 block) {
        block += first / 4;
        const float4 four = philox_normals(make_uint2(key0, key1), layer, step, u32(block));
        const float n[4] = {four.x, four.y, four.z, four.w};
        for (int j = 0; j < 4; ++j) {
            const i64 i = 4 * block + j;
            if (i >= first && i < end && (m == nullptr || m[i] != 0)) sum += double(dy[i]) * double(deviation * n[j]);
        }
    });
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(128) noise_backward_alpha_finish_f32(const double* partial, float* dalpha, i32 groups, i32 slices) {
    each(groups, [=](i64 group) {
        double sum = 0.0;
        for (i32 slice = 0; slice < slices; ++slice) sum += partial[group * slices + slice];
        dalpha[group] = float(sum);
    });
}
