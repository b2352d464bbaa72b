// The check of one access, for the hooks and for the twins that touch memory.
#pragma once
#include "marks.h"

namespace host {

inline bool is_local(const Worker& w, u64 address) { return address - w.stacks < MAX_THREADS * STACK_STRIDE; }

// A local variable, a kernel argument or a constant of the program: nothing of the device.
inline bool is_private(const Worker& w, u64 address, Access access) {
    return is_local(w, address) ||
           (access == Access::Load && address - memory.image_begin < memory.image_end - memory.image_begin);
}

// `thread` may be another than the running one: ldmatrix loads for each lane.
template <Access ACCESS>
inline __attribute__((always_inline)) void check_access(Worker& w, u32 thread, u64 address, u32 bytes, const void* pc) {
    const u64 offset = address - w.shared_base, at = address - memory.base;
    if (offset < ARENA_BYTES) shared_access<ACCESS>(w, thread, u32(offset), bytes, pc);
    else if (at < memory.bytes) global_access<ACCESS>(w, thread, at, bytes, pc);
    else if (!is_private(w, address, ACCESS)) outside(w, thread, address, bytes, ACCESS, pc);
}

}  // namespace host
