// What instrumented kernels call: a hook at each load and store, a handler at each mistake that the compiler can see.
#include "access.h"

namespace host {

void outside(Worker& w, u32 thread, u64 address, u32 bytes, bool store, const void* pc) {
    (void)w;
    fail_at(thread, pc, "%s of %u bytes at 0x%llx, outside every allocation", store ? "store" : "load", bytes, address);
}

template <u32 BYTES, bool STORE>
static inline __attribute__((always_inline)) void touch(const void* p, const void* pc) {
    Worker& w = *self;
    if (__builtin_expect(--w.budget < 0, 0))
        fail_at(w.thread, pc, "more than %llu loads, stores and meetings in one block: endless loop?", w.launch->budget);
    if (w.checks) check_access(w, w.thread, reinterpret_cast<u64>(p), BYTES, STORE, pc);
}

// The first member of each handler's data.
struct Source {
    const char* file;
    u32 line, column;
};

[[noreturn]] static void undefined(const void* data, const char* what) {
    const Source& source = *static_cast<const Source*>(data);
    fail(self->thread, Site{source.file, int(source.line)}, "%s", what);
}

}  // namespace host

using namespace host;

#define PC __builtin_return_address(0)
#define HOOKS(bytes)                                                            \
    extern "C" void __tsan_read##bytes(void* p) { touch<bytes, false>(p, PC); } \
    extern "C" void __tsan_write##bytes(void* p) { touch<bytes, true>(p, PC); }
#define UNALIGNED_HOOKS(bytes)                                                            \
    extern "C" void __tsan_unaligned_read##bytes(void* p) { touch<bytes, false>(p, PC); } \
    extern "C" void __tsan_unaligned_write##bytes(void* p) { touch<bytes, true>(p, PC); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
UNALIGNED_HOOKS(2)
UNALIGNED_HOOKS(4)
UNALIGNED_HOOKS(8)
UNALIGNED_HOOKS(16)

extern "C" void __tsan_init() {}

extern "C" void __tsan_read_range(void* p, size_t bytes) {
    check_access(*self, self->thread, reinterpret_cast<u64>(p), u32(bytes), false, PC);
}

extern "C" void __tsan_write_range(void* p, size_t bytes) {
    check_access(*self, self->thread, reinterpret_cast<u64>(p), u32(bytes), true, PC);
}

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
