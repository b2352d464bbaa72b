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

// rewire_host_switch saves what a callee must keep and the stack pointer, in *save, then takes what `load` left.
// fiber_prepare makes a stack whose first switch enters `entry`, which never returns.
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

void* fiber_prepare(void* top, void (*entry)()) {
    u64* sp = static_cast<u64*>(top);
    *--sp = 0;  // no caller; also aligns the stack as after a call
    *--sp = reinterpret_cast<u64>(entry);
    for (int i = 0; i < 6; ++i) *--sp = 0;
    return sp;
}

}  // namespace host

#elif defined(__aarch64__)

asm(R"(
    .text
    .globl rewire_host_switch
    .hidden rewire_host_switch
    .type rewire_host_switch, %function
rewire_host_switch:
    stp x29, x30, [sp, #-160]!
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    ldp x29, x30, [sp], #160
    ret
    .size rewire_host_switch, . - rewire_host_switch
    .section .note.GNU-stack,"",%progbits
    .text
)");

namespace host {

void* fiber_prepare(void* top, void (*entry)()) {
    u64* sp = static_cast<u64*>(top) - 20;
    for (int i = 0; i < 20; ++i) sp[i] = 0;
    sp[1] = reinterpret_cast<u64>(entry);  // x30
    return sp;
}

}  // namespace host

#else

// A system call for each switch: fifty times slower.
#include <ucontext.h>

extern "C" void rewire_host_switch(void** save, void* load) {
    ucontext_t here;
    *save = &here;
    swapcontext(&here, static_cast<ucontext_t*>(load));
}

namespace host {

void* fiber_prepare(void* top, void (*entry)()) {
    ucontext_t* const context = static_cast<ucontext_t*>(top) - 1;
    getcontext(context);
    // The colouring takes less than a page from the top.
    context->uc_stack.ss_size = STACK_BYTES - 4096 - sizeof(ucontext_t);
    context->uc_stack.ss_sp = reinterpret_cast<char*>(context) - context->uc_stack.ss_size;
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    return context;
}

}  // namespace host

#endif
