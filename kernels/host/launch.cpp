// A launch: found by name, its blocks handed out to whoever calls `rewire_host_work`, its first failure kept.
#include "api.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace host {

__thread Worker* self __attribute__((tls_model("initial-exec")));

// Written by build.rs: the tables of all kernel files, ended by a null.
extern const Kernel* const* const tables[];

// `kernels/` and what is before it say nothing.
Place::Place(Site site) : text{} {
    if (site.file == nullptr && site.pc == nullptr) return;
    const char* file = site.file == nullptr ? "?" : site.file;
    for (const char* next; (next = strstr(file, "kernels/")) != nullptr;) file = next + 8;
    // The launcher replaces `{pc address|otherwise}`. A wrapper's line alone would not say which kernel calls it.
    const u64 pc = reinterpret_cast<u64>(site.pc) - 1;
    if (site.file == nullptr) snprintf(text, sizeof text, " ({pc %llx|at %llx})", pc, pc);
    else if (site.pc != nullptr && strncmp(file, "common/", 7) == 0)
        snprintf(text, sizeof text, " ({pc %llx|%s:%d})", pc, file, site.line);
    else snprintf(text, sizeof text, " (%s:%d)", file, site.line);
}

void fail(u32 thread, Site site, const char* format, ...) {
    Worker& w = *self;
    Launch& l = *w.launch;
    if (__atomic_exchange_n(&l.failed, 1, __ATOMIC_RELAXED) == 0) {
        const uint3 b = w.block_index, t = w.thread_index[thread];
        const size_t room = sizeof l.message;
        size_t used =
            size_t(snprintf(l.message, room, "block (%u,%u,%u) thread (%u,%u,%u): ", b.x, b.y, b.z, t.x, t.y, t.z));
        va_list args;
        va_start(args, format);
        used += size_t(vsnprintf(l.message + used, room - used, format, args));
        va_end(args);
        if (used < room) snprintf(l.message + used, room - used, "%s", Place(site).text);
    }
    void* dropped;
    rewire_host_switch(&dropped, w.home);
    __builtin_unreachable();
}

void exhausted(Worker& w, Site site) {
    fail(w.thread, site, "more than %llu loads, stores and meetings in one block: endless loop?", w.launch->budget);
}

static Worker* make_worker() {
    const u64 state = reserve(sizeof(Worker)), words = reserve(sizeof(Cell) * (ARENA_BYTES / 4));
    const u64 bytes = reserve(sizeof(Cell) * ARENA_BYTES), arena = reserve(ARENA_BYTES);
    const u64 signal_stack = reserve(SIGNAL_STACK_BYTES);
    void* stacks =
        mmap(nullptr, MAX_THREADS * STACK_STRIDE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (state == 0 || words == 0 || bytes == 0 || arena == 0 || signal_stack == 0 || stacks == MAP_FAILED) abort();
    Worker* w = reinterpret_cast<Worker*>(state);
    w->words = reinterpret_cast<Cell*>(words);
    w->bytes = reinterpret_cast<Cell*>(bytes);
    w->shared_base = arena;
    w->stacks = reinterpret_cast<u64>(stacks);
    w->signal_stack = reinterpret_cast<void*>(signal_stack);
    return w;
}

// Workers outlive the OS threads that they run on: their memory is large and warm.
static Worker* idle_workers;
static bool pool_busy;

static void lock_pool() {
    while (__atomic_test_and_set(&pool_busy, __ATOMIC_ACQUIRE)) sched_yield();
}

static void unlock_pool() { __atomic_clear(&pool_busy, __ATOMIC_RELEASE); }

static Worker* take_worker() {
    lock_pool();
    Worker* w = idle_workers;
    if (w != nullptr) idle_workers = w->idle;
    unlock_pool();
    return w == nullptr ? make_worker() : w;
}

static void give_back(Worker* w) {
    lock_pool();
    w->idle = idle_workers;
    idle_workers = w;
    unlock_pool();
}

// Stacks become usable when a launch first needs that many; the page below each stays a guard.
static void map_stacks(Worker& w, u32 threads) {
    for (; w.stacks_mapped < threads; ++w.stacks_mapped)
        mprotect(reinterpret_cast<void*>(w.stacks + w.stacks_mapped * STACK_STRIDE + GUARD_BYTES), STACK_BYTES,
                 PROT_READ | PROT_WRITE);
}

static void enter(Worker& w, Launch& l) {
    const dim3 b = l.block;
    w.launch = &l;
    w.threads = b.x * b.y * b.z;
    w.warps = (w.threads + 31) / 32;
    w.checks = l.checks;
    w.banks = l.banks;
    w.alone = l.alone;
    w.epoch = l.epoch;
    w.object_count = 0;
    w.shared_end = 0;
    memset(w.chunks, 0, sizeof w.chunks);
    map_stacks(w, w.threads);
    for (u32 i = 0; i < w.threads; ++i) w.thread_index[i] = {i % b.x, i / b.x % b.y, i / b.x / b.y};
    // Stamps of all blocks of a launch must fit.
    if (w.stamp > 1u << 31) {
        memset(w.words, 0, sizeof(Cell) * (ARENA_BYTES / 4));
        memset(w.bytes, 0, sizeof(Cell) * ARENA_BYTES);
        w.stamp = 0;
    }
}

}  // namespace host

using namespace host;

const Kernel* rewire_host_kernel(const char* name) {
    for (const Kernel* const* const* table = tables; *table != nullptr; ++table)
        for (const Kernel* const* kernel = *table; *kernel != nullptr; ++kernel)
            if (strcmp((*kernel)->name, name) == 0) return *kernel;
    return nullptr;
}

Launch* rewire_host_begin(const Kernel* kernel, const u32* grid, const u32* block, u32 dynamic_bytes, const u64* words,
                          u32 lifo, u32 checks, u32 banks, u32 workers, u64 budget) {
    static u32 epochs = 0;
    Launch* l = static_cast<Launch*>(calloc(1, sizeof(Launch)));
    if (l == nullptr) abort();
    l->kernel = kernel;
    l->words = words;
    l->grid = {grid[0], grid[1], grid[2]};
    l->block = {block[0], block[1], block[2]};
    l->dynamic_bytes = dynamic_bytes;
    l->lifo = lifo != 0;
    l->checks = checks != 0;
    if (banks != 0) l->banks = make_banks();
    l->alone = workers == 1;
    l->budget = budget;
    l->blocks = u64(grid[0]) * grid[1] * grid[2];
    do l->epoch = __atomic_add_fetch(&epochs, 1, __ATOMIC_RELAXED);
    while (l->epoch == 0 || l->epoch == ~0u);
    if (l->blocks < MAX_MARKED_BLOCKS) l->released = static_cast<u8*>(calloc(l->blocks, 1));
    return l;
}

void rewire_host_work(Launch* launch) {
    Launch& l = *launch;
    Worker* const mine = take_worker();
    self = mine;
    enter(*mine, l);
    swap_signal_stack(*mine, true);
    while (__atomic_load_n(&l.failed, __ATOMIC_RELAXED) == 0) {
        const u64 i = __atomic_fetch_add(&l.next, 1, __ATOMIC_RELAXED);
        if (i >= l.blocks) break;
        run_block(*mine, l.lifo ? l.blocks - 1 - i : i);
    }
    swap_signal_stack(*mine, false);
    self = nullptr;
    give_back(mine);
}

u64 rewire_host_banks(const Launch* l, BankCount* out, u64 room) { return bank_counts(l->banks, out, room); }

u32 rewire_host_end(Launch* l, char* message, u64 length) {
    const u32 failed = l->failed;
    if (failed != 0) snprintf(message, length, "%s", l->message);
    free(l->released);
    free_banks(l->banks);
    free(l);
    return failed;
}
