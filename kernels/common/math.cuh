// The arithmetic that kernels may use besides + - * /.
//
// Exact on every device (IEEE, one rounding): fmaf, sqrtf, fminf, fmaxf, fabsf, floorf, ceilf, rintf, truncf,
// copysignf, and the bit casts. Kernels are built without contraction (`--fmad=false`, `-ffp-contract=off`), so
// that these and + - * / give the bits of the CPU path, NaNs aside: a GPU's arithmetic makes each of them 0x7FFFFFFF.
// `// nvrtc: fmad` in a file's header gives that up.
// Not exact: expf, exp2f, expm1f, logf, log2f, log1pf, powf, tanhf, rsqrtf differ by some ulp between devices.
// `min` and `max` of integers and floats are NVRTC's own.
#pragma once
#include "common/types.cuh"

#ifdef HOST_SHIM

// noexcept as in glibc's own header.
extern "C" {
float fmaf(float, float, float) noexcept;
float sqrtf(float) noexcept;
float fabsf(float) noexcept;
float floorf(float) noexcept;
float ceilf(float) noexcept;
float rintf(float) noexcept;
float truncf(float) noexcept;
float copysignf(float, float) noexcept;
float expf(float) noexcept;
float exp2f(float) noexcept;
float expm1f(float) noexcept;
float logf(float) noexcept;
float log2f(float) noexcept;
float log1pf(float) noexcept;
float powf(float, float) noexcept;
float tanhf(float) noexcept;
}

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }

inline u32 __float_as_uint(float x) { return __builtin_bit_cast(u32, x); }
inline float __uint_as_float(u32 x) { return __builtin_bit_cast(float, x); }
inline i32 __float_as_int(float x) { return __builtin_bit_cast(i32, x); }
inline float __int_as_float(i32 x) { return __builtin_bit_cast(float, x); }
// As `min.f32` and `max.f32`: -0 is less than +0, which libm leaves open; a number wins over a NaN.
inline float fminf(float a, float b) {
    if (isnan(a) || isnan(b)) return !isnan(a) ? a : !isnan(b) ? b : __uint_as_float(0x7FFFFFFF);
    if (a == b) return __uint_as_float(__float_as_uint(a) | __float_as_uint(b));
    return a < b ? a : b;
}
inline float fmaxf(float a, float b) {
    if (isnan(a) || isnan(b)) return !isnan(a) ? a : !isnan(b) ? b : __uint_as_float(0x7FFFFFFF);
    if (a == b) return __uint_as_float(__float_as_uint(a) & __float_as_uint(b));
    return a > b ? a : b;
}
inline u32 __umulhi(u32 a, u32 b) { return u32((u64(a) * b) >> 32); }

inline i32 min(i32 a, i32 b) { return a < b ? a : b; }
inline i32 max(i32 a, i32 b) { return a > b ? a : b; }
inline u32 min(u32 a, u32 b) { return a < b ? a : b; }
inline u32 max(u32 a, u32 b) { return a > b ? a : b; }
inline i64 min(i64 a, i64 b) { return a < b ? a : b; }
inline i64 max(i64 a, i64 b) { return a > b ? a : b; }
inline u64 min(u64 a, u64 b) { return a < b ? a : b; }
inline u64 max(u64 a, u64 b) { return a > b ? a : b; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

#endif

// Bits set, leading zeros (32 for 0), and the lowest bit's position counted from 1 (0 for 0).
__device__ inline u32 popc(u32 x) {
#ifdef HOST_SHIM
    return u32(__builtin_popcount(x));
#else
    return u32(__popc(x));
#endif
}

__device__ inline u32 clz(u32 x) {
#ifdef HOST_SHIM
    return x == 0 ? 32 : u32(__builtin_clz(x));
#else
    return u32(__clz(int(x)));
#endif
}

__device__ inline u32 ffs(u32 x) {
#ifdef HOST_SHIM
    return u32(__builtin_ffs(int(x)));
#else
    return u32(__ffs(int(x)));
#endif
}

// The larger one, +0 of +0 and -0, or the NaN 0x7FFFFFFF where one is a NaN: fmaxf drops it.
__device__ inline float max_nan(float a, float b) {
#ifdef HOST_SHIM
    return isnan(a) || isnan(b) ? __uint_as_float(0x7FFFFFFF) : fmaxf(a, b);
#else
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
#endif
}
