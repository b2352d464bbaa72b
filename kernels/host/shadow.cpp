// What the checks do where something is wrong, or rare.
#include "access.h"

#include <string.h>

namespace host {

static const char* verb(Access access) {
    return access == Access::Load ? "load" : access == Access::Store ? "store" : "atomic";
}

// The object of shared memory that the offset lies in or behind.
static u32 within_object(const Worker& w, u32 offset) {
    u32 start = 0;
    for (u32 i = 0; i < w.object_count; ++i)
        if (w.objects[i].offset <= offset && w.objects[i].offset >= start) start = w.objects[i].offset;
    return offset - start;
}

void outside(Worker& w, u32 thread, u64 address, u32 bytes, Access access, const void* pc) {
    const u64 offset = address - w.shared_base;
    if (offset < ARENA_BYTES) {
        u32 size = 0;
        for (u32 i = 0; i < w.object_count; ++i)
            if (w.objects[i].offset <= offset) size = w.objects[i].bytes;
        fail(thread, at(pc), "%s of %u bytes at byte %u of a shared object of %u bytes", verb(access), bytes,
             within_object(w, u32(offset)), size);
    }
    const char* null = address < 4096 ? ": null pointer" : "";
    fail(thread, at(pc), "%s of %u bytes at 0x%llx, outside every allocation%s", verb(access), bytes, address, null);
}

void unwritten(Worker& w, const Cell& cell, u32 thread, u32 offset, const void* pc) {
    const u32 byte = within_object(w, offset);
    if (cell.wrote_at >= w.start)
        fail(thread, at(pc), "load of shared byte %u while the cp.async of thread %u into it is under way", byte,
             cell.writer);
    fail(thread, at(pc), "load of shared byte %u that nobody wrote", byte);
}

void shared_race(Worker& w, u32 thread, u32 other, u32 offset, Access access, const char* before, u32 before_pc,
                 const void* pc) {
    fail(thread, at(pc), "%s of shared byte %u that thread %u %s ({pc %llx|?}) with no barrier between", verb(access),
         within_object(w, offset), other, before, memory.image_begin + before_pc - 1);
}

void global_race(Worker& w, u32 thread, u64 address, u64 mark, Access access, bool after_load, const void* pc) {
    const u64 block = (after_load ? mark >> 20 & BLOCK_MASK : mark & BLOCK_MASK) - 1;
    const char* before = after_load ? "loaded" : "stored";
    if (!after_load && block == w.block)
        fail(thread, at(pc),
             "%s of global memory at 0x%llx that thread %u of this block %s with no barrier between: race",
             verb(access), address, u32(mark >> 40 & 1023), before);
    if (block + 1 == MANY)
        fail(thread, at(pc), "%s of global memory at 0x%llx that other blocks %s: race between blocks", verb(access),
             address, before);
    fail(thread, at(pc), "%s of global memory at 0x%llx that block %llu %s: race between blocks", verb(access), address,
         block, before);
}

void refresh(Granule& granule, u64* marks, u32 epoch) {
    for (;;) {
        u32 seen = __atomic_load_n(&granule.epoch, __ATOMIC_ACQUIRE);
        if (seen == epoch) return;
        if (seen == CLEARING) continue;
        if (!__atomic_compare_exchange_n(&granule.epoch, &seen, CLEARING, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            continue;
        memset(marks, 0, GRANULE / 4 * sizeof(u64));
        __atomic_store_n(&granule.epoch, epoch, __ATOMIC_RELEASE);
        return;
    }
}

void mark_copying(Worker& w, u32 offset, u32 bytes) {
    for (u32 i = offset; i < offset + bytes; i += 4) {
        Cell& word = w.words[i / 4];
        if (!is_split(w, word)) {
            word.flags = CELL_COPYING;
            continue;
        }
        for (u32 k = 0; k < 4; ++k) w.bytes[i + k].flags = CELL_COPYING;
    }
}

}  // namespace host
