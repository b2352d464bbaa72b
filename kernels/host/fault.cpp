// A signal while a fiber runs (its stack is full, a quotient overflows) ends the launch with an error.
#include "access.h"

#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>

namespace host {

static struct sigaction earlier[3];
static const int signals[3] = {SIGSEGV, SIGBUS, SIGFPE};

static u64 stack_pointer(const ucontext_t* context) {
#if defined(__x86_64__)
    return u64(context->uc_mcontext.gregs[REG_RSP]);
#elif defined(__aarch64__)
    return context->uc_mcontext.sp;
#else
    (void)context;
    return self == nullptr ? 0 : self->stacks;
#endif
}

static u64 program_counter(const ucontext_t* context) {
#if defined(__x86_64__)
    return u64(context->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
    return context->uc_mcontext.pc;
#else
    (void)context;
    return 0;
#endif
}

static void handle(int signal, siginfo_t* info, void* context) {
    Worker* const w = self;
    const ucontext_t* const c = static_cast<const ucontext_t*>(context);
    const u64 stacks_bytes = MAX_THREADS * STACK_STRIDE;
    if (w != nullptr && stack_pointer(c) - w->stacks < stacks_bytes) {
        const u64 address = reinterpret_cast<u64>(info->si_addr), pc = program_counter(c);
        const void* const place = pc == 0 ? nullptr : reinterpret_cast<const void*>(pc + 1);
        if (signal == SIGFPE) fail(w->thread, at(place), "arithmetic fault");
        if (address - w->stacks < stacks_bytes)
            fail(w->thread, at(place), "more than %llu bytes of local variables: stack overflow", STACK_BYTES);
        fail(w->thread, at(place), "memory fault at 0x%llx", address);
    }
    for (int i = 0; i < 3; ++i) {
        if (signals[i] != signal) continue;
        if ((earlier[i].sa_flags & SA_SIGINFO) != 0) return earlier[i].sa_sigaction(signal, info, context);
        if (earlier[i].sa_handler != SIG_DFL && earlier[i].sa_handler != SIG_IGN) return earlier[i].sa_handler(signal);
        // The default action, when the instruction runs again.
        sigaction(signal, &earlier[i], nullptr);
    }
}

// Once in the process.
void catch_faults() {
    struct sigaction action = {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < 3; ++i) sigaction(signals[i], &action, &earlier[i]);
}

// The handler needs a stack of its own: the fiber's may be full.
void swap_signal_stack(Worker& w, bool enter) {
    stack_t own = {};
    own.ss_sp = w.signal_stack;
    own.ss_size = SIGNAL_STACK_BYTES;
    static_assert(sizeof(stack_t) <= sizeof w.earlier_signal_stack, "room for the former stack");
    stack_t* const former = reinterpret_cast<stack_t*>(w.earlier_signal_stack);
    if (enter) sigaltstack(&own, former);
    else sigaltstack(former, nullptr);
}

}  // namespace host
