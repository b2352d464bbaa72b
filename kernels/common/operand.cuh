// How a matrix product multiplies: the types of its operands and their 16-byte chunks, by mode.
//
// Operands lie in memory in rows of whole chunks. A step of the sum takes 64 bytes of each row: 4 chunks, which is
// 32 bf16 or 16 f32. `tf32` reads plain f32 and rounds when a fragment is loaded.
#pragma once
#include "common/async_copy.cuh"
#include "common/convert.cuh"
#include "common/mma.cuh"
#include "common/warp.cuh"

struct F32 {
    using T = float;
    static constexpr bool TF32 = false, BF16 = false;
};
struct Tf32 {
    using T = float;
    static constexpr bool TF32 = true, BF16 = false;
};
struct Bf16 {
    using T = bf16;
    static constexpr bool TF32 = false, BF16 = true;
};

constexpr int THREADS = 128;
constexpr int STAGES = 3;

// Elements of a chunk, and of a step.
template <class Mode>
constexpr int CHUNK = 16 / int(sizeof(typename Mode::T));
template <class Mode>
constexpr int STEP = 4 * CHUNK<Mode>;

__device__ inline uint4 round_tf32(uint4 a) {
    return make_uint4(f32_to_tf32(__uint_as_float(a.x)), f32_to_tf32(__uint_as_float(a.y)),
                      f32_to_tf32(__uint_as_float(a.z)), f32_to_tf32(__uint_as_float(a.w)));
}

// 32 bytes of the sum: two chunks of each row.
template <class Mode>
__device__ inline float4 multiply(uint4 a, uint2 b, float4 c) {
    if constexpr (Mode::BF16) return mma_m16n8k16_bf16(a, b, c);
    else return mma_m16n8k8_tf32(a, b, c);
}

// A position counted in three digits, the first the fastest: (j, j / extent0, j / extent0 / extent1). Advanced by a
// constant without a division.
struct Odometer {
    i32 digit[3];
    i32 step[3];
    i32 extent[2];

    __device__ Odometer(i32 start, i32 by, i32 extent0, i32 extent1) : extent{extent0, extent1} {
        split(start, digit);
        split(by, step);
    }

    __device__ void advance() {
        digit[0] += step[0];
        digit[1] += step[1];
        digit[2] += step[2];
        if (digit[0] >= extent[0]) digit[0] -= extent[0], ++digit[1];
        if (digit[1] >= extent[1]) digit[1] -= extent[1], ++digit[2];
    }

  private:
    __device__ void split(i32 value, i32 (&out)[3]) const {
        out[0] = value % extent[0];
        value /= extent[0];
        out[1] = value % extent[1];
        out[2] = value / extent[1];
    }
};
