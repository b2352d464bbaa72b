// Checks of one access, shared by the hooks and by the twins that touch memory.
#pragma once
#include "memory.h"

namespace host {

// A local variable, a kernel argument or a constant of the program: nothing of the device.
inline bool is_private(const Worker& w, u64 address, bool store) {
    return address - w.stacks < MAX_THREADS * STACK_STRIDE ||
           (!store && address - memory.image_begin < memory.image_end - memory.image_begin);
}

[[noreturn]] void outside(Worker& w, u32 thread, u64 address, u32 bytes, bool store, const void* pc);

// `thread` may be another than the running one: ldmatrix reads for each lane.
inline __attribute__((always_inline)) void check_access(Worker& w, u32 thread, u64 address, u32 bytes, bool store,
                                                        const void* pc) {
    const u64 offset = address - w.shared_base, global = address - memory.base;
    if (offset < ARENA_BYTES) {
        if (offset + bytes > w.shared_end) outside(w, thread, address, bytes, store, pc);
    } else if (global < memory.bytes) {
        if (global % GRANULE + bytes > memory.granules[global / GRANULE].valid)
            outside(w, thread, address, bytes, store, pc);
    } else if (!is_private(w, address, store)) {
        outside(w, thread, address, bytes, store, pc);
    }
}

}  // namespace host
