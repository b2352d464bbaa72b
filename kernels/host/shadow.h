// Shared memory: who wrote and who read each word, and what lies between two accesses.
//
// Stamps rise with each barrier and each __syncwarp. An earlier access is ordered before the running thread when the
// same thread made it, when its stamp lies before the last barrier of the block, or when this warp has synchronised
// with that thread's warp since. Shuffles, votes and mma order nothing.
#pragma once
#include "memory.h"

namespace host {

enum class Access { Load, Store, Atomic };

[[noreturn]] void outside(Worker& w, u32 thread, u64 address, u32 bytes, Access access, const void* pc);
[[noreturn]] void unwritten(Worker& w, const Cell& cell, u32 thread, u32 offset, const void* pc);
[[noreturn]] void shared_race(Worker& w, u32 thread, u32 other, u32 offset, Access access, const char* before,
                              u32 before_pc, const void* pc);

inline u32 pc_offset(const void* pc) { return u32(reinterpret_cast<u64>(pc) - memory.image_begin); }

inline bool ordered(const Worker& w, u32 warp, u32 other_warp, u32 stamp) {
    return stamp < w.full || stamp < w.seen[warp][other_warp];
}

inline __attribute__((always_inline)) void cell_load(Worker& w, Cell& c, u32 thread, u32 offset, const void* pc) {
    const u32 warp = thread / 32;
    if (__builtin_expect(c.wrote_at < w.start || (c.flags & CELL_COPYING) != 0, 0)) unwritten(w, c, thread, offset, pc);
    if (__builtin_expect(c.wrote_at >= w.full && c.writer != thread, 0) && !ordered(w, warp, c.writer / 32, c.wrote_at))
        shared_race(w, thread, c.writer, offset, Access::Load, "stored", c.write_pc, pc);
    if (c.read_at != w.stamp) {
        c.read_at = w.stamp;
        c.readers = 1u << warp;
        c.crowded = 0;
    } else if (c.reader != thread) {
        if (c.reader / 32 == warp) c.crowded |= 1u << warp;
        c.readers |= 1u << warp;
    } else {
        return;
    }
    c.reader = u16(thread);
    c.read_pc = pc_offset(pc);
}

// Whether another thread than `thread` has read without order since the last barrier.
inline bool read_by_others(const Worker& w, const Cell& c, u32 thread) {
    const u32 warp = thread / 32;
    for (u32 left = c.readers; left != 0; left &= left - 1) {
        const u32 v = u32(__builtin_ctz(left));
        if (ordered(w, warp, v, c.read_at)) continue;
        if (v != warp || (c.crowded >> v & 1) != 0 || (c.reader / 32 == warp && c.reader != thread)) return true;
    }
    return false;
}

inline __attribute__((always_inline)) void cell_store(Worker& w, Cell& c, u32 thread, u32 offset, Access access,
                                                      const void* pc) {
    const u32 warp = thread / 32;
    const bool atomics = access == Access::Atomic && (c.flags & CELL_ATOMIC) != 0;
    if (c.wrote_at >= w.full && c.writer != thread && !atomics && !ordered(w, warp, c.writer / 32, c.wrote_at))
        shared_race(w, thread, c.writer, offset, access, "stored", c.write_pc, pc);
    if (c.read_at >= w.full && read_by_others(w, c, thread))
        shared_race(w, thread, c.reader, offset, access, "loaded", c.read_pc, pc);
    c.wrote_at = w.stamp;
    c.writer = u16(thread);
    c.write_pc = pc_offset(pc);
    c.flags = access == Access::Atomic ? CELL_ATOMIC : 0;
}

template <Access ACCESS>
inline __attribute__((always_inline)) void cell_access(Worker& w, Cell& c, u32 thread, u32 offset, const void* pc) {
    if constexpr (ACCESS == Access::Load) {
        cell_load(w, c, thread, offset, pc);
    } else {
        if (ACCESS == Access::Atomic && c.wrote_at < w.start) unwritten(w, c, thread, offset, pc);
        cell_store(w, c, thread, offset, ACCESS, pc);
    }
}

inline bool is_split(const Worker& w, const Cell& word) {
    return (word.flags & CELL_SPLIT) != 0 && word.wrote_at >= w.start;
}

// From now on this block looks at the word's bytes: threads may own different ones.
inline void split(Worker& w, u32 word) {
    Cell& c = w.words[word];
    if (is_split(w, c)) return;
    c.flags &= u8(~CELL_SPLIT);
    for (u32 i = 0; i < 4; ++i) w.bytes[4 * word + i] = c;
    c.flags = CELL_SPLIT;
    c.wrote_at = w.stamp;
}

template <Access ACCESS>
void bytes_access(Worker& w, u32 thread, u32 offset, u32 bytes, const void* pc) {
    for (u32 i = offset; i < offset + bytes; ++i) {
        split(w, i / 4);
        cell_access<ACCESS>(w, w.bytes[i], thread, i, pc);
    }
}

template <Access ACCESS>
inline __attribute__((always_inline)) void shared_access(Worker& w, u32 thread, u32 offset, u32 bytes, const void* pc) {
    const u32 within = offset % CHUNK;
    if (__builtin_expect(within + bytes > w.chunks[offset / CHUNK], 0)) {
        const bool inside = within + bytes > CHUNK && within < w.chunks[offset / CHUNK] &&
                            w.chunks[offset / CHUNK] == CHUNK &&
                            (offset + bytes - 1) % CHUNK < w.chunks[(offset + bytes - 1) / CHUNK];
        if (!inside) outside(w, thread, w.shared_base + offset, bytes, ACCESS, pc);
    }
    if (((offset | bytes) & 3) != 0) {
        bytes_access<ACCESS>(w, thread, offset, bytes, pc);
        return;
    }
    for (u32 i = offset; i < offset + bytes; i += 4) {
        Cell& c = w.words[i / 4];
        if (__builtin_expect((c.flags & CELL_SPLIT) != 0, 0)) {
            if (is_split(w, c)) {
                bytes_access<ACCESS>(w, thread, i, 4, pc);
                continue;
            }
            c.flags = 0;
        }
        cell_access<ACCESS>(w, c, thread, i, pc);
    }
}

// After a store by cp.async: nobody may read before it has landed.
void mark_copying(Worker& w, u32 offset, u32 bytes);

}  // namespace host
