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

// Four floats at an address aligned to 16 bytes. One load on the host too, where copying the struct would be four.
__device__ inline float4 load_float4(const void* p) {
#ifdef HOST_SHIM
    typedef float Vector __attribute__((vector_size(16)));
    const Vector v = *static_cast<const Vector*>(p);
    return make_float4(v[0], v[1], v[2], v[3]);
#else
    return *static_cast<const float4*>(p);
#endif
}

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
