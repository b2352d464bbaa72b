// Stacks and the switch between fibers.
#include "runtime.h"

#include <sys/mman.h>

namespace host {

// Address space that costs nothing until touched; 0 where the system refuses.
u64 reserve(u64 bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? 0 : reinterpret_cast<u64>(p);
}

// Colouring: without it the tops of all stacks share one set of the L1 cache.
void* fiber_stack_top(u64 stacks, u32 index) {
    const u64 end = stacks + (index + 1) * STACK_STRIDE;
    return reinterpret_cast<void*>(end - (index * 5 & 63) * 64);
}

}  // namespace host

// Saves the callee-saved registers and the stack pointer in *save, then takes those left at `load`.
#if defined(__x86_64__)

asm(R"(
    .text
    .globl rewire_host_switch
    .hidden rewire_host_switch
    .type rewire_host_switch, @function
rewire_host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    retq
    .size rewire_host_switch, . - rewire_host_switch
    .section .note.GNU-stack,"",@progbits
    .text
)");

namespace host {

// The first switch to the returned stack pointer enters `entry`, which never returns.
void* fiber_prepare(void* top, void (*entry)()) {
    u64* sp = static_cast<u64*>(top);
    *--sp = 0;  // no caller; also aligns the stack as after a call
    *--sp = reinterpret_cast<u64>(entry);
    for (int i = 0; i < 6; ++i) *--sp = 0;
    return sp;
}

}  // namespace host

#endif
