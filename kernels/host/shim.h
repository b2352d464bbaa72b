// What NVRTC brings by itself, for g++: included before every kernel that is compiled for the host.
//
// Kernels are instrumented (`-fsanitize=thread`, a part of `undefined`) and call the hooks of hooks.cpp at each load
// and store. What stands here is only what kernels/common/*.cuh and the kernels need; the rest fails to compile.
#pragma once

#define HOST_SHIM 1

#define __global__ __attribute__((noinline))
// Always inlined, as NVRTC does: what a function gets by reference stays in registers, and unhooked.
#define __device__ __attribute__((always_inline))
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

// For the twin of an instruction: never inlined, not instrumented, so that its operands stay out of memory.
#define HOST_TWIN __attribute__((noinline, no_sanitize("thread", "undefined")))

// In a twin: the place of the call.
#define HOST_PC __builtin_return_address(0)

// For a wrapper: always inlined, so that a message names the kernel's line and not the wrapper's alone.
#define HOST_INLINE inline __attribute__((always_inline))

using size_t = decltype(sizeof(0));

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace host {

// Where a meeting point stands in the source: its identity, because inlining and unrolling duplicate addresses.
struct Site {
    const char* file;
    int line;
    const void* pc;  // for messages, where the call stands in a wrapper

    constexpr bool operator==(const Site& other) const { return line == other.line && file == other.file; }
    constexpr bool operator!=(const Site& other) const { return !(*this == other); }
    constexpr Site at(const void* address) const { return {file, line, address}; }
};
constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line, nullptr}; }

// `const`: a fiber keeps its identity. One function for each number, so that the compiler calls once and hoists it.
#define HOST_CONST __attribute__((const))
unsigned thread_x() HOST_CONST;
unsigned thread_y() HOST_CONST;
unsigned thread_z() HOST_CONST;
unsigned block_x() HOST_CONST;
unsigned block_y() HOST_CONST;
unsigned block_z() HOST_CONST;
unsigned block_dim_x() HOST_CONST;
unsigned block_dim_y() HOST_CONST;
unsigned block_dim_z() HOST_CONST;
unsigned grid_dim_x() HOST_CONST;
unsigned grid_dim_y() HOST_CONST;
unsigned grid_dim_z() HOST_CONST;

// One object of shared memory of this block, the same for each thread that passes the same `id`.
void* shared_object(const void* id, size_t bytes);
void* dynamic_shared();

void barrier(Site site);
// Waits for the lanes of `mask`; the last to arrive calls `run` with the payload of each lane.
void meet(void (*run)(void* const* lanes, unsigned mask), void* payload, unsigned mask, const char* what, Site site);
void sync_warp(unsigned mask, Site site);
struct ShuffleLane {
    unsigned long long value, out;
    unsigned source;  // a lane, perhaps one outside the mask
};
void shuffle(void* const* lanes, unsigned mask);
// 16 bytes that `lane` passed to ldmatrix at `pc`, checked like a load of that thread.
void read_matrix_row(void* out, const void* row, unsigned lane, const void* pc);

// Ends the launch: `lane` passed what an instruction does not take.
[[noreturn]] void reject(unsigned lane, const char* what);

void copy_async(void* shared, const void* global, unsigned bytes, bool valid);
void copy_commit();
void copy_wait(unsigned pending);

enum class Atomic { Add, Inc, Max, Min, Or };
unsigned atomic_u32(unsigned* p, unsigned value, Atomic op);
unsigned long long atomic_add_u64(unsigned long long* p, unsigned long long value);
void thread_fence();

// A kernel as the launcher sees it: the letters of its parameters' types and a call from 8-byte words.
template <class A>
constexpr char letter() {
    if constexpr (__is_same(A, int)) return 'i';
    else if constexpr (__is_same(A, unsigned)) return 'u';
    else if constexpr (__is_same(A, long long)) return 'l';
    else if constexpr (__is_same(A, unsigned long long)) return 'm';
    else if constexpr (__is_same(A, float)) return 'f';
    else {
        static_assert(sizeof(A) == 8 && __is_same(decltype(*A()), decltype(*A())),
                      "a kernel takes pointers, i32, u32, i64, u64 and f32");
        return 'p';
    }
}

template <auto F>
struct Trampoline;

template <class... A, void (*F)(A...)>
struct Trampoline<F> {
    static constexpr char signature[] = {letter<A>()..., 0};

    template <unsigned... I>
    struct Indices {};

    HOST_TWIN static void run(const unsigned long long* words) { call(words, __make_indices()); }

  private:
    template <unsigned N, unsigned... I>
    struct Make : Make<N - 1, N - 1, I...> {};
    template <unsigned... I>
    struct Make<0, I...> {
        using type = Indices<I...>;
    };
    static typename Make<sizeof...(A)>::type __make_indices() { return {}; }

    template <unsigned... I>
    HOST_TWIN static void call(const unsigned long long* words, Indices<I...>) {
        F(*reinterpret_cast<const A*>(words + I)...);
    }
};

constexpr unsigned UNKNOWN = ~0u;

struct Kernel {
    const char* name;
    const char* signature;
    unsigned max_threads;
    unsigned registers;      // a thread's, the most of any architecture; 0 where docs/kernels.txt has no line for it
    unsigned static_shared;  // bytes, or UNKNOWN for a kernel of the tests
    void (*run)(const unsigned long long* words);
};

// The first argument of `__launch_bounds__`; 1024 where a kernel has none.
constexpr unsigned max_threads(unsigned threads = 1024, unsigned = 0, unsigned = 0) { return threads; }

}  // namespace host

#define threadIdx (uint3{host::thread_x(), host::thread_y(), host::thread_z()})
#define blockIdx (uint3{host::block_x(), host::block_y(), host::block_z()})
#define blockDim (dim3{host::block_dim_x(), host::block_dim_y(), host::block_dim_z()})
#define gridDim (dim3{host::grid_dim_x(), host::grid_dim_y(), host::grid_dim_z()})

HOST_INLINE void __syncthreads(host::Site site = host::here()) { host::barrier(site); }
HOST_INLINE void __syncwarp(unsigned mask = 0xFFFFFFFFu, host::Site site = host::here()) {
    host::sync_warp(mask, site);
}
template <class T>
inline T __ldg(const T* p) {
    return *p;
}
