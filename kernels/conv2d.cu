// conv2d.cu -- dense convolution as implicit matrix products: forward, input gradient, weight gradient.
//
//   forward          y[n,p,q,k]  = bias[k] + sum_{r,s,c} x[n, p*stride - pad + r, q*stride - pad + s, c] * w[k,r,s,c]
//   backward_input   dx[n,h,w,c] = sum_{r,s,k} dy[n, (h + pad - r)/stride, (w + pad - s)/stride, k] * w[k,r,s,c],
//                    over the taps where the divisions are exact: pixels and taps of one phase modulo the stride
//   backward_weight  dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] * x[n, p*stride - pad + r, q*stride - pad + s, c]
//   backward_bias    db[k]       = sum_{n,p,q} dy[n,p,q,k]
//
// Operands are read in rows of whole 16-byte chunks: 4 f32 or 8 bf16 channels. `pack_rows` and `pack_transposed`
// cast them and fill each row up to a whole chunk with zeros. Sums run over whole chunks, so these zeros cost the products
// of less than one chunk a row. tf32 operands are f32 in memory and rounded when a fragment is loaded.
//
// Shapes   packed x: [n,h,w,chunks], w: [k,r,s,chunks], dy: [n,p,q,chunks], transposed w: [c,r,s,chunks];
//          y: [n,p,q,k], bias, db: [k], dw: [k,r,s,c], partials: [splits, elements of the result]; f32.
//          bias, columns, channels and mask may be null. `columns`: where the columns of dx go, distinct.
// Launch   tiles: 128 threads, grid (ceil(rows / 128), ceil(columns / 64)), for backward_input with the most rows of
//          a phase and z = stride * stride; weight: 128 threads, grid
//          (ceil(r*s*chunk columns / 128), ceil(k / 64), splits). pack_rows, sum_partials: 1-D, any grid.
//          pack_transposed: block (32, 8), grid (ceil(c / 32), ceil(to / 32), taps); backward_bias: block (32, 8),
//          grid (splits, ceil(k / 32)). Shared memory is static, below 48 KiB.
// Result   deterministic: one writer per element, sums in a fixed order, splits added in order; no atomics.
// Cost     compute-bound from about 64 channels on; x is read r*s times, from L2.
// Source   implicit GEMM: Chetlur et al. 2014; tiles and pipeline: NVIDIA, CUTLASS documentation.
// Host     src/ops/conv2d.rs, src/ops/implicit_gemm.rs     Cases  tests/cases/conv2d.toml
// mma: conv2d_forward_tf32 conv2d_forward_bf16 conv2d_backward_input_tf32 conv2d_backward_input_bf16 conv2d_backward_weight_tf32 conv2d_backward_weight_bf16
#include "common/implicit_gemm_weight.cuh"
#include "common/pixel_rows.cuh"
#include "common/storage.cuh"

namespace {

template <class Mode>
__device__ inline void forward(Stages& stages, const typename Mode::T* x, const typename Mode::T* w, const float* bias,
                               float* y, i32 rows, i32 k, Convolution conv) {
    conv.chunks /= CHUNK<Mode>;
    const i32 depth = conv.r * conv.s * conv.chunks;
    const PixelRows<DenseChannels<Mode>, 1> a({x, conv.chunks}, conv);
    const Columns<Mode, WholeRow> b{w, depth, depth, WholeRow(depth)};
    multiply_tile(stages, a, b, Output<EveryRow>{y, bias, nullptr, rows, k, k, {}});
}

// dx [n, h, width, dx_stride] from dy [n, p, q, k] for the phase blockIdx.z.
template <class Mode>
__device__ inline void backward_input(Stages& stages, const typename Mode::T* dy, const typename Mode::T* w,
                                      const i32* columns, float* dx, i32 dx_stride, i32 n, i32 p, i32 q, i32 k, i32 h,
                                      i32 width, i32 c, i32 r, i32 s, i32 stride, i32 pad) {
    const i32 row = i32(blockIdx.z) / stride, column = i32(blockIdx.z) % stride, chunks = k / CHUNK<Mode>;
    const AxisPhase down(row, h, r, stride, pad), along(column, width, s, stride, pad);
    const i32 rows = n * down.pixels * along.pixels;
    if (i32(blockIdx.x) * ROWS >= rows) return;
    const Convolution conv{n, p, q, chunks, down.pixels, along.pixels, down.taps, along.taps, 1, down.source, along.source};
    const PixelRows<DenseChannels<Mode>, -1> a({dy, chunks}, conv);
    const Odometer tap(i32(threadIdx.x % 4), 4, chunks, max(along.taps, 1));
    const Columns<Mode, PhaseChunks> b{w, r * s * chunks, down.taps * along.taps * chunks,
                                       {tap, down.taps, stride, row, column, s}};
    const PhasePlace place{down.pixels, along.pixels, down.first, along.first, stride, h, width};
    multiply_tile(stages, a, b, Output<PhasePlace>{dx, nullptr, columns, rows, c, dx_stride, place});
}

template <class Mode>
__device__ inline void backward_weight(WeightStages& stages, const typename Mode::T* dy, const typename Mode::T* x,
                                       float* partials, i32 steps, WeightGradient g) {
    g.chunks /= CHUNK<Mode>;
    g.filter_chunks /= CHUNK<Mode>;
    weight_tile<Mode>(stages, dy, x, partials, steps, g);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128) conv2d_forward_f32(const float* x, const float* w, const float* bias, float* y, i32 rows, i32 n, i32 h, i32 width, i32 c, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad) {
    SHARED(stages, Stages);
    forward<F32>(stages, x, w, bias, y, rows, k, {n, h, width, c, p, q, r, s, stride, -pad, -pad});
}

extern "C" __global__ void __launch_bounds__(128) conv2d_forward_tf32(const float* x, const float* w, const float* bias, float* y, i32 rows, i32 n, i32 h, i32 width, i32 c, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad) {
    SHARED(stages, Stages);
    forward<Tf32>(stages, x, w, bias, y, rows, k, {n, h, width, c, p, q, r, s, stride, -pad, -pad});
}

extern "C" __global__ void __launch_bounds__(128) conv2d_forward_bf16(const bf16* x, const bf16* w, const float* bias, float* y, i32 rows, i32 n, i32 h, i32 width, i32 c, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad) {
    SHARED(stages, Stages);
    forward<Bf16>(stages, x, w, bias, y, rows, k, {n, h, width, c, p, q, r, s, stride, -pad, -pad});
}

extern "C" __global__ void __launch_bounds__(128) conv2d_backward_input_f32(const float* dy, const float* w, const i32* columns, float* dx, i32 dx_stride, i32 n, i32 p, i32 q, i32 k, i32 h, i32 width, i32 c, i32 r, i32 s, i32 stride, i32 pad) {
    SHARED(stages, Stages);
    backward_input<F32>(stages, dy, w, columns, dx, dx_stride, n, p, q, k, h, width, c, r, s, stride, pad);
}

extern "C" __global__ void __launch_bounds__(128) conv2d_backward_input_tf32(const float* dy, const float* w, const i32* columns, float* dx, i32 dx_stride, i32 n, i32 p, i32 q, i32 k, i32 h, i32 width, i32 c, i32 r, i32 s, i32 stride, i32 pad) {
    SHARED(stages, Stages);
    backward_input<Tf32>(stages, dy, w, columns, dx, dx_stride, n, p, q, k, h, width, c, r, s, stride, pad);
}

extern "C" __global__ void __launch_bounds__(128) conv2d_backward_input_bf16(const bf16* dy, const bf16* w, const i32* columns, float* dx, i32 dx_stride, i32 n, i32 p, i32 q, i32 k, i32 h, i32 width, i32 c, i32 r, i32 s, i32 stride, i32 pad) {
    SHARED(stages, Stages);
    backward_input<Bf16>(stages, dy, w, columns, dx, dx_stride, n, p, q, k, h, width, c, r, s, stride, pad);
}

extern "C" __global__ void __launch_bounds__(128) conv2d_backward_weight_f32(const float* dy, const float* x, float* partials, i32 steps, i32 n, i32 h, i32 w, i32 packed_c, i32 c, i32 p, i32 q, i32 packed_k, i32 k, i32 r, i32 s, i32 stride, i32 pad) {
    SHARED(stages, WeightStages);
    backward_weight<F32>(stages, dy, x, partials, steps, {n, h, w, packed_c, c, p, q, packed_k, k, r, s, stride, pad});
}

extern "C" __global__ void __launch_bounds__(128) conv2d_backward_weight_tf32(const float* dy, const float* x, float* partials, i32 steps, i32 n, i32 h, i32 w, i32 packed_c, i32 c, i32 p, i32 q, i32 packed_k, i32 k, i32 r, i32 s, i32 stride, i32 pad) {
    SHARED(stages, WeightStages);
    backward_weight<Tf32>(stages, dy, x, partials, steps, {n, h, w, packed_c, c, p, q, packed_k, k, r, s, stride, pad});
}

extern "C" __global__ void __launch_bounds__(128) conv2d_backward_weight_bf16(const bf16* dy, const bf16* x, float* partials, i32 steps, i32 n, i32 h, i32 w, i32 packed_c, i32 c, i32 p, i32 q, i32 packed_k, i32 k, i32 r, i32 s, i32 stride, i32 pad) {
    SHARED(stages, WeightStages);
    backward_weight<Bf16>(stages, dy, x, partials, steps, {n, h, w, packed_c, c, p, q, packed_k, k, r, s, stride, pad});
}

// A block adds `per_block` rows of dy for 32 channels: 8 lanes of rows, then the lanes in order.
extern "C" __global__ void __launch_bounds__(256) conv2d_backward_bias_f32(const float* dy, float* partials, i64 rows, i32 k, i32 per_block) {
    SHARED(lanes, float[8][32]);
    const i32 channel = i32(blockIdx.y * 32 + threadIdx.x);
    const i64 first = i64(blockIdx.x) * per_block, end = min(first + per_block, rows);
    float sum = 0.0f;
    if (channel < k)
        for (i64 row = first + threadIdx.y; row < end; row += 8) sum += dy[row * k + channel];
    lanes[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || channel >= k) return;
    for (int lane = 1; lane < 8; ++lane) sum += lanes[lane][threadIdx.x];
    partials[i64(blockIdx.x) * k + channel] = sum;
}

// out = mask * sum_i partials[i], i ascending.
extern "C" __global__ void __launch_bounds__(256) conv2d_sum_partials_f32(const float* partials, const u8* mask, float* out, i32 count, i64 len) {
    const i64 stride = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < len; i += stride) {
        float sum = 0.0f;
        if (mask == nullptr || mask[i] != 0)
            for (i32 split = 0; split < count; ++split) sum += partials[split * len + i];
        out[i] = sum;
    }
}

namespace {

// Four values from f32 as a chunk's half (bf16) or whole (f32).
__device__ inline void store_four(float* out, float4 value) { *reinterpret_cast<float4*>(out) = value; }
__device__ inline void store_four(bf16* out, float4 value) {
    *reinterpret_cast<uint2*>(out) = make_uint2(pack_bf16x2(value.x, value.y), pack_bf16x2(value.z, value.w));
}

// out[row, j] = x[row, channels[j]] for j < c, 0 up to `to`: rows of `from` channels, all or some of them, as chunks.
template <class Mode>
__device__ inline void pack_rows(const float* x, const i32* channels, typename Mode::T* out, i64 rows, i32 from, i32 c, i32 to) {
    const i32 chunks = to / CHUNK<Mode>;
    const i64 stride = i64(gridDim.x) * blockDim.x, end = rows * chunks;
    const bool whole = channels == nullptr && from % 4 == 0;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < end; i += stride) {
        const float* const row = x + i / chunks * from;
        const i32 first = i32(i % chunks) * CHUNK<Mode>;
#pragma unroll
        for (i32 j = first; j < first + CHUNK<Mode>; j += 4) {
            float4 value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (whole && j < c) {
                value = load_float4(row + j);
            } else {
                if (j < c) value.x = row[channels == nullptr ? j : channels[j]];
                if (j + 1 < c) value.y = row[channels == nullptr ? j + 1 : channels[j + 1]];
                if (j + 2 < c) value.z = row[channels == nullptr ? j + 2 : channels[j + 2]];
                if (j + 3 < c) value.w = row[channels == nullptr ? j + 3 : channels[j + 3]];
            }
            store_four(out + i * CHUNK<Mode> + (j - first), value);
        }
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) conv2d_pack_rows_f32(const float* x, const i32* channels, float* out, i64 rows, i32 from, i32 c, i32 to) {
    pack_rows<F32>(x, channels, out, rows, from, c, to);
}

extern "C" __global__ void __launch_bounds__(256) conv2d_pack_rows_bf16(const float* x, const i32* channels, bf16* out, i64 rows, i32 from, i32 c, i32 to) {
    pack_rows<Bf16>(x, channels, out, rows, from, c, to);
}

namespace {

// w [k, taps, c] as [c, taps, to], zeros from k on: 32 x 32 tiles of one tap, read and written along their rows.
template <class From, class To>
__device__ inline void pack_transposed(const From* w, To* out, i32 k, i32 taps, i32 c, i32 to) {
    SHARED(tile, float[32][33]);
    const i32 first_c = i32(blockIdx.x) * 32, first_k = i32(blockIdx.y) * 32, tap = i32(blockIdx.z);
    const i32 lane = i32(threadIdx.x);
    for (i32 i = i32(threadIdx.y); i < 32; i += 8) {
        const bool valid = first_k + i < k && first_c + lane < c;
        tile[i][lane] = valid ? widen(w[(i64(first_k + i) * taps + tap) * c + first_c + lane]) : 0.0f;
    }
    __syncthreads();
    for (i32 i = i32(threadIdx.y); i < 32; i += 8)
        if (first_c + i < c && first_k + lane < to)
            narrow(out + (i64(first_c + i) * taps + tap) * to + first_k + lane, tile[lane][i]);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) conv2d_pack_transposed_f32(const float* w, float* out, i32 k, i32 taps, i32 c, i32 to) {
    pack_transposed(w, out, k, taps, c, to);
}

extern "C" __global__ void __launch_bounds__(256) conv2d_pack_transposed_bf16(const float* w, bf16* out, i32 k, i32 taps, i32 c, i32 to) {
    pack_transposed(w, out, k, taps, c, to);
}

// Of operands that are bf16 already.
extern "C" __global__ void __launch_bounds__(256) conv2d_pack_transposed_operand_bf16(const bf16* w, bf16* out, i32 k, i32 taps, i32 c, i32 to) {
    pack_transposed(w, out, k, taps, c, to);
}
