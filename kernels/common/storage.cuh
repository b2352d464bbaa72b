// Values of a storage type, f32 or bf16, to and from f32.
#pragma once
#include "common/convert.cuh"

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(bf16 x) { return bf16_to_f32(x); }
__device__ inline void narrow(float* to, float x) { *to = x; }
__device__ inline void narrow(bf16* to, float x) { *to = f32_to_bf16(x); }

// One value, or two neighbours of which the first has an even number.
__device__ inline void widen(const float* from, float& x) { x = *from; }
__device__ inline void widen(const float* from, float2& x) { x = load_whole(reinterpret_cast<const float2*>(from)); }
__device__ inline void widen(const bf16* from, float2& x) {
    const u32 bits = *reinterpret_cast<const u32*>(from);
    x = make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xFFFF0000u));
}
__device__ inline void narrow(float* to, float2 x) { store_whole(reinterpret_cast<float2*>(to), x); }
__device__ inline void narrow(bf16* to, float2 x) { *reinterpret_cast<u32*>(to) = pack_bf16x2(x.x, x.y); }
