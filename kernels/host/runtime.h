// The state of the runtime. One Worker per OS thread runs blocks; the threads of its block are fibers.
#pragma once
#include "common/types.cuh"

namespace host {

constexpr u32 MAX_THREADS = 1024;
constexpr u32 SHARED_BYTES = 227 * 1024;  // sm_90's limit for one block
constexpr u32 MAX_OBJECTS = 64;           // shared objects of one block
constexpr u32 ARENA_BYTES = SHARED_BYTES + 128 * MAX_OBJECTS;
constexpr u32 CHUNK = 64;                         // shared objects begin at multiples of it
constexpr u32 NONE = 0xFFFF;                      // no fiber
constexpr u64 MAX_MARKED_BLOCKS = (1 << 20) - 2;  // larger grids run without the checks between blocks

struct Banks;

// A launch, shared by the workers that run its blocks.
struct Launch {
    const Kernel* kernel;
    const u64* words;
    dim3 grid, block;
    u32 dynamic_bytes;
    bool lifo;
    bool checks;
    bool alone;
    u64 budget;  // loads, stores and meetings of one block
    u64 blocks;
    u64 next;      // block to hand out, atomic
    u32 epoch;     // of the global-memory shadow
    u32 failed;    // atomic: the first failure writes the message
    u8* released;  // per block: stored, fenced, then an atomic
    Banks* banks;  // null: bank conflicts are not counted
    char message[1024];
};

enum class State : u8 { Ready, Barrier, Warp, Done };

// One cp.async under way.
struct Copy {
    u8* shared;
    const u8* global;
    u32 bytes;
    bool valid;
    u32 group;
    const void* pc;
};

// One thread of a block.
struct Fiber {
    void* sp;
    State state;
    u16 next;          // in the ready list or among a barrier's waiters
    const char* what;  // it waits for
    Site site;
    u32 mask;
    Copy* copies;
    u32 copy_count, copy_capacity, group;
    bool acquired;  // it has fenced behind an atomic of its block
};

// Lanes that wait for each other.
struct Meeting {
    u32 mask, arrived;
    void (*run)(void* const*, u32);
    const char* what;
    Site site;
    void* lanes[32];
};

struct Warp {
    u32 open;  // meetings under way
    Meeting meetings[32];
};

// What the shadow knows about one word of shared memory (or one byte, where threads share a word).
struct Cell {
    u32 wrote_at, read_at;  // stamps
    u32 readers;            // warps that read at `read_at`
    u32 crowded;            // of these, the warps in which more than one lane did
    u16 writer, reader;     // the last thread
    u8 flags;
    u32 write_pc, read_pc;  // offsets from the image
};
constexpr u8 CELL_SPLIT = 1;    // look at the four byte cells instead
constexpr u8 CELL_COPYING = 2;  // a cp.async is under way
constexpr u8 CELL_ATOMIC = 4;   // the last write was an atomic

struct Object {
    const void* id;
    u32 offset, bytes;
};

struct Worker {
    // What the hooks look at first.
    long long budget;
    u64 shared_base;
    Cell* words;
    u32 thread;  // the running fiber
    u32 warp;
    u32 stamp;                           // rises with each barrier and __syncwarp, over all blocks
    u32 full;                            // stamps below it lie before the last barrier of the whole block
    u32 start;                           // stamps below it belong to earlier blocks
    u32 epoch;                           // of the launch, in the marks of global memory
    u64 mark_of_reader, mark_of_writer;  // of this block, see marks.h
    bool checks;
    Banks* banks;                    // null: bank conflicts are not counted
    bool alone;                      // no other OS thread runs blocks of this launch
    u8 chunks[ARENA_BYTES / CHUNK];  // bytes of each chunk that belong to an object
    Cell* bytes;
    u32 shared_end;
    u64 stacks;
    u32 stacks_mapped;
    u64 block;  // linear
    Launch* launch;

    void* home;  // the context that runs blocks
    uint3 thread_index[MAX_THREADS];
    uint3 block_index;
    u32 threads, warps, done;
    Fiber fibers[MAX_THREADS];
    u16 ready[MAX_THREADS];  // ring (FIFO) or stack (LIFO)
    u32 ready_head, ready_count;
    u16 waiters;  // list of those at the barrier
    u32 waiting;
    Site barrier_site;
    Warp warp_state[32];
    u32 seen[32][32];  // seen[w][v]: stamps of warp v below it are ordered before warp w
    Object objects[MAX_OBJECTS];
    u32 object_count, dynamic_offset;
    bool fenced, met;  // this block has fenced; it has made an atomic
    void* signal_stack;
    u64 earlier_signal_stack[4];
    Worker* idle;  // the next one in the pool
};
constexpr u64 SIGNAL_STACK_BYTES = 64 * 1024;

extern __thread Worker* self __attribute__((tls_model("initial-exec")));

// fiber.cpp
u64 reserve(u64 bytes);
void* fiber_stack_top(u64 stacks, u32 index);
void* fiber_prepare(void* top, void (*entry)());
extern "C" void rewire_host_switch(void** save, void* load);
// The guard below each stack is a page, also where pages have 64 KiB.
constexpr u64 STACK_BYTES = 64 * 1024, GUARD_BYTES = 64 * 1024, STACK_STRIDE = STACK_BYTES + GUARD_BYTES;

// fault.cpp
void catch_faults();
void swap_signal_stack(Worker& w, bool enter);

// block.cpp
void run_block(Worker& w, u64 block);
void reschedule(Worker& w);

// launch.cpp: keeps the message of the first failure and leaves the block.
constexpr Site NOWHERE = {nullptr, 0, nullptr};
[[noreturn]] void fail(u32 thread, Site site, const char* format, ...) __attribute__((format(printf, 3, 4)));
constexpr Site at(const void* pc) { return NOWHERE.at(pc); }
// ` (file:line)` for a message.
struct Place {
    char text[160];
    explicit Place(Site site);
};

// The block's budget is used up.
[[noreturn]] void exhausted(Worker& w, Site site);

}  // namespace host
