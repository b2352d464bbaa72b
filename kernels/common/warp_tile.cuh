// The part of a matrix product that one warp computes: ROWS x COLUMNS sums in its registers.
//
// Operands stand in shared memory in rows of 64 bytes, a step of the sum. A row's four chunks stand at
// `chunk ^ (row / 2 % 4)`: eight consecutive rows of one chunk lie in eight different bank groups, so neither
// ldmatrix nor the float4 loads of the f32 path conflict, and nothing is padded.
#pragma once
#include "common/operand.cuh"

constexpr int ROW_BYTES = 64;

__device__ inline int swizzled(int row, int chunk) { return row * ROW_BYTES + ((chunk ^ (row / 2 % 4)) * 16); }

// On tensor cores: 16 x 8 tiles.
template <class Mode, int ROWS, int COLUMNS>
struct WarpTile {
    using Value = float2;
    float4 sum[ROWS / 16][COLUMNS / 8] = {};

    // Adds a step. `a`, `b`: the warp's first row and its first column, numbers that are multiples of 8.
    __device__ void step(const u8* a, const u8* b) {
        half<0>(a, b);
        half<1>(a, b);
    }

    // One of the two halves of a step. ROUNDED: `b` holds tf32 already.
    template <int HALF, bool ROUNDED = false>
    __device__ void half(const u8* a, const u8* b) {
        const int lane = int(lane_id());
        // Two chunks on is 32 bytes on or back; 16 rows on leaves a chunk in its place.
        a += swizzled(lane % 16, lane / 16) ^ (32 * HALF);
        b += swizzled(lane / 16 * 8 + lane % 8, lane / 8 % 2) ^ (32 * HALF);
        uint4 rows[ROWS / 16];
#pragma unroll
        for (int i = 0; i < ROWS / 16; ++i) {
            rows[i] = ldmatrix_x4(a + 16 * i * ROW_BYTES);
            if constexpr (Mode::TF32) rows[i] = round_tf32(rows[i]);
        }
#pragma unroll
        for (int j = 0; j < COLUMNS / 16; ++j) {
            uint4 columns = ldmatrix_x4(b + 16 * j * ROW_BYTES);
            if constexpr (Mode::TF32 && !ROUNDED) columns = round_tf32(columns);
#pragma unroll
            for (int i = 0; i < ROWS / 16; ++i) {
                sum[i][2 * j] = multiply<Mode>(rows[i], make_uint2(columns.x, columns.y), sum[i][2 * j]);
                sum[i][2 * j + 1] = multiply<Mode>(rows[i], make_uint2(columns.z, columns.w), sum[i][2 * j + 1]);
            }
        }
    }

    // Sets each sum to f(column), two neighbouring columns at a time.
    template <class F>
    __device__ void fill(const F& f) {
#pragma unroll
        for (int j = 0; j < COLUMNS / 8; ++j) {
            const float2 value = f(8 * j + int(lane_id()) % 4 * 2);
#pragma unroll
            for (int i = 0; i < ROWS / 16; ++i) sum[i][j] = make_float4(value.x, value.y, value.x, value.y);
        }
    }

    // Adds f(row, column) to the sums, two neighbouring columns at a time, of the rows that exist(row).
    template <class Exist, class F>
    __device__ void add(const Exist& exist, const F& f) {
        const int g = int(lane_id()) / 4, t = int(lane_id()) % 4;
#pragma unroll
        for (int i = 0; i < ROWS / 16; ++i) {
            if (exist(16 * i + g))
#pragma unroll
                for (int j = 0; j < COLUMNS / 8; ++j) {
                    const float2 more = f(16 * i + g, 8 * j + 2 * t);
                    sum[i][j].x += more.x, sum[i][j].y += more.y;
                }
            if (exist(16 * i + g + 8))
#pragma unroll
                for (int j = 0; j < COLUMNS / 8; ++j) {
                    const float2 more = f(16 * i + g + 8, 8 * j + 2 * t);
                    sum[i][j].z += more.x, sum[i][j].w += more.y;
                }
        }
    }

    // f(row, column, float2) for this lane's sums.
    template <class F>
    __device__ void each(const F& f) const {
        const int g = int(lane_id()) / 4, t = int(lane_id()) % 4;
#pragma unroll
        for (int j = 0; j < COLUMNS / 8; ++j)
#pragma unroll
            for (int i = 0; i < ROWS / 16; ++i) {
                f(16 * i + g, 8 * j + 2 * t, make_float2(sum[i][j].x, sum[i][j].y));
                f(16 * i + g + 8, 8 * j + 2 * t, make_float2(sum[i][j].z, sum[i][j].w));
            }
    }

    // f(quad, column, float2[4]) where the rows 8 i + quad % 8 of each 32 are a quad: all four lie in one lane.
    template <class F>
    __device__ void each_quad(const F& f) const {
        const int g = int(lane_id()) / 4, t = int(lane_id()) % 4;
#pragma unroll
        for (int j = 0; j < COLUMNS / 8; ++j)
#pragma unroll
            for (int i = 0; i < ROWS / 16; i += 2) {
                const float4 upper = sum[i][j], lower = sum[i + 1][j];
                const float2 quad[4] = {make_float2(upper.x, upper.y), make_float2(upper.z, upper.w),
                                        make_float2(lower.x, lower.y), make_float2(lower.z, lower.w)};
                f(4 * i + g, 8 * j + 2 * t, quad);
            }
    }
};

// The same on CUDA cores: a lane has rows 4 i + lane / 8 and columns 8 j + lane % 8.
template <int ROWS, int COLUMNS>
struct WarpTile<F32, ROWS, COLUMNS> {
    using Value = float;
    float sum[ROWS / 4][COLUMNS / 8] = {};

    __device__ void step(const u8* a, const u8* b) { chunks(a, b, 0, 4); }

    template <int HALF, bool ROUNDED = false>
    __device__ void half(const u8* a, const u8* b) {
        chunks(a, b, 2 * HALF, 2 * HALF + 2);
    }

    // Sets each sum to f(column).
    template <class F>
    __device__ void fill(const F& f) {
#pragma unroll
        for (int j = 0; j < COLUMNS / 8; ++j) {
            const float value = f(8 * j + int(lane_id()) % 8);
#pragma unroll
            for (int i = 0; i < ROWS / 4; ++i) sum[i][j] = value;
        }
    }

    // Adds f(row, column) to the sums of the rows that exist(row).
    template <class Exist, class F>
    __device__ void add(const Exist& exist, const F& f) {
        const int lane = int(lane_id());
#pragma unroll
        for (int i = 0; i < ROWS / 4; ++i) {
            if (!exist(4 * i + lane / 8)) continue;
#pragma unroll
            for (int j = 0; j < COLUMNS / 8; ++j) sum[i][j] += f(4 * i + lane / 8, 8 * j + lane % 8);
        }
    }

    // f(row, column, float).
    template <class F>
    __device__ void each(const F& f) const {
        const int lane = int(lane_id());
#pragma unroll
        for (int i = 0; i < ROWS / 4; ++i)
#pragma unroll
            for (int j = 0; j < COLUMNS / 8; ++j) f(4 * i + lane / 8, 8 * j + lane % 8, sum[i][j]);
    }

    // f(quad, column, float[4]).
    template <class F>
    __device__ void each_quad(const F& f) const {
        const int lane = int(lane_id());
#pragma unroll
        for (int i = 0; i < ROWS / 16; ++i)
#pragma unroll
            for (int j = 0; j < COLUMNS / 8; ++j) {
                const int first = i / 2 * 8 + i % 2;
                const float quad[4] = {sum[first][j], sum[first + 2][j], sum[first + 4][j], sum[first + 6][j]};
                f(4 * i + lane / 8, 8 * j + lane % 8, quad);
            }
    }

  private:
    __device__ void chunks(const u8* a, const u8* b, int from, int end) {
        const int lane = int(lane_id());
#pragma unroll 1  // the registers of one chunk at a time
        for (int chunk = from; chunk < end; ++chunk) {
            float4 columns[COLUMNS / 8];
#pragma unroll
            for (int j = 0; j < COLUMNS / 8; ++j) columns[j] = load_float4(b + swizzled(8 * j + lane % 8, chunk));
#pragma unroll
            for (int i = 0; i < ROWS / 4; ++i) {
                const float4 row = load_float4(a + swizzled(4 * i + lane / 8, chunk));
#pragma unroll
                for (int j = 0; j < COLUMNS / 8; ++j) sum[i][j] = dot(row, columns[j], sum[i][j]);
            }
        }
    }

    __device__ static float dot(float4 a, float4 b, float c) {
        return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, c))));
    }
};
