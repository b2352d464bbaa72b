// Conversions to and from bf16 and tf32. The host twins give the same bits, those of NaNs too.
#pragma once
#include "common/math.cuh"

// Round to nearest, ties to even; a NaN becomes 0x7FFF.
__device__ inline bf16 f32_to_bf16(float x) {
    bf16 y;
#ifdef HOST_SHIM
    const u32 bits = __float_as_uint(x);
    y.bits = isnan(x) ? u16(0x7FFF) : u16((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
#else
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#endif
    return y;
}

// Exact.
__device__ inline float bf16_to_f32(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }

// Two bf16 in one register, `lo` in the lower half: the element with the smaller index.
__device__ inline u32 pack_bf16x2(float lo, float hi) {
#ifdef HOST_SHIM
    return u32(f32_to_bf16(lo).bits) | (u32(f32_to_bf16(hi).bits) << 16);
#else
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
    return y;
#endif
}

// An f32 rounded to tf32 (10 bits of mantissa), ties away from zero: what `mma_m16n8k8_tf32` wants. The 13 lowest bits
// are 0, also of a NaN: one that has no others becomes an infinity.
__device__ inline u32 f32_to_tf32(float x) {
#ifdef HOST_SHIM
    const u32 bits = __float_as_uint(x);
    return (isfinite(x) ? bits + 0x1000 : bits) & 0xFFFFE000;
#else
    u32 y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
#endif
}
