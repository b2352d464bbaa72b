// sparse_conv2d.cu -- convolution with an irregularly masked filter: only the kept weights are multiplied.
//
//   forward         y[k,p,q,n]  = sum over kept w[k,r,s,c] of x[c, p*stride - pad + r, q*stride - pad + s, n] * w[k,r,s,c]
//   backward_input  dx[c,h,w,n] = sum over kept w[k,r,s,c] of dy[k, (h + pad - r)/stride, (w + pad - s)/stride, n] * w[k,r,s,c],
//                   over the taps where the divisions are exact
//
// Format: compressed sparse rows. A row is a filter (forward; its elements are r,s,c) or a channel (backward_input;
// its elements are k,r,s); `columns` are the kept elements in ascending order. Both are built on the device from the
// mask: count, scan, fill. At each call `pack_entries` joins them with the weights of that call, rounded to the mode.
// Activations lie as planes [channel][row][column][image]: neighbouring lanes read neighbouring addresses whatever
// the tap, and a tap is a fixed offset. Output-stationary: a warp holds 128 outputs of one row in registers, four a
// lane, and the row's entries run over them; taps in the zero padding are skipped by bits set up once.
// The weight gradient is conv2d_backward_weight, whose last pass keeps it where the mask is 1: dense tiles beat a dot
// product for each kept weight.
//
// Shapes   mask: [k,r,s,c] u8; counts: [rows] u32; offsets: [rows + 1] i32; columns: [kept] i32; entries: [kept] of
//          {plane * 64 + tap, value}; x, y as above, f32; images: [n,pixels,c] f32. Up to 64 taps; planes below 2^31
//          elements. `rounding`: 0 none, 1 tf32, 2 bf16.
// Launch   count, fill, pack_entries: 256 threads, a warp for each row. scan: one block of 256. to_planes, from_planes:
//          block (32, 8), grid (ceil(n*pixels / 32), ceil(c / 32)). forward, backward_input: 256 threads,
//          grid (ceil(outputs of a plane / 128), ceil(rows / 8)). Shared memory is static.
// Result   deterministic: one writer per element, entries in ascending order; integer counts; no atomics.
// Cost     one load of x from L1 or L2 per multiply-add; 2 * kept * outputs of a plane FLOP in all.
// Source   output-stationary direct convolution: Park et al. 2017, Chen 2018; row formats: Gale et al. 2020.
// Host     src/ops/sparse_conv2d.rs     Cases  tests/cases/sparse_conv2d.toml
#include "common/convert.cuh"
#include "common/warp.cuh"

namespace {

constexpr i32 MAX_TAPS = 64;
constexpr i32 WARPS = 8;
constexpr i32 PER_LANE = 4;

// Element `column` of a row stands at row * row_stride + column * step in mask and weights.
struct RowLayout {
    i32 row_stride, step, len;

    __device__ i64 at(i32 row, i32 column) const { return i64(row) * row_stride + i64(column) * step; }
};

__device__ inline i32 row_of_warp() { return i32(blockIdx.x) * WARPS + i32(warp_id()); }

__device__ inline float rounded(float x, i32 rounding) {
    if (rounding == 1) return __uint_as_float(f32_to_tf32(x));
    return rounding == 2 ? bf16_to_f32(f32_to_bf16(x)) : x;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) sparse_conv2d_count(const u8* mask, u32* counts, i32 rows, i32 row_stride, i32 step, i32 len) {
    const RowLayout layout{row_stride, step, len};
    const i32 row = row_of_warp();
    if (row >= rows) return;
    u32 count = 0;
    for (i32 column = i32(lane_id()); column < len; column += 32) count += mask[layout.at(row, column)] != 0;
    count = warp_sum(count);
    if (lane_id() == 0) counts[row] = count;
}

// offsets[i] = counts[0] + .. + counts[i - 1]: each thread a stretch of rows.
extern "C" __global__ void __launch_bounds__(256) sparse_conv2d_scan(const u32* counts, i32* offsets, i32 rows) {
    SHARED(before, i32[257]);
    const i32 thread = i32(threadIdx.x), stretch = (rows + 255) / 256;
    const i32 first = min(thread * stretch, rows), end = min(first + stretch, rows);
    i32 sum = 0;
    for (i32 row = first; row < end; ++row) sum += i32(counts[row]);
    before[thread + 1] = sum;
    __syncthreads();
    if (thread == 0) {
        before[0] = 0;
        for (i32 i = 1; i <= 256; ++i) before[i] += before[i - 1];
    }
    __syncthreads();
    sum = before[thread];
    for (i32 row = first; row < end; ++row) {
        offsets[row] = sum;
        sum += i32(counts[row]);
    }
    if (thread == 255) offsets[rows] = before[256];
}

extern "C" __global__ void __launch_bounds__(256) sparse_conv2d_fill(const u8* mask, const i32* offsets, i32* columns, i32 rows, i32 row_stride, i32 step, i32 len) {
    const RowLayout layout{row_stride, step, len};
    const i32 row = row_of_warp();
    if (row >= rows) return;
    i32 next = offsets[row];
    const u32 lower = (1u << lane_id()) - 1;
    for (i32 first = 0; first < len; first += 32) {
        const i32 column = first + i32(lane_id());
        const bool kept = column < len && mask[layout.at(row, column)] != 0;
        const u32 votes = ballot(kept, FULL_MASK);
        if (kept) columns[next + i32(popc(votes & lower))] = column;
        next += i32(popc(votes));
    }
}

// Columns count taps * planes, planes fastest (`planes` > 0: filters), or planes * taps, taps fastest (channels).
extern "C" __global__ void __launch_bounds__(256) sparse_conv2d_pack_entries(const float* w, const i32* offsets, const i32* columns, uint2* entries, i32 rows, i32 row_stride, i32 step, i32 planes, i32 taps, i32 rounding) {
    const RowLayout layout{row_stride, step, 0};
    const i32 row = row_of_warp();
    if (row >= rows) return;
    for (i32 i = offsets[row] + i32(lane_id()); i < offsets[row + 1]; i += 32) {
        const i32 column = columns[i];
        const i32 plane = planes > 0 ? column % planes : column / taps, tap = planes > 0 ? column / planes : column % taps;
        const float value = rounded(w[layout.at(row, column)], rounding);
        entries[i] = make_uint2(u32(plane * MAX_TAPS + tap), __float_as_uint(value));
    }
}

// planes[c, pixel, image] = images[image, pixel, c], rounded.
extern "C" __global__ void __launch_bounds__(256) sparse_conv2d_to_planes(const float* images, float* planes, i32 n, i32 pixels, i32 c, i32 rounding) {
    SHARED(tile, float[32][33]);
    const i32 first = i32(blockIdx.x) * 32, first_c = i32(blockIdx.y) * 32, lane = i32(threadIdx.x), end = n * pixels;
    for (i32 i = i32(threadIdx.y); i < 32; i += 8) {
        const i32 at = first + i, image = at % n, pixel = at / n;
        if (at < end && first_c + lane < c)
            tile[i][lane] = rounded(images[(i64(image) * pixels + pixel) * c + first_c + lane], rounding);
    }
    __syncthreads();
    for (i32 i = i32(threadIdx.y); i < 32; i += 8)
        if (first + lane < end && first_c + i < c) planes[i64(first_c + i) * end + first + lane] = tile[lane][i];
}

// images[image, pixel, c] = planes[c, pixel, image] + bias[c]; bias may be null.
extern "C" __global__ void __launch_bounds__(256) sparse_conv2d_from_planes(const float* planes, const float* bias, float* images, i32 n, i32 pixels, i32 c) {
    SHARED(tile, float[32][33]);
    const i32 first = i32(blockIdx.x) * 32, first_c = i32(blockIdx.y) * 32, lane = i32(threadIdx.x), end = n * pixels;
    for (i32 i = i32(threadIdx.y); i < 32; i += 8)
        if (first + lane < end && first_c + i < c) tile[i][lane] = planes[i64(first_c + i) * end + first + lane];
    __syncthreads();
    for (i32 i = i32(threadIdx.y); i < 32; i += 8) {
        const i32 at = first + i, image = at % n, pixel = at / n, channel = first_c + lane;
        if (at < end && channel < c)
            images[(i64(image) * pixels + pixel) * c + channel] = tile[lane][i] + (bias == nullptr ? 0.0f : bias[channel]);
    }
}

namespace {

// Planes of h x w pixels of n images are read, planes of p x q written.
struct Planes {
    i32 n, h, w, p, q, r, s, stride, pad;
};

// Where along one axis output `out` finds the inputs of the taps: tap t at `base + shift(t)`, if `reaches`.
template <bool TRANSPOSED>
struct Axis {
    i32 start, input, stride;

    __device__ Axis(i32 out, i32 input, const Planes& g)
        : start(TRANSPOSED ? out + g.pad : out * g.stride - g.pad), input(input), stride(g.stride) {}

    __device__ i32 base() const { return TRANSPOSED ? start / stride : start; }
    __device__ static i32 shift(i32 tap, i32 stride) { return TRANSPOSED ? -(tap / stride) : tap; }
    __device__ bool reaches(i32 tap) const {
        const i32 at = base() + shift(tap, stride);
        return at >= 0 && at < input && (!TRANSPOSED || start % stride == tap % stride);
    }
};

template <bool TRANSPOSED>
__device__ inline void convolve(const float* x, const i32* offsets, const uint2* entries, float* y, i32 rows, const Planes& g) {
    SHARED(tap_offset, i32[MAX_TAPS]);
    const i32 taps = g.r * g.s;
    for (i32 tap = i32(threadIdx.x); tap < taps; tap += i32(blockDim.x)) {
        using A = Axis<TRANSPOSED>;
        tap_offset[tap] = (A::shift(tap / g.s, g.stride) * g.w + A::shift(tap % g.s, g.stride)) * g.n;
    }
    __syncthreads();

    const i32 row = i32(blockIdx.y) * WARPS + i32(warp_id());
    if (row >= rows) return;
    const i32 outputs = g.p * g.q * g.n, first = i32(blockIdx.x) * 32 * PER_LANE + i32(lane_id());
    i32 base[PER_LANE];
    u64 reached[PER_LANE];
    float sum[PER_LANE] = {};
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const i32 at = first + 32 * i, image = at % g.n;
        const Axis<TRANSPOSED> down(at / g.n / g.q, g.h, g), along(at / g.n % g.q, g.w, g);
        base[i] = (down.base() * g.w + along.base()) * g.n + image;
        reached[i] = 0;
#pragma unroll 1
        for (i32 tap = 0; tap < taps; ++tap)
            if (at < outputs && down.reaches(tap / g.s) && along.reaches(tap % g.s)) reached[i] |= u64(1) << tap;
    }

    const i32 plane = g.h * g.w * g.n, end = offsets[row + 1];
#pragma unroll 4
    for (i32 e = offsets[row]; e < end; ++e) {
        const uint2 entry = __ldg(entries + e);
        const u32 tap = entry.x % MAX_TAPS;
        const i32 offset = i32(entry.x / MAX_TAPS) * plane + tap_offset[tap];
        const float value = __uint_as_float(entry.y);
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i)
            if (reached[i] >> tap & 1) sum[i] = fmaf(value, __ldg(x + base[i] + offset), sum[i]);
    }
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i)
        if (first + 32 * i < outputs) y[i64(row) * outputs + first + 32 * i] = sum[i];
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256, 4) sparse_conv2d_forward_f32(const float* x, const i32* offsets, const uint2* entries, float* y, i32 rows, i32 n, i32 h, i32 w, i32 p, i32 q, i32 r, i32 s, i32 stride, i32 pad) {
    convolve<false>(x, offsets, entries, y, rows, {n, h, w, p, q, r, s, stride, pad});
}

extern "C" __global__ void __launch_bounds__(256, 4) sparse_conv2d_backward_input_f32(const float* dy, const i32* offsets, const uint2* entries, float* dx, i32 rows, i32 n, i32 p, i32 q, i32 h, i32 w, i32 r, i32 s, i32 stride, i32 pad) {
    convolve<true>(dy, offsets, entries, dx, rows, {n, p, q, h, w, r, s, stride, pad});
}
