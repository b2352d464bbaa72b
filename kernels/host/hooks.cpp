// What instrumented kernels call: a hook at each load and store, a handler at each mistake that the compiler can see.
//
// A hook decides the usual cases with a few compares and passes the rest on; nothing else here is hot.
#include "access.h"
#include "banks.h"

namespace host {

#define ALWAYS_INLINE inline __attribute__((always_inline))

template <u32 BYTES, Access ACCESS>
__attribute__((noinline)) static void check(Worker& w, u64 address, const void* pc) {
    check_access<ACCESS>(w, w.thread, address, BYTES, pc);
}

// An access to shared memory whose bank conflicts are counted. A call of its own: the hook saves no registers for it.
template <u32 BYTES, Access ACCESS>
__attribute__((noinline)) static void check_counted(Worker& w, u64 address, const void* pc) {
    const Kind kind = ACCESS == Access::Load ? Kind::Load : Kind::Store;
    note_access(*w.banks, w.thread, kind, u32(address - w.shared_base), BYTES, pc);
    check_access<ACCESS>(w, w.thread, address, BYTES, pc);
}

// A word that this block has written whole before its last barrier. Whoever wrote it was within its object.
static ALWAYS_INLINE bool quick_shared_load(Worker& w, Cell& c, const void* pc) {
    const u32 stamp = w.stamp, thread = w.thread;
    if (c.flags != 0 || c.wrote_at < w.start || c.wrote_at >= w.full) return false;
    if (c.read_at != stamp) {
        c.read_at = stamp;
        c.readers = 1u << thread / 32;
        c.crowded = 0;
    } else if (c.reader == thread) {
        return true;
    } else {
        const u32 bit = 1u << thread / 32;
        if ((c.reader ^ thread) < 32) c.crowded |= bit;
        c.readers |= bit;
    }
    c.reader = u16(thread);
    c.read_pc = pc_offset(pc);
    return true;
}

// A word that this block has written before, and that only this thread has used since the last barrier.
static ALWAYS_INLINE bool quick_shared_store(Worker& w, Cell& c, const void* pc) {
    const u32 thread = w.thread, full = w.full;
    if (c.flags != 0 || c.wrote_at < w.start || (c.wrote_at >= full && c.writer != thread)) return false;
    if (c.read_at >= full && (c.reader != thread || c.crowded != 0 || (c.readers & (c.readers - 1)) != 0)) return false;
    c.wrote_at = w.stamp;
    c.writer = u16(thread);
    c.write_pc = pc_offset(pc);
    return true;
}

template <u32 BYTES, Access ACCESS>
static ALWAYS_INLINE bool quick_shared(Worker& w, u32 offset, const void* pc) {
    if (BYTES < 4 || offset % 4 != 0) return false;
    for (u32 i = 0; i < BYTES / 4; ++i) {
        Cell& c = w.words[offset / 4 + i];
        if (!(ACCESS == Access::Load ? quick_shared_load(w, c, pc) : quick_shared_store(w, c, pc))) return false;
    }
    return true;
}

// Words that nobody has written in this launch, and that this block or many have read; or words of this thread.
template <u32 BYTES, Access ACCESS>
static ALWAYS_INLINE bool quick_global(Worker& w, u64 at) {
    const Granule& granule = memory.granules[at / GRANULE];
    if (at % GRANULE + BYTES > granule.valid || granule.epoch != w.epoch || (BYTES >= 4 && at % 4 != 0)) return false;
    for (u32 i = 0; i < (BYTES + 3) / 4; ++i) {
        const u64 mark = __atomic_load_n(memory.marks + at / 4 + i, __ATOMIC_RELAXED);
        const u64 users = mark & (BLOCK_MASK << 20 | BLOCK_MASK);
        if (ACCESS == Access::Load && (users == w.mark_of_reader || users == MANY << 20)) continue;
        if (ACCESS == Access::Load && BYTES < 4 && (users & BLOCK_MASK) == 0) continue;
        if (ACCESS == Access::Load || BYTES < 4 || mark != w.mark_of_writer + (u64(w.thread) << 40)) return false;
    }
    return true;
}

// Without checks: a kernel may spoil its own data, but not the process.
template <Access ACCESS>
static ALWAYS_INLINE void stay_inside(Worker& w, u64 address, u32 bytes, const void* pc) {
    if (address - w.shared_base >= ARENA_BYTES && address - memory.base >= memory.bytes &&
        !is_private(w, address, ACCESS))
        outside(w, w.thread, address, bytes, ACCESS, pc);
}

template <u32 BYTES, Access ACCESS>
static ALWAYS_INLINE void touch(const void* p, const void* pc) {
    Worker& w = *self;
    const u64 address = reinterpret_cast<u64>(p), offset = address - w.shared_base;
    if (__builtin_expect(--w.budget < 0, 0)) exhausted(w, at(pc));
    if (!w.checks) return stay_inside<ACCESS>(w, address, BYTES, pc);
    if (offset < ARENA_BYTES) {
        if (__builtin_expect(w.banks != nullptr, 0)) return check_counted<BYTES, ACCESS>(w, address, pc);
        if (quick_shared<BYTES, ACCESS>(w, u32(offset), pc)) return;
    } else {
        const u64 at = address - memory.base;
        if (at < memory.bytes ? quick_global<BYTES, ACCESS>(w, at) : is_local(w, address)) return;
    }
    check<BYTES, ACCESS>(w, address, pc);
}

// A struct copied as one.
template <Access ACCESS>
static void touch_range(const void* p, size_t bytes, const void* pc) {
    Worker& w = *self;
    const u64 address = reinterpret_cast<u64>(p), offset = address - w.shared_base;
    if (!w.checks) return stay_inside<ACCESS>(w, address, u32(bytes), pc);
    if (w.banks != nullptr && offset < ARENA_BYTES)
        note_access(*w.banks, w.thread, ACCESS == Access::Load ? Kind::Load : Kind::Store, u32(offset), u32(bytes), pc);
    check_access<ACCESS>(w, w.thread, address, u32(bytes), pc);
}

// The first member of each handler's data.
struct Source {
    const char* file;
    u32 line, column;
};

[[noreturn]] static void undefined(const void* data, const char* what) {
    const Source& source = *static_cast<const Source*>(data);
    fail(self->thread, Site{source.file, int(source.line), nullptr}, "%s", what);
}

}  // namespace host

using namespace host;

#define HOOKS(bytes)                                                                                  \
    extern "C" void __tsan_read##bytes(void* p) { touch<bytes, Access::Load>(p, HOST_PC); }           \
    extern "C" void __tsan_write##bytes(void* p) { touch<bytes, Access::Store>(p, HOST_PC); }         \
    extern "C" void __tsan_unaligned_read##bytes(void* p) { touch<bytes, Access::Load>(p, HOST_PC); } \
    extern "C" void __tsan_unaligned_write##bytes(void* p) { touch<bytes, Access::Store>(p, HOST_PC); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

extern "C" void __tsan_init() {}

extern "C" void __tsan_read_range(void* p, size_t bytes) { touch_range<Access::Load>(p, bytes, HOST_PC); }
extern "C" void __tsan_write_range(void* p, size_t bytes) { touch_range<Access::Store>(p, bytes, HOST_PC); }

extern "C" void __ubsan_handle_type_mismatch_v1(const void* data, u64 pointer) {
    undefined(data, pointer == 0 ? "null pointer" : "misaligned address");
}
extern "C" void __ubsan_handle_out_of_bounds(const void* data, u64) { undefined(data, "index outside the array"); }
extern "C" void __ubsan_handle_shift_out_of_bounds(const void* data, u64, u64) {
    undefined(data, "shift by a negative count or by at least the width");
}
extern "C" void __ubsan_handle_divrem_overflow(const void* data, u64, u64) {
    undefined(data, "division by zero, or overflow of a quotient");
}
