// Integer atomics on global or shared memory, and the fence that publishes a block's stores and lets it see others'.
//
// There is no float atomic: sums in an order that changes from run to run would break determinism.
// A block that reads what other blocks stored in the same launch must follow the pattern
// store; thread_fence(); barrier; one thread: atomic; barrier. The block whose atomic says it is the last may read once
// each of its reading threads has passed another thread_fence(): atomics are relaxed, and a barrier orders the threads
// of one block, so without that fence a read may find what was there before another block's store.
//
// Source: PTX ISA, "Memory Consistency Model", release and acquire patterns: a fence on each side of the two atomics.
#pragma once
#include "common/types.cuh"

#ifdef HOST_SHIM

HOST_INLINE u32 atomic_add_u32(u32* p, u32 value) { return host::atomic_u32(p, value, host::Atomic::Add); }
HOST_INLINE i32 atomic_add_i32(i32* p, i32 value) {
    return i32(host::atomic_u32(reinterpret_cast<u32*>(p), u32(value), host::Atomic::Add));
}
HOST_INLINE u64 atomic_add_u64(u64* p, u64 value) { return host::atomic_add_u64(p, value); }
HOST_INLINE u32 atomic_inc(u32* p, u32 limit) { return host::atomic_u32(p, limit, host::Atomic::Inc); }
HOST_INLINE u32 atomic_max_u32(u32* p, u32 value) { return host::atomic_u32(p, value, host::Atomic::Max); }
HOST_INLINE u32 atomic_min_u32(u32* p, u32 value) { return host::atomic_u32(p, value, host::Atomic::Min); }
HOST_INLINE u32 atomic_or_u32(u32* p, u32 value) { return host::atomic_u32(p, value, host::Atomic::Or); }
HOST_INLINE void thread_fence() { host::thread_fence(); }

#else

// Each returns the old value.
__device__ inline u32 atomic_add_u32(u32* p, u32 value) { return atomicAdd(p, value); }
__device__ inline i32 atomic_add_i32(i32* p, i32 value) { return atomicAdd(p, value); }
__device__ inline u64 atomic_add_u64(u64* p, u64 value) { return atomicAdd(p, value); }
// old >= limit ? 0 : old + 1
__device__ inline u32 atomic_inc(u32* p, u32 limit) { return atomicInc(p, limit); }
__device__ inline u32 atomic_max_u32(u32* p, u32 value) { return atomicMax(p, value); }
__device__ inline u32 atomic_min_u32(u32* p, u32 value) { return atomicMin(p, value); }
__device__ inline u32 atomic_or_u32(u32* p, u32 value) { return atomicOr(p, value); }
__device__ inline void thread_fence() { __threadfence(); }

#endif
