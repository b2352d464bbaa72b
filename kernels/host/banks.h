// Bank conflicts: what the accesses of a warp's lanes to shared memory cost beyond their bytes.
//
// 32 banks of 4 bytes. A request is what the lanes of a warp do at one instruction. It goes in phases: all lanes where
// each moves up to 4 bytes, half a warp where 8, a quarter where 16. A phase takes a cycle for each different word of
// its fullest bank, so one cycle without conflicts; equal words are one, but for atomics, which take turns.
//
// Lanes run one after another here, so each keeps a log, and the logs are compared when lanes have met: the n-th
// access of a lane at an instruction belongs to the n-th of the others there.
#pragma once
#include "runtime.h"

namespace host {

enum class Kind : u32 { Load, Store, Atomic, Ldmatrix, CpAsync };

// What one instruction did in a launch.
struct BankCount {
    u64 pc;
    Kind kind;
    u32 unused;
    u64 requests, extra;  // extra: cycles beyond one for each phase
};

// A thread touches shared memory, at `offset` from its start.
void note_access(Banks& banks, u32 thread, Kind kind, u32 offset, u32 bytes, const void* pc);
// All lanes of the warp are at the same place of the program.
void count_banks(Banks& banks, u32 warp);

Banks* make_banks();
void free_banks(Banks* banks);
u64 bank_counts(const Banks* banks, BankCount* out, u64 room);

}  // namespace host
