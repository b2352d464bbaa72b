// The twins that touch memory: cp.async, ldmatrix rows, atomics.
#include "access.h"
#include "banks.h"

#include <stdlib.h>
#include <string.h>

namespace host {

void read_matrix_row(void* out, const void* row, u32 lane, const void* pc) {
    Worker& w = *self;
    const u32 thread = w.warp * 32 + lane;
    const u64 address = reinterpret_cast<u64>(row);
    if (address - w.shared_base >= ARENA_BYTES) fail(thread, at(pc), "ldmatrix of an address outside shared memory");
    if (address % 16 != 0) fail(thread, at(pc), "ldmatrix of an address that is not 16-byte aligned");
    if (w.banks != nullptr) note_access(*w.banks, thread, Kind::Ldmatrix, u32(address - w.shared_base), 16, pc);
    if (w.checks) check_access<Access::Load>(w, thread, address, 16, pc);
    memcpy(out, row, 16);
}

void copy_async(void* shared, const void* global, u32 bytes, bool valid) {
    Worker& w = *self;
    const u64 to = reinterpret_cast<u64>(shared), from = reinterpret_cast<u64>(global);
    if (to - w.shared_base >= ARENA_BYTES) fail(w.thread, at(HOST_PC), "cp.async to an address outside shared memory");
    if (to % bytes != 0 || (valid && from % bytes != 0))
        fail(w.thread, at(HOST_PC), "cp.async: address not %u-byte aligned", bytes);
    if (valid && from - memory.base >= memory.bytes)
        fail(w.thread, at(HOST_PC), "cp.async: source outside every allocation");
    if (w.banks != nullptr) note_access(*w.banks, w.thread, Kind::CpAsync, u32(to - w.shared_base), bytes, HOST_PC);
    if (w.checks) {
        check_access<Access::Store>(w, w.thread, to, bytes, HOST_PC);
        mark_copying(w, u32(to - w.shared_base), bytes);
        if (valid) check_access<Access::Load>(w, w.thread, from, bytes, HOST_PC);
    }
    memset(shared, 0xFF, bytes);
    Fiber& f = w.fibers[w.thread];
    if (f.copy_count == f.copy_capacity) {
        f.copy_capacity = f.copy_capacity == 0 ? 16 : 2 * f.copy_capacity;
        f.copies = static_cast<Copy*>(realloc(f.copies, f.copy_capacity * sizeof(Copy)));
        if (f.copies == nullptr) abort();
    }
    f.copies[f.copy_count++] = {
        static_cast<u8*>(shared), static_cast<const u8*>(global), bytes, valid, f.group, HOST_PC};
}

void copy_commit() {
    Worker& w = *self;
    ++w.fibers[w.thread].group;
}

// Lands all committed groups but the `pending` newest.
void copy_wait(u32 pending) {
    Worker& w = *self;
    Fiber& f = w.fibers[w.thread];
    u32 kept = 0;
    for (u32 i = 0; i < f.copy_count; ++i) {
        const Copy& c = f.copies[i];
        if (c.group + pending >= f.group) {
            f.copies[kept++] = c;
            continue;
        }
        if (w.checks) check_access<Access::Store>(w, w.thread, reinterpret_cast<u64>(c.shared), c.bytes, c.pc);
        if (c.valid) memcpy(c.shared, c.global, c.bytes);
        else memset(c.shared, 0, c.bytes);
    }
    f.copy_count = kept;
}

static u32 apply(u32 old, u32 value, Atomic op) {
    switch (op) {
        case Atomic::Add: return old + value;
        case Atomic::Inc: return old >= value ? 0 : old + 1;
        case Atomic::Max: return old > value ? old : value;
        case Atomic::Min: return old < value ? old : value;
        case Atomic::Or: return old | value;
    }
    __builtin_unreachable();
}

// After a fence, an atomic publishes what this block has stored; a fence behind it lets a thread see what others have.
static void begin_atomic(Worker& w, const void* p, u32 bytes, const void* pc) {
    const u64 address = reinterpret_cast<u64>(p);
    if (--w.budget < 0) exhausted(w, at(pc));
    if (address % bytes != 0) fail(w.thread, at(pc), "atomic: address not %u-byte aligned", bytes);
    if (address - w.shared_base >= ARENA_BYTES && address - memory.base >= memory.bytes)
        outside(w, w.thread, address, bytes, Access::Atomic, pc);
    if (w.banks != nullptr && address - w.shared_base < ARENA_BYTES)
        note_access(*w.banks, w.thread, Kind::Atomic, u32(address - w.shared_base), bytes, pc);
    if (w.checks) check_access<Access::Atomic>(w, w.thread, address, bytes, pc);
    if (w.fenced && w.launch->released != nullptr) __atomic_store_n(w.launch->released + w.block, 1, __ATOMIC_RELEASE);
    w.met = true;
}

u32 atomic_u32(u32* p, u32 value, Atomic op) {
    Worker& w = *self;
    begin_atomic(w, p, 4, HOST_PC);
    u32 old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, apply(old, value, op), true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
    }
    return old;
}

u64 atomic_add_u64(u64* p, u64 value) {
    Worker& w = *self;
    begin_atomic(w, p, 8, HOST_PC);
    return __atomic_fetch_add(p, value, __ATOMIC_ACQ_REL);
}

void thread_fence() {
    Worker& w = *self;
    w.fenced = true;
    w.fibers[w.thread].acquired |= w.met;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

}  // namespace host
