// infer_conv2d.cu -- convolution of inference with what follows it: bias, residual, ReLU, 2 x 2 maximum.
//
//   y = pool?(relu?(conv(x, w) + bias + residual?)),  conv as in conv2d.cu, pool the largest of 2 x 2 windows, stride 2
//   reduce   the same from partial sums of a convolution that was cut into splits
//   pack     out[i, j] = w[i, source[j]] for source[j] >= 0, else 0: filters (tf32: rounded) and biases, once
//   gather   out[i, j] = x[i, channels[j]] for j < c, 0 up to `to`
//
// Activations stay in the mode's storage type T, bf16 or f32, with rows of whole 16-byte chunks: `chunks` a pixel of x,
// ceil(k / chunk) a pixel of y and residual. What pads a row is 0 and is written as 0.
//
// Shapes   x [n,h,w,chunks], w [k,r,s,chunks], residual [n,p,q,k'], y [n,p,q,k'] or [n,p/2,q/2,k'], T; bias [k'],
//          partials [splits, n*p*q, k'], f32; k' = k up to a whole chunk. residual and partials may be null: with
//          partials the sums go there, and `order` is not QUADS. Every tensor has fewer than 2^31 chunks.
// Launch   MxN: M rows by N columns a block, 128 threads (warps8: 256), 4 * 64 * (M + N) bytes of dynamic shared memory,
//          grid (ceil(rows / M) * ceil(k / N), 1, splits). `order`: common/ordered_rows.cuh, QUADS for a fused maximum.
//          reduce, pack, gather: 1-D, any grid.
// Result   deterministic: one writer per element, sums in a fixed order, splits added in order; no atomics.
// Cost     2 * rows * k * r * s * c flops less the taps that are padding for a whole tile; bytes: x once from memory
//          (r*s times from L1 and L2), w once a row of tiles, residual and y once. Computed for VGG16 on CIFAR, bf16: 64 to 64
//          channels at 32 x 32, pooled, 128 images: 9.7 Gflop, 21 MB; 512 to 512 at 4 x 4: 9.7 Gflop, by positions
//          6.7, 8.9 MB; at 2 x 2: 2.4 Gflop, by positions 1.1, 5.8 MB. Splits add 8 * splits * rows * k' bytes, in L2.
// Source   implicit GEMM: Chetlur et al. 2014; tiles and pipeline: NVIDIA, CUTLASS documentation.
// Host     src/ops/infer_conv2d.rs     Cases  tests/cases/infer_conv2d.toml
// mma: infer_conv2d_tf32_128x128 infer_conv2d_tf32_128x128_warps8 infer_conv2d_tf32_128x64 infer_conv2d_tf32_64x64
// mma: infer_conv2d_tf32_128x32 infer_conv2d_tf32_128x16
// mma: infer_conv2d_bf16_128x128 infer_conv2d_bf16_128x128_warps8 infer_conv2d_bf16_128x64 infer_conv2d_bf16_64x64
// mma: infer_conv2d_bf16_128x32 infer_conv2d_bf16_128x16
#include "common/finish.cuh"

namespace {

constexpr int PIPELINE = 4;

template <class Mode>
struct Operands {
    using T = typename Mode::T;
    const T* x;
    const T* w;
    const float* bias;
    const T* residual;
    T* y;
    float* partials;
};

template <class Mode, int HEIGHT, int WIDTH, int WARP_HEIGHT, int WARP_WIDTH>
__device__ inline void convolve(const Operands<Mode>& o, const InferenceConv& g, bool relu) {
    using T = typename Mode::T;
    constexpr int BLOCK = HEIGHT / WARP_HEIGHT * (WIDTH / WARP_WIDTH) * 32, STAGE = (HEIGHT + WIDTH) * ROW_BYTES;
    DYN_SHARED(u8, stages);
    const i32 wide = (g.k + WIDTH - 1) / WIDTH, rows = g.rows();
    // Blocks that run together share rows of x; the filters stay in L2.
    const i32 m = i32(blockIdx.x) / wide * HEIGHT, n = i32(blockIdx.x) % wide * WIDTH;
    const int warp_row = int(warp_id()) % (HEIGHT / WARP_HEIGHT) * WARP_HEIGHT;
    const int warp_column = int(warp_id()) / (HEIGHT / WARP_HEIGHT) * WARP_WIDTH;

    const Taps taps(g, m, min(m + HEIGHT, rows) - 1);
    const i32 all = (taps.rows * taps.columns * g.chunks + 3) / 4, each = (all + i32(gridDim.z) - 1) / i32(gridDim.z);
    const i32 first = i32(blockIdx.z) * each, steps = max(0, min(each, all - first));
    TapPlace tap(g, taps, first);
    SHARED(row_table, int4[HEIGHT]);
    const TileRows<HEIGHT> table{row_table};
    table.fill(g, m);
    __syncthreads();
    const OrderedPixels<Mode, HEIGHT, BLOCK> pixels(o.x, g, table);
    const FilterRows<Mode, WIDTH, BLOCK> filters(o.w, g, n);
    const auto load = [&](i32 step) {
        u8* const stage = stages + step % PIPELINE * STAGE;
        pixels.load(stage, tap, step < steps);
        filters.load(stage + HEIGHT * ROW_BYTES, tap, step < steps);
        tap.advance();
        cp_async_commit();
    };
    for (i32 step = 0; step < PIPELINE - 1; ++step) load(step);

    const i32 stride = (g.k + CHUNK<Mode> - 1) / CHUNK<Mode> * CHUNK<Mode>;
    using Tile = WarpTile<Mode, WARP_HEIGHT, WARP_WIDTH>;
    using Value = typename Tile::Value;
    Tile tile;
    if (o.partials == nullptr)
        tile.fill([&](int column) {
            Value value = {};
            if (n + warp_column + column < stride) widen(o.bias + n + warp_column + column, value);
            return value;
        });
    for (i32 step = 0; step < steps; ++step) {
        cp_async_wait<PIPELINE - 2>();
        __syncthreads();  // the stage that is filled next was read in the step before
        const u8* const stage = stages + step % PIPELINE * STAGE;
        const u8 *const left = stage + warp_row * ROW_BYTES, *const right = stage + (HEIGHT + warp_column) * ROW_BYTES;
        tile.template half<0, true>(left, right);
        tile.template half<1, true>(left, right);
        load(step + PIPELINE - 1);  // here, and without a branch: its arithmetic runs beside the tensor cores
    }

    cp_async_wait<0>();  // the zeros behind the last step: nothing may be under way when a thread ends
    if (o.partials != nullptr) {
        float* const partials = o.partials + (i64(blockIdx.z) * rows + m) * stride + n;
        tile.each([&](int row, int column, Value value) {
            row += warp_row, column += warp_column;
            if (m + row < rows && n + column < stride) narrow(partials + i64(row) * stride + column, value);
        });
        return;
    }
    if (o.residual != nullptr)
        tile.add([&](int row) { return table.pixel(warp_row + row) >= 0; },
                 [&](int row, int column) {
                     Value more = {};
                     column += n + warp_column;
                     if (column < stride) widen(o.residual + i64(table.pixel(warp_row + row)) * stride + column, more);
                     return more;
                 });

    __syncthreads();  // the stages were read, and nothing more goes there
    const ResultTile<T, WIDTH> result{stages};
    const float low = least(relu);
    const bool quads = g.order == QUADS;
    if (quads)
        tile.each_quad([&](int quad, int column, const Value (&of)[4]) {
            const Value largest = max_nan(max_nan(of[0], of[1]), max_nan(of[2], of[3]));
            narrow(result.at(warp_row / 4 + quad, warp_column + column), max_nan(largest, low));
        });
    else
        tile.each([&](int row, int column, Value value) {
            narrow(result.at(warp_row + row, warp_column + column), max_nan(value, low));
        });
    __syncthreads();

    constexpr int CHUNKS = WIDTH / CHUNK<Mode>;
    const i32 from = quads ? m / 4 : m, end = quads ? g.windows() : rows, results = quads ? HEIGHT / 4 : HEIGHT;
    for (int i = int(threadIdx.x); i < results * CHUNKS; i += BLOCK) {
        const int row = i / CHUNKS;
        const i32 column = n + i % CHUNKS * CHUNK<Mode>;
        if (from + row >= end || column >= stride) continue;
        auto chunk = ::load<CHUNK<Mode>>(result.at(row, column - n));
        clear_padding(chunk, column, g.k);
        store(o.y + i64(quads ? from + row : table.pixel(row)) * stride + column, chunk);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128) infer_conv2d_f32_128x64(const float* x, const float* w, const float* bias, const float* residual, float* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<F32, 128, 64, 32, 64>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(128) infer_conv2d_f32_64x64(const float* x, const float* w, const float* bias, const float* residual, float* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<F32, 64, 64, 32, 32>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(128) infer_conv2d_f32_128x32(const float* x, const float* w, const float* bias, const float* residual, float* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<F32, 128, 32, 32, 32>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(128) infer_conv2d_f32_128x16(const float* x, const float* w, const float* bias, const float* residual, float* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<F32, 128, 16, 32, 16>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(128) infer_conv2d_tf32_128x128(const float* x, const float* w, const float* bias, const float* residual, float* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<Tf32, 128, 128, 64, 64>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(256, 2) infer_conv2d_tf32_128x128_warps8(const float* x, const float* w, const float* bias, const float* residual, float* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<Tf32, 128, 128, 64, 32>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(128) infer_conv2d_tf32_128x64(const float* x, const float* w, const float* bias, const float* residual, float* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<Tf32, 128, 64, 64, 32>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(128) infer_conv2d_tf32_64x64(const float* x, const float* w, const float* bias, const float* residual, float* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<Tf32, 64, 64, 32, 32>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(128) infer_conv2d_tf32_128x32(const float* x, const float* w, const float* bias, const float* residual, float* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<Tf32, 128, 32, 32, 32>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(128) infer_conv2d_tf32_128x16(const float* x, const float* w, const float* bias, const float* residual, float* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<Tf32, 128, 16, 32, 16>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(128) infer_conv2d_bf16_128x128(const bf16* x, const bf16* w, const float* bias, const bf16* residual, bf16* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<Bf16, 128, 128, 64, 64>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(256, 2) infer_conv2d_bf16_128x128_warps8(const bf16* x, const bf16* w, const float* bias, const bf16* residual, bf16* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<Bf16, 128, 128, 64, 32>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(128) infer_conv2d_bf16_128x64(const bf16* x, const bf16* w, const float* bias, const bf16* residual, bf16* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<Bf16, 128, 64, 64, 32>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(128) infer_conv2d_bf16_64x64(const bf16* x, const bf16* w, const float* bias, const bf16* residual, bf16* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<Bf16, 64, 64, 32, 32>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(128) infer_conv2d_bf16_128x32(const bf16* x, const bf16* w, const float* bias, const bf16* residual, bf16* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<Bf16, 128, 32, 32, 32>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

extern "C" __global__ void __launch_bounds__(128) infer_conv2d_bf16_128x16(const bf16* x, const bf16* w, const float* bias, const bf16* residual, bf16* y, float* partials, i32 n, i32 h, i32 width, i32 chunks, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad, i32 order, i32 relu) {
    convolve<Bf16, 128, 16, 32, 16>({x, w, bias, residual, y, partials}, {n, h, width, chunks, p, q, k, r, s, stride, pad, order}, relu != 0);
}

namespace {

template <class T>
struct Reduction {
    static constexpr int LENGTH = 16 / int(sizeof(T));
    using Sums = Pack<float, LENGTH>;
    const float* partials;
    const float* bias;
    const T* residual;
    i32 splits, n, p, q, k, order;
    i32 stride = (k + LENGTH - 1) / LENGTH * LENGTH;

    __device__ static void add(Sums& sums, const float* from) {
#pragma unroll
        for (int j = 0; j < LENGTH; j += 4) {
            const float4 four = load_float4(from + j);
            sums.at[j] += four.x, sums.at[j + 1] += four.y, sums.at[j + 2] += four.z, sums.at[j + 3] += four.w;
        }
    }

    // LENGTH channels of one pixel.
    __device__ Sums pixel(i32 image, i32 row, i32 column, i32 channel) const {
        const i64 rows = i64(n) * p * q, at = (i64(image) * p + row) * q + column;
        const i64 m = order == POSITIONS ? (i64(row) * q + column) * n + image : at;
        Sums sums = {};
#pragma unroll 4
        for (i32 split = 0; split < splits; ++split) add(sums, partials + (split * rows + m) * stride + channel);
        add(sums, bias + channel);
        if (residual != nullptr) {
            const auto more = load<LENGTH>(residual + at * stride + channel);
#pragma unroll
            for (int j = 0; j < LENGTH; ++j) sums.at[j] += widen(more.at[j]);
        }
        return sums;
    }

    // For each chunk of y [n, p / side, q / side, stride].
    __device__ void run(T* y, i32 side, float low) const {
        const i32 high = p / side, wide = q / side, chunks = stride / LENGTH;
        each(i64(n) * high * wide * chunks, [&](i64 i) {
            const i32 place = i32(i) / chunks, channel = i32(i) % chunks * LENGTH;
            const i32 image = place / wide / high, row = place / wide % high * side, column = place % wide * side;
            Sums largest = pixel(image, row, column, channel);
            for (i32 other = 1; other < side * side; ++other) {
                const Sums sums = pixel(image, row + other / 2, column + other % 2, channel);
#pragma unroll
                for (int j = 0; j < LENGTH; ++j) largest.at[j] = max_nan(largest.at[j], sums.at[j]);
            }
            Pack<T, LENGTH> out;
#pragma unroll
            for (int j = 0; j < LENGTH; ++j) narrow(&out.at[j], max_nan(largest.at[j], low));
            clear_padding(out, channel, k);
            store(y + i * LENGTH, out);
        });
    }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(256) infer_conv2d_reduce_f32(const float* partials, const float* bias, const float* residual, float* y, i32 splits, i32 n, i32 p, i32 q, i32 k, i32 order, i32 relu, i32 pool) {
    Reduction<float>{partials, bias, residual, splits, n, p, q, k, order}.run(y, pool != 0 ? 2 : 1, least(relu != 0));
}

extern "C" __global__ void __launch_bounds__(256) infer_conv2d_reduce_bf16(const float* partials, const float* bias, const bf16* residual, bf16* y, i32 splits, i32 n, i32 p, i32 q, i32 k, i32 order, i32 relu, i32 pool) {
    Reduction<bf16>{partials, bias, residual, splits, n, p, q, k, order}.run(y, pool != 0 ? 2 : 1, least(relu != 0));
}

namespace {

// `source` null: column j is column j.
template <class T, class Convert>
__device__ inline void pack(const float* w, const i32* source, T* out, i64 rows, i32 from, i32 to, Convert convert) {
    each(rows * to, [&](i64 i) {
        const i32 j = i32(i % to), column = source != nullptr ? source[j] : j < from ? j : -1;
        narrow(out + i, column >= 0 ? convert(w[i / to * from + column]) : 0.0f);
    });
}

// A chunk of `out` at a time.
template <class T>
__device__ inline void gather(const T* x, const i32* channels, T* out, i64 rows, i32 from, i32 c, i32 to) {
    constexpr int LENGTH = 16 / int(sizeof(T));
    const i32 chunks = to / LENGTH;
    each(rows * chunks, [&](i64 i) {
        const T* const row = x + i / chunks * from;
        const i32 first = i32(i % chunks) * LENGTH;
        Pack<T, LENGTH> values = {};
#pragma unroll
        for (int j = 0; j < LENGTH; ++j)
            if (first + j < c) values.at[j] = row[channels[first + j]];
        store(out + i * LENGTH, values);
    });
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) infer_conv2d_pack_f32(const float* w, const i32* source, float* out, i64 rows, i32 from, i32 to) {
    pack(w, source, out, rows, from, to, [](float x) { return x; });
}

extern "C" __global__ void __launch_bounds__(256) infer_conv2d_pack_tf32(const float* w, const i32* source, float* out, i64 rows, i32 from, i32 to) {
    pack(w, source, out, rows, from, to, [](float x) { return __uint_as_float(f32_to_tf32(x)); });
}

extern "C" __global__ void __launch_bounds__(256) infer_conv2d_pack_bf16(const float* w, const i32* source, bf16* out, i64 rows, i32 from, i32 to) {
    pack(w, source, out, rows, from, to, [](float x) { return x; });
}

extern "C" __global__ void __launch_bounds__(256) infer_conv2d_gather_f32(const float* x, const i32* channels, float* out, i64 rows, i32 from, i32 c, i32 to) {
    gather(x, channels, out, rows, from, c, to);
}

extern "C" __global__ void __launch_bounds__(256) infer_conv2d_gather_bf16(const bf16* x, const i32* channels, bf16* out, i64 rows, i32 from, i32 c, i32 to) {
    gather(x, channels, out, rows, from, c, to);
}
