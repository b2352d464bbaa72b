// Launches that a GPU would refuse.
//
// Source: CUDA C++ programming guide, "Technical Specifications per Compute Capability"; parameters: PTX ISA, "Kernel
// Function Parameters". Registers and static shared memory are those of the machine code, from docs/kernels.txt.
#include "api.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

namespace host {

constexpr u32 REGISTERS = 64 * 1024;  // of a block
constexpr u32 REGISTER_UNIT = 256;    // a warp's are rounded up to it
constexpr u32 PARTITIONS = 4;         // of a multiprocessor; each has as many of a block's warps as the fullest
constexpr u32 PARAMETER_BYTES = 4096;

// Errors of the driver.
constexpr u32 INVALID_VALUE = 1, LAUNCH_OUT_OF_RESOURCES = 701;

static u32 parameter_bytes(const char* signature) {
    u32 end = 0;
    for (; *signature != 0; ++signature) {
        const u32 size = strchr("iuf", *signature) != nullptr ? 4 : 8;
        end = (end + size - 1) / size * size + size;
    }
    return end;
}

struct Message {
    char* text;
    u64 length;

    u32 refuse(u32 error, const char* format, ...) const __attribute__((format(printf, 3, 4))) {
        va_list args;
        va_start(args, format);
        vsnprintf(text, length, format, args);
        va_end(args);
        return error;
    }
};

}  // namespace host

using namespace host;

u32 rewire_host_shared_limit(u32 capability) {
    switch (capability) {
        case 80:
        case 87: return 163 * 1024;
        case 86:
        case 89:
        case 120:
        case 121: return 99 * 1024;
        default: return SHARED_BYTES;
    }
}

u32 rewire_host_refuses(const Kernel* kernel, const u32* grid, const u32* block, u32 dynamic_bytes, u32 capability,
                        char* text, u64 length) {
    const Message message{text, length};
    if (kernel->registers == 0)
        return message.refuse(INVALID_VALUE, "docs/kernels.txt has no line for it, so its registers are not known: "
                                             "python .ci/kernels.py --write");
    const u32 bytes = parameter_bytes(kernel->signature);
    if (bytes > PARAMETER_BYTES)
        return message.refuse(INVALID_VALUE, "%u bytes of parameters, the limit is %u", bytes, PARAMETER_BYTES);
    const u64 threads = u64(block[0]) * block[1] * block[2];
    if (block[2] > 64) return message.refuse(INVALID_VALUE, "a block of depth %u, the limit is 64", block[2]);
    if (threads == 0 || block[0] > MAX_THREADS || block[1] > MAX_THREADS || threads > kernel->max_threads)
        return message.refuse(INVALID_VALUE, "a block of %llu threads; __launch_bounds__ allows 1 to %u", threads,
                              kernel->max_threads);
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[0] > 0x7FFFFFFF || grid[1] > 65535 || grid[2] > 65535)
        return message.refuse(INVALID_VALUE,
                              "a grid of %u x %u x %u blocks; 1 to 2^31-1 x 65535 x 65535 are possible", grid[0],
                              grid[1], grid[2]);
    const u32 warps = (u32(threads + 31) / 32 + PARTITIONS - 1) / PARTITIONS * PARTITIONS;
    const u32 of_warp = (kernel->registers * 32 + REGISTER_UNIT - 1) / REGISTER_UNIT * REGISTER_UNIT;
    if (warps * of_warp > REGISTERS)
        return message.refuse(LAUNCH_OUT_OF_RESOURCES,
                              "%llu threads of %u registers are %u registers a block, the limit is %u", threads,
                              kernel->registers, warps * of_warp, REGISTERS);
    const u32 fixed = kernel->static_shared == UNKNOWN ? 0 : kernel->static_shared;
    const u32 limit = rewire_host_shared_limit(capability);
    if (u64(fixed) + dynamic_bytes > limit)
        return message.refuse(INVALID_VALUE,
                              "%u bytes of dynamic shared memory and %u of static, the limit is %u together",
                              dynamic_bytes, fixed, limit);
    return 0;
}
