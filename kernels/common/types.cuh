// Scalar types and shared memory. The first include of every kernel.
//
// Kernels include files of this folder only, so that NVRTC needs no CUDA header. Each PTX instruction stands in
// one small function with its host twin beside it, under HOST_SHIM.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using i64 = long long;  // `long` has 32 bits on Windows
using u64 = unsigned long long;

// A bfloat16 as its bits: the upper half of an f32. Converted in convert.cuh.
struct bf16 {
    u16 bits;
};

#ifdef HOST_SHIM
namespace host {
template <unsigned long BYTES>
struct Whole {
    static constexpr bool EXISTS = false;
};
template <>
struct Whole<4> {
    static constexpr bool EXISTS = true;
    using Type = u32;
};
template <>
struct Whole<8> {
    static constexpr bool EXISTS = true;
    using Type = u64;
};
template <>
struct Whole<16> {
    static constexpr bool EXISTS = true;
    typedef u32 Type __attribute__((vector_size(16)));
};
}  // namespace host
#endif

// A struct at an address aligned to its size, in one access. Copied plainly it is one for the GPU too, where the size is
// 4, 8 or 16 bytes, but on the host one for each member: slower, and another count of bank conflicts.
template <class T>
__device__ inline T load_whole(const T* p) {
#ifdef HOST_SHIM
    using Whole = host::Whole<sizeof(T)>;
    if constexpr (Whole::EXISTS) return __builtin_bit_cast(T, *reinterpret_cast<const typename Whole::Type*>(p));
#endif
    return *p;
}

template <class T>
__device__ inline void store_whole(T* p, T value) {
#ifdef HOST_SHIM
    using Whole = host::Whole<sizeof(T)>;
    if constexpr (Whole::EXISTS) {
        *reinterpret_cast<typename Whole::Type*>(p) = __builtin_bit_cast(typename Whole::Type, value);
        return;
    }
#endif
    *p = value;
}

// Four floats at an address aligned to 16 bytes.
__device__ inline float4 load_float4(const void* p) { return load_whole(static_cast<const float4*>(p)); }

// SHARED(tile, float[32][33]);  a shared-memory array, aligned to 16 bytes, contents undefined.
// DYN_SHARED(float, tile);      a pointer to the launch's dynamic shared memory, aligned to 16 bytes.
// Plain `__shared__` does not compile on the host: the checks must see every shared object.
#ifdef HOST_SHIM
#define SHARED(name, ...)              \
    using name##_type = __VA_ARGS__;   \
    static const char name##_site = 0; \
    name##_type& name = *static_cast<name##_type*>(host::shared_object(&name##_site, sizeof(name##_type)))
#define DYN_SHARED(type, name) type* const name = static_cast<type*>(host::dynamic_shared())
#else
#define SHARED(name, ...)            \
    using name##_type = __VA_ARGS__; \
    __shared__ __align__(16) name##_type name
#define DYN_SHARED(type, name)                                      \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    type* const name = reinterpret_cast<type*>(dynamic_shared)
#endif
