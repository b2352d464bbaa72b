// What the launcher calls: src/device/host, and the stub driver of the tests.
#pragma once
#include "banks.h"

extern "C" {
// Reserves device memory, once per process; its first address, or 0 where the system refuses.
u64 rewire_host_reserve(u64* bytes);
// Makes `bytes` from a multiple of 256 an allocation, filled with 0xFF: NaN as f32 and as bf16.
void rewire_host_allocate(u64 address, u64 bytes);
// Ends the allocation; a large one goes back to the system.
void rewire_host_free(u64 address, u64 bytes);
// What the loader added to the program's addresses: addr2line wants it subtracted.
u64 rewire_host_image();

// The entry point of that name, or null.
const host::Kernel* rewire_host_kernel(const char* name);
// Bytes of shared memory that a block may have on a device of compute capability 90 / 10, static and dynamic together.
u32 rewire_host_shared_limit(u32 capability);
// Why such a device does not take the launch, in `message`, and the driver's error; 0 where it does.
u32 rewire_host_refuses(const host::Kernel* kernel, const u32* grid, const u32* block, u32 dynamic_bytes,
                        u32 capability, char* message, u64 length);
// A launch; `words` holds one word for each parameter and outlives it. `workers` OS threads will call work: one where
// `banks` asks for bank conflicts, which needs the checks too.
host::Launch* rewire_host_begin(const host::Kernel* kernel, const u32* grid, const u32* block, u32 dynamic_bytes,
                                const u64* words, u32 lifo, u32 checks, u32 banks, u32 workers, u64 budget);
// Runs blocks until none is left or one has failed.
void rewire_host_work(host::Launch* launch);
// Bank conflicts by instruction: how many there are, of which `room` at most are written.
u64 rewire_host_banks(const host::Launch* launch, host::BankCount* out, u64 room);
// Frees the launch; 1 and a message where it failed.
u32 rewire_host_end(host::Launch* launch, char* message, u64 length);
}
