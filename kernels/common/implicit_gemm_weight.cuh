// dw[k, j] = sum_pixels dy[pixel, k] * x[pixel under column j], the sum along columns of both operands: weight
// gradients. Column j is a chunk of channels at a tap.
//
// A block of 4 warps computes FILTERS = 64, 32 or 16 filters (as few as there are) by 128 columns, each warp 32
// columns, over its split of the pixels; a step is 32 (bf16) or 16 pixels. Splits write partial sums that another
// kernel adds in order. Rows in shared memory are padded: by 16 bytes for ldmatrix.trans, by 32 for the 4-byte
// loads of tf32, so that neither conflicts.
#pragma once
#include "common/operand.cuh"

constexpr int MAX_FILTERS = 64;
constexpr int DW_COLUMNS = 128;
constexpr int WEIGHT_STAGE_BYTES = 13312;
using WeightStages = u8[STAGES][WEIGHT_STAGE_BYTES];

// Bytes from pixel to pixel in a tile of WIDTH elements.
template <class Mode, int WIDTH>
constexpr int PITCH = WIDTH * int(sizeof(typename Mode::T)) + (Mode::BF16 ? 16 : 32);

// The geometry; `chunks` and `filter_chunks` are those of a packed row of x and dy.
struct WeightGradient {
    i32 n, h, w, chunks, c;
    i32 p, q, filter_chunks, k;
    i32 r, s, stride, pad;
};

// Loads WIDTH filters of dy, STEP<Mode> pixels at a time.
template <class Mode, int WIDTH>
struct GradientRows {
    using T = typename Mode::T;
    static constexpr int PER_ROW = WIDTH / CHUNK<Mode>;
    static constexpr int ROWS_AT_ONCE = THREADS / PER_ROW;
    static constexpr int COUNT = (STEP<Mode> + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    // Which rows the eight lanes copy that write together: this far apart in each eight rows, they fill all banks.
    static constexpr int APART = PER_ROW >= 8 ? 1 : Mode::BF16 ? PER_ROW : 2;
    const T* dy;
    i32 pixels, chunks, chunk, pixel;

    __device__ GradientRows(const T* dy, const WeightGradient& g, i32 first_filter, i32 first_pixel)
        : dy(dy), pixels(g.n * g.p * g.q), chunks(g.filter_chunks),
          chunk(first_filter / CHUNK<Mode> + i32(threadIdx.x) % PER_ROW),
          pixel(first_pixel + row()) {}

    __device__ void load(u8* tile) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const int row = this->row() + i * ROWS_AT_ONCE;
            if (row >= STEP<Mode>) break;
            const i32 at = pixel + i * ROWS_AT_ONCE;
            const bool valid = at < pixels && chunk < chunks;
            cp_async16(tile + row * PITCH<Mode, WIDTH> + int(threadIdx.x) % PER_ROW * 16,
                       dy + (valid ? i64(at) * chunks + chunk : 0) * CHUNK<Mode>, valid);
        }
        pixel += STEP<Mode>;
    }

  private:
    // The first of this thread's rows.
    __device__ static int row() {
        const int at = int(threadIdx.x) / PER_ROW;
        return at / 8 * 8 + at % 8 * APART % 8 + at % 8 * APART / 8;
    }
};

// Loads the input pixels under 128 columns for the same output pixels.
template <class Mode>
struct InputRows {
    using T = typename Mode::T;
    static constexpr int PER_ROW = DW_COLUMNS / CHUNK<Mode>;
    static constexpr int ROWS_AT_ONCE = THREADS / PER_ROW;
    static constexpr int COUNT = STEP<Mode> / ROWS_AT_ONCE;
    const T* x;
    WeightGradient g;
    i32 chunk, row_offset, column_offset;
    bool inside;
    Odometer pixel;  // q, p, image of the first of this thread's rows

    __device__ InputRows(const T* x, const WeightGradient& g, i32 first_column, i32 first_pixel)
        : x(x), g(g), pixel(first_pixel + i32(threadIdx.x) / PER_ROW, ROWS_AT_ONCE, g.q, g.p) {
        const i32 column = first_column / CHUNK<Mode> + i32(threadIdx.x) % PER_ROW;
        const i32 tap = column / g.chunks;
        chunk = column % g.chunks;
        inside = tap < g.r * g.s;
        row_offset = tap / g.s - g.pad;
        column_offset = tap % g.s - g.pad;
    }

    __device__ void load(u8* tile) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const i32 h = pixel.digit[1] * g.stride + row_offset, w = pixel.digit[0] * g.stride + column_offset;
            const bool valid = inside && pixel.digit[2] < g.n && h >= 0 && h < g.h && w >= 0 && w < g.w;
            const i64 at = valid ? ((i64(pixel.digit[2]) * g.h + h) * g.w + w) * g.chunks + chunk : 0;
            const int row = int(threadIdx.x) / PER_ROW + i * ROWS_AT_ONCE;
            cp_async16(tile + row * PITCH<Mode, DW_COLUMNS> + int(threadIdx.x) % PER_ROW * 16,
                       x + at * CHUNK<Mode>, valid);
            pixel.advance();
        }
    }
};

// dw [k][taps][c] of one split. A column counts packed channels: tap * padded + c.
struct WeightOutput {
    float* dw;
    i32 k, columns, padded, taps, c;

    // Two neighbours of one tap, `column` even.
    __device__ void put(i32 filter, i32 column, float2 value) const {
        if (filter >= k || column >= columns) return;
        const i32 tap = column / padded, channel = column % padded;
        float* const at = dw + (i64(filter) * taps + tap) * c + channel;
        if (channel < c) at[0] = value.x;
        if (channel + 1 < c) at[1] = value.y;
    }
};

// The sums of FILTERS by a warp's 32 columns.
template <class Mode, int FILTERS>
struct WeightAccumulator {
    float4 sum[FILTERS / 16][4] = {};

    __device__ void step(const u8* a, const u8* b) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            uint2 columns[4];
            load_columns(b, half, columns);
#pragma unroll
            for (int i = 0; i < FILTERS / 16; ++i) {
                const uint4 rows = load_filters(a, half, i);
#pragma unroll
                for (int j = 0; j < 4; ++j) sum[i][j] = multiply<Mode>(rows, columns[j], sum[i][j]);
            }
        }
    }

    // To `output`, from filter k and column j on.
    __device__ void store(const WeightOutput& output, i32 k, i32 column) const {
        const int g = int(lane_id()) / 4, t = int(lane_id()) % 4;
#pragma unroll
        for (int i = 0; i < FILTERS / 16; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                output.put(k + 16 * i + g, column + 8 * j + 2 * t, make_float2(sum[i][j].x, sum[i][j].y));
                output.put(k + 16 * i + g + 8, column + 8 * j + 2 * t, make_float2(sum[i][j].z, sum[i][j].w));
            }
    }

  private:
    static constexpr int A_PITCH = PITCH<Mode, FILTERS>;
    static constexpr int B_PITCH = PITCH<Mode, DW_COLUMNS>;

    __device__ static uint4 load_filters(const u8* a, int half, int i) {
        const int lane = int(lane_id()), g = lane / 4, t = lane % 4;
        if constexpr (Mode::BF16) {
            const int pixel = 16 * half + lane / 16 * 8 + lane % 8;
            return ldmatrix_x4_trans(a + pixel * A_PITCH + (2 * i + lane / 8 % 2) * 16);
        } else {
            const u8* const at = a + (8 * half + t) * A_PITCH + (16 * i + g) * 4;
            return make_uint4(tf32(at), tf32(at + 32), tf32(at + 4 * A_PITCH), tf32(at + 4 * A_PITCH + 32));
        }
    }

    __device__ static void load_columns(const u8* b, int half, uint2 (&out)[4]) {
        const int lane = int(lane_id()), g = lane / 4, t = lane % 4, first = int(warp_id()) * 32;
        if constexpr (Mode::BF16) {
            const int pixel = 16 * half + lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const uint4 m = ldmatrix_x4_trans(b + pixel * B_PITCH + (first + 16 * j + lane / 16 * 8) * 2);
                out[2 * j] = make_uint2(m.x, m.y);
                out[2 * j + 1] = make_uint2(m.z, m.w);
            }
        } else {
            const u8* const at = b + (8 * half + t) * B_PITCH + (first + g) * 4;
#pragma unroll
            for (int j = 0; j < 4; ++j) out[j] = make_uint2(tf32(at + 32 * j), tf32(at + 4 * B_PITCH + 32 * j));
        }
    }

    __device__ static u32 tf32(const u8* at) { return f32_to_tf32(*reinterpret_cast<const float*>(at)); }
};

// On CUDA cores: a lane has FILTERS / 4 filters, four at a time, by 4 columns.
template <int FILTERS>
struct WeightAccumulator<F32, FILTERS> {
    float4 sum[FILTERS / 4] = {};

    __device__ void step(const u8* a, const u8* b) {
        const int lane = int(lane_id());
#pragma unroll 4
        for (int pixel = 0; pixel < STEP<F32>; ++pixel) {
            const float4 x = load(b + pixel * PITCH<F32, DW_COLUMNS> + (int(warp_id()) * 8 + lane % 8) * 16);
#pragma unroll
            for (int i = 0; i < FILTERS / 16; ++i) {
                const float4 dy = load(a + pixel * PITCH<F32, FILTERS> + (4 * i + lane / 8) * 16);
                add(sum[4 * i], dy.x, x);
                add(sum[4 * i + 1], dy.y, x);
                add(sum[4 * i + 2], dy.z, x);
                add(sum[4 * i + 3], dy.w, x);
            }
        }
    }

    __device__ void store(const WeightOutput& output, i32 k, i32 column) const {
        const int lane = int(lane_id());
#pragma unroll
        for (int i = 0; i < FILTERS / 4; ++i) {
            const i32 filter = k + i / 4 * 16 + lane / 8 * 4 + i % 4, first = column + lane % 8 * 4;
            output.put(filter, first, make_float2(sum[i].x, sum[i].y));
            output.put(filter, first + 2, make_float2(sum[i].z, sum[i].w));
        }
    }

  private:
    __device__ static float4 load(const u8* at) { return load_float4(at); }

    __device__ static void add(float4& sum, float dy, float4 x) {
        sum.x = fmaf(dy, x.x, sum.x);
        sum.y = fmaf(dy, x.y, sum.y);
        sum.z = fmaf(dy, x.z, sum.z);
        sum.w = fmaf(dy, x.w, sum.w);
    }
};

// The tile (blockIdx.x of columns, blockIdx.y of filters) over the split blockIdx.z of `steps` steps.
// partials: [splits][k][r * s][c].
template <class Mode, int FILTERS>
__device__ inline void weight_tile(WeightStages& stages, const typename Mode::T* dy, const typename Mode::T* x,
                                   float* partials, i32 steps, const WeightGradient& g) {
    const i32 filter = i32(blockIdx.y) * MAX_FILTERS, column = i32(blockIdx.x) * DW_COLUMNS;
    const i32 warp_column = column + i32(warp_id()) * 32, columns = g.r * g.s * g.chunks * CHUNK<Mode>;
    const i32 first = i32(blockIdx.z) * steps, pixels = g.n * g.p * g.q;
    steps = min(steps, (pixels + STEP<Mode> - 1) / STEP<Mode> - first);
    GradientRows<Mode, FILTERS> a(dy, g, filter, first * STEP<Mode>);
    InputRows<Mode> b(x, g, column, first * STEP<Mode>);
    constexpr int A_BYTES = STEP<Mode> * PITCH<Mode, FILTERS>;
    const WeightOutput output{partials + i64(blockIdx.z) * g.k * g.r * g.s * g.c, g.k, columns, g.chunks * CHUNK<Mode>, g.r * g.s, g.c};
    static_assert(A_BYTES + STEP<Mode> * PITCH<Mode, DW_COLUMNS> <= WEIGHT_STAGE_BYTES, "a stage holds both tiles");
    const auto load = [&](i32 step) {
        if (step < steps) {
            u8* const stage = stages[step % STAGES];
            a.load(stage);
            b.load(stage + A_BYTES);
        }
        cp_async_commit();
    };
    for (i32 step = 0; step < STAGES - 1; ++step) load(step);

    WeightAccumulator<Mode, FILTERS> accumulator;
    for (i32 step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // the stage that is filled next was read in the step before
        load(step + STAGES - 1);
        const u8* const stage = stages[step % STAGES];
        if (warp_column < columns) accumulator.step(stage, stage + A_BYTES);
    }
    accumulator.store(output, filter, warp_column);
}

// As few filters as there are: a pruned layer does not multiply zeros.
template <class Mode>
__device__ inline void weight_tile(WeightStages& stages, const typename Mode::T* dy, const typename Mode::T* x,
                                   float* partials, i32 steps, const WeightGradient& g) {
    const i32 rest = g.k - i32(blockIdx.y) * MAX_FILTERS;
    if (rest > 32) weight_tile<Mode, 64>(stages, dy, x, partials, steps, g);
    else if (rest > 16) weight_tile<Mode, 32>(stages, dy, x, partials, steps, g);
    else weight_tile<Mode, 16>(stages, dy, x, partials, steps, g);
}
