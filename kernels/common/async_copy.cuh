// Copies from global to shared memory that bypass registers (`cp.async`).
//
// Both addresses are aligned to the size. Where `valid` is false nothing is read and zeros are stored. A copy is
// there after `cp_async_wait` in the thread that issued it, and for other threads after the next barrier. A thread that
// ends has waited for all of its copies, those of zeros too.
// On the host the target is poisoned at once and filled by the wait: stricter than the hardware, on purpose.
#pragma once
#include "common/types.cuh"

#ifdef HOST_SHIM

HOST_INLINE void cp_async16(void* shared, const void* global, bool valid) {
    host::copy_async(shared, global, 16, valid);
}
HOST_INLINE void cp_async16_cached(void* shared, const void* global, bool valid) {
    host::copy_async(shared, global, 16, valid);
}
HOST_INLINE void cp_async8(void* shared, const void* global, bool valid) { host::copy_async(shared, global, 8, valid); }
HOST_INLINE void cp_async4(void* shared, const void* global, bool valid) { host::copy_async(shared, global, 4, valid); }
inline void cp_async_commit() { host::copy_commit(); }

template <int PENDING>
inline void cp_async_wait() {
    host::copy_wait(PENDING);
}

#else

// 16 bytes, cached in L2 only.
__device__ inline void cp_async16(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(u32(__cvta_generic_to_shared(shared))),
                 "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}

// 16 bytes, cached in L1 too: for what this multiprocessor soon copies again.
__device__ inline void cp_async16_cached(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(u32(__cvta_generic_to_shared(shared))),
                 "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ inline void cp_async8(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(u32(__cvta_generic_to_shared(shared))),
                 "l"(global), "r"(valid ? 8 : 0)
                 : "memory");
}

__device__ inline void cp_async4(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(u32(__cvta_generic_to_shared(shared))),
                 "l"(global), "r"(valid ? 4 : 0)
                 : "memory");
}

// Ends a group of this thread's copies.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the PENDING newest groups of this thread are under way.
template <int PENDING>
__device__ inline void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

#endif
