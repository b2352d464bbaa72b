// Global memory: races between the blocks of a launch, and between threads of a block with no meeting between.
//
// One 64-bit mark per word, of the launch that its granule's epoch names:
//   0-19 writing block + 1   20-39 reading block + 1, or MANY   40-49 writing thread   50-53 its meetings so far, at
//   most 15   54-57 bytes written   58 several writers, of different bytes   59 written by an atomic
// A thread may use what another block wrote once that one has fenced and made an atomic, and its own block has made an
// atomic, behind which the thread has fenced.
#pragma once
#include "shadow.h"

namespace host {

constexpr u64 BLOCK_MASK = (1 << 20) - 1, MANY = BLOCK_MASK;
constexpr u64 MARK_SEVERAL = 1ull << 58, MARK_ATOMIC = 1ull << 59;
constexpr u32 CLEARING = 0xFFFFFFFF;

[[noreturn]] void global_race(Worker& w, u32 thread, u64 address, u64 mark, Access access, bool after_load,
                              const void* pc);

// Clears the marks of an earlier launch. Other OS threads of this launch wait for it.
void refresh(Granule& granule, u64* marks, u32 epoch);

inline bool published(const Worker& w, u32 thread, u64 block_plus_one) {
    return w.fibers[thread].acquired && __atomic_load_n(w.launch->released + (block_plus_one - 1), __ATOMIC_ACQUIRE) != 0;
}

// Whether an access of `bytes` (a mask) may follow the store that the mark tells of.
inline bool follows_store(const Worker& w, u64 mark, u32 thread, u64 bytes, bool atomic) {
    const u64 writer = mark & BLOCK_MASK;
    if (writer == 0 || (mark >> 54 & bytes) == 0 || (mark & MARK_SEVERAL) != 0) return true;
    if (atomic && (mark & MARK_ATOMIC) != 0) return true;
    if (writer != w.block + 1) return published(w, thread, writer);
    const u64 meetings = w.stamp - w.start;  // 15 stands for more
    return (mark >> 40 & 1023) == thread || (mark >> 50 & 15) != meetings || meetings >= 15;
}

// Replaces the mark unless another OS thread was faster; `mark` is then what that one left.
inline bool replace_mark(const Worker& w, u64* at, u64& mark, u64 next) {
    if (!w.alone) return __atomic_compare_exchange_n(at, &mark, next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    *at = next;
    return true;
}

inline __attribute__((always_inline)) void mark_load(Worker& w, u64* at, u32 thread, u64 address, u64 bytes,
                                                     const void* pc) {
    u64 mark = __atomic_load_n(at, __ATOMIC_RELAXED);
    const u64 me = w.block + 1;
    for (;;) {
        if (__builtin_expect((mark & BLOCK_MASK) != 0, 0) && !follows_store(w, mark, thread, bytes, false))
            global_race(w, thread, address, mark, Access::Load, false, pc);
        const u64 reader = mark >> 20 & BLOCK_MASK;
        if (reader == me || reader == MANY || bytes != 15) return;
        const u64 next = (mark & ~(BLOCK_MASK << 20)) | (reader == 0 ? me : MANY) << 20;
        if (replace_mark(w, at, mark, next)) return;
    }
}

inline __attribute__((always_inline)) void mark_store(Worker& w, u64* at, u32 thread, u64 address, u64 bytes,
                                                      bool atomic, const void* pc) {
    u64 mark = __atomic_load_n(at, __ATOMIC_RELAXED);
    const u64 me = w.block + 1, meetings = w.stamp - w.start < 15 ? w.stamp - w.start : 15;
    const u64 mine = me | u64(thread) << 40 | meetings << 50 | (atomic ? MARK_ATOMIC : 0);
    for (;;) {
        if ((mark & BLOCK_MASK) != 0 && !follows_store(w, mark, thread, bytes, atomic))
            global_race(w, thread, address, mark, atomic ? Access::Atomic : Access::Store, false, pc);
        const u64 reader = mark >> 20 & BLOCK_MASK;
        if (reader != 0 && reader != me && bytes == 15 &&
            !(reader == MANY ? w.fibers[thread].acquired : published(w, thread, reader)))
            global_race(w, thread, address, mark, atomic ? Access::Atomic : Access::Store, true, pc);
        const u64 others = mark >> 54 & 15 & ~bytes;  // bytes of an earlier store that stay
        const bool same = (mark & BLOCK_MASK) == me && (mark >> 40 & 1023) == thread && (mark & MARK_SEVERAL) == 0;
        const u64 next = mine | reader << 20 | (bytes | others) << 54 | (others != 0 && !same ? MARK_SEVERAL : 0);
        if (replace_mark(w, at, mark, next)) return;
    }
}

template <Access ACCESS>
inline __attribute__((always_inline)) void mark_word(Worker& w, u64* at, u32 thread, u64 address, u64 bytes,
                                                     const void* pc) {
    if constexpr (ACCESS == Access::Load) mark_load(w, at, thread, address, bytes, pc);
    else mark_store(w, at, thread, address, bytes, ACCESS == Access::Atomic, pc);
}

template <Access ACCESS>
inline __attribute__((always_inline)) void granule_access(Worker& w, u32 thread, u64 at, u32 bytes, const void* pc) {
    Granule& granule = memory.granules[at / GRANULE];
    if (__builtin_expect(at % GRANULE + bytes > granule.valid, 0))
        outside(w, thread, memory.base + at, bytes, ACCESS, pc);
    if (w.launch->released == nullptr) return;
    if (__builtin_expect(__atomic_load_n(&granule.epoch, __ATOMIC_ACQUIRE) != w.epoch, 0))
        refresh(granule, memory.marks + at / GRANULE * (GRANULE / 4), w.epoch);
    for (u64 i = at; i < at + bytes;) {
        const u64 first = i % 4, left = at + bytes - i, count = left < 4 - first ? left : 4 - first;
        mark_word<ACCESS>(w, memory.marks + i / 4, thread, memory.base + i, ((1ull << count) - 1) << first, pc);
        i += count;
    }
}

// A range that leaves its granule: only unaligned accesses and copied structs do.
template <Access ACCESS>
inline __attribute__((always_inline)) void global_access(Worker& w, u32 thread, u64 at, u32 bytes, const void* pc) {
    if (__builtin_expect(at % GRANULE + bytes <= GRANULE, 1)) {
        granule_access<ACCESS>(w, thread, at, bytes, pc);
        return;
    }
    for (u64 i = at; i < at + bytes;) {
        const u64 end = (i / GRANULE + 1) * GRANULE, stop = end < at + bytes ? end : at + bytes;
        granule_access<ACCESS>(w, thread, i, u32(stop - i), pc);
        i = stop;
    }
}

}  // namespace host
