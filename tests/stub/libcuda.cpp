// libcuda.so for machines without a GPU: what the device `cuda` calls, over the runtime of `cuda-host`.
//
// Kernels are those linked into this library; a module's PTX only says which of them it holds. Work runs at
// once, in the calling thread, except between cuStreamBeginCapture and cuStreamEndCapture, where it is recorded, and
// copies from the host, which read their source as late as they may: before the next work, or when somebody waits.
// Stricter than a driver where a mistake would go unseen: unknown handles, a missing context, copies outside an
// allocation and memory that is used after cuMemFree are errors.
//
// STUB_CUDA_PTX=8.5            the newest PTX version it reads (9.0)
// STUB_CUDA_CAPABILITY=7.5     compute capability (9.0)
// STUB_CUDA_DEVICES=0          number of devices (1)
// STUB_CUDA_MEMORY=1048576     bytes of device memory (8 GiB)
// STUB_CUDA_LOG=FILE           appends the name of each entry point that returns

#include "host/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) Status

namespace {

// The codes it gives, with the driver's numbers and names.
#define STATUSES(X)                                                                                             \
    X(SUCCESS, 0) X(INVALID_VALUE, 1) X(OUT_OF_MEMORY, 2) X(NOT_INITIALIZED, 3) X(NO_DEVICE, 100)               \
    X(INVALID_DEVICE, 101) X(INVALID_CONTEXT, 201) X(NO_BINARY_FOR_GPU, 209) X(INVALID_PTX, 218)                \
    X(UNSUPPORTED_PTX_VERSION, 222) X(INVALID_HANDLE, 400) X(NOT_FOUND, 500) X(ILLEGAL_ADDRESS, 700)            \
    X(LAUNCH_OUT_OF_RESOURCES, 701) X(LAUNCH_FAILED, 719) X(STREAM_CAPTURE_UNSUPPORTED, 900) X(STREAM_CAPTURE_UNMATCHED, 903)

enum Status {
#define CODE(name, code) name = code,
    STATUSES(CODE)
};

const std::map<int, const char*> NAMES = {
#define NAME(name, code) {code, "CUDA_ERROR_" #name},
    STATUSES(NAME)
};

const char* setting(const char* name, const char* otherwise) {
    const char* value = getenv(name);
    return value == nullptr ? otherwise : value;
}

struct Module {
    std::set<std::string> entries;
};
// Without an opt-in, 48 KiB of shared memory for what the kernel declares and what the launch adds.
constexpr u32 SHARED_BY_DEFAULT = 48 << 10;
struct Function {
    const host::Kernel* kernel;
    u32 static_shared = kernel->static_shared == host::UNKNOWN ? 0 : kernel->static_shared;
    u32 max_dynamic = static_shared > SHARED_BY_DEFAULT ? 0 : SHARED_BY_DEFAULT - static_shared;
};
using Work = std::function<Status()>;
struct Graph {
    std::vector<Work> nodes;
};
struct Stream {
    Graph* recording = nullptr;
    std::vector<Work> uploads;  // those from number `uploaded` on
    u64 uploaded = 0;

    // Does the uploads before number `end`.
    void upload(u64 end) {
        for (; uploaded < end && !uploads.empty(); ++uploaded) {
            uploads.front()();
            uploads.erase(uploads.begin());
        }
    }
};
struct Event {
    Stream* stream = nullptr;
    u64 uploads = 0;  // that lie before it
};

std::recursive_mutex lock;
std::vector<Stream*> streams;
bool initialized = false;
char context;  // its address is the one context there is
std::set<void*> handles;  // of modules, functions, streams, events, graphs
thread_local void* current = nullptr;
thread_local std::string message;  // why the last call failed

// Device memory: the runtime's range, handed out by address.
struct Heap {
    u64 base = 0, top = 0, limit = 0, used = 0;
    std::map<u64, u64> live;                  // address -> bytes
    std::map<u64, std::vector<u64>> released;  // granules -> addresses
    bool covers(u64 address, u64 bytes) const {
        auto next = live.upper_bound(address);
        if (next == live.begin()) return false;
        --next;
        return address + bytes <= next->first + next->second;
    }
} heap;

Status failed(Status status, std::string why) {
    message = std::move(why);
    return status;
}

template <class T>
T* open_handle(T* object) {
    handles.insert(object);
    return object;
}

template <class T>
T* known(void* handle) {
    return handles.count(handle) ? static_cast<T*>(handle) : nullptr;
}

void call_log(const char* name) {
    static const char* path = getenv("STUB_CUDA_LOG");
    if (path == nullptr) return;
    if (FILE* file = fopen(path, "a")) {
        fprintf(file, "%s\n", name);
        fclose(file);
    }
}

// The start of every entry point below: one call at a time, in order.
#define ENTER(needs_context)                                                            \
    std::lock_guard<std::recursive_mutex> guard(lock);                                  \
    call_log(__func__);                                                                 \
    if (!initialized) return failed(NOT_INITIALIZED, "initialization error");           \
    if (needs_context && current != &context) return failed(INVALID_CONTEXT, "invalid device context")

// Compute capability, as 10 * major + minor.
u32 capability() {
    u32 major = 9, minor = 0;
    sscanf(setting("STUB_CUDA_CAPABILITY", "9.0"), "%u.%u", &major, &minor);
    return 10 * major + minor;
}

// Records the work or does it.
Status submit(void* handle, Work work) {
    Stream* stream = known<Stream>(handle);
    if (stream == nullptr) return failed(INVALID_HANDLE, "invalid resource handle");
    if (stream->recording == nullptr) {
        stream->upload(~0ull);
        return work();
    }
    stream->recording->nodes.push_back(std::move(work));
    return SUCCESS;
}

// Copies to and from the host cannot be recorded here.
Status submit_with_host(void* handle, Work work) {
    Stream* stream = known<Stream>(handle);
    if (stream != nullptr && stream->recording != nullptr)
        return failed(STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing");
    return submit(handle, std::move(work));
}

Status run_kernel(const host::Kernel* kernel, const u32* grid, const u32* block, u32 dynamic, const u64* words) {
    host::Launch* launch = rewire_host_begin(kernel, grid, block, dynamic, words, 0, 1, 0, 1, 1ull << 40);
    rewire_host_work(launch);
    char why[1024];
    return rewire_host_end(launch, why, sizeof why) ? failed(LAUNCH_FAILED, why) : SUCCESS;
}

}  // namespace

API cuInit(u32) {
    call_log(__func__);
    if (atoi(setting("STUB_CUDA_DEVICES", "1")) == 0) return failed(NO_DEVICE, "no CUDA-capable device is detected");
    std::lock_guard<std::recursive_mutex> guard(lock);
    if (!initialized) {
        u64 bytes;
        heap.base = heap.top = rewire_host_reserve(&bytes);
        if (heap.base == 0) return failed(OUT_OF_MEMORY, "out of memory");
        const u64 wanted = strtoull(setting("STUB_CUDA_MEMORY", "8589934592"), nullptr, 10);
        heap.limit = wanted < bytes ? wanted : bytes;
    }
    initialized = true;
    return SUCCESS;
}

API cuDriverGetVersion(int* version) {
    call_log(__func__);
    *version = 13000;
    return SUCCESS;
}

API cuGetErrorName(int status, const char** name) {
    auto found = NAMES.find(status);
    *name = found == NAMES.end() ? nullptr : found->second;
    return found == NAMES.end() ? INVALID_VALUE : SUCCESS;
}

API cuGetErrorString(int status, const char** text) {
    *text = status == SUCCESS ? "no error" : message.c_str();
    return SUCCESS;
}

API cuDeviceGetCount(int* count) {
    ENTER(false);
    *count = atoi(setting("STUB_CUDA_DEVICES", "1"));
    return SUCCESS;
}

API cuDeviceGet(int* device, int ordinal) {
    ENTER(false);
    if (ordinal < 0 || ordinal >= atoi(setting("STUB_CUDA_DEVICES", "1"))) return failed(INVALID_DEVICE, "invalid device ordinal");
    *device = ordinal;
    return SUCCESS;
}

API cuDeviceGetName(char* name, int length, int) {
    ENTER(false);
    snprintf(name, size_t(length), "stub");
    return SUCCESS;
}

API cuDeviceGetAttribute(int* value, int attribute, int) {
    ENTER(false);
    switch (attribute) {
        case 16: *value = 1; return SUCCESS;  // multiprocessors
        case 75: *value = int(capability() / 10); return SUCCESS;
        case 76: *value = int(capability() % 10); return SUCCESS;
        case 97: *value = int(rewire_host_shared_limit(capability())); return SUCCESS;  // of a block, with the opt-in
        default: return failed(INVALID_VALUE, "this attribute is not known to the stub");
    }
}

API cuDeviceTotalMem_v2(size_t* bytes, int) {
    ENTER(false);
    *bytes = heap.limit;
    return SUCCESS;
}

API cuDevicePrimaryCtxRetain(void** out, int) {
    ENTER(false);
    *out = &context;
    return SUCCESS;
}

API cuCtxSetCurrent(void* which) {
    ENTER(false);
    if (which != &context) return failed(INVALID_CONTEXT, "invalid device context");
    current = which;
    return SUCCESS;
}

API cuStreamCreate(void** out, u32) {
    ENTER(true);
    streams.push_back(open_handle(new Stream));
    *out = streams.back();
    return SUCCESS;
}

API cuStreamSynchronize(void* stream) {
    ENTER(true);
    return submit_with_host(stream, [] { return SUCCESS; });
}

API cuEventCreate(void** out, u32) {
    ENTER(true);
    *out = open_handle(new Event);
    return SUCCESS;
}

API cuEventRecord(void* handle, void* stream) {
    ENTER(true);
    Event* event = known<Event>(handle);
    Stream* on = known<Stream>(stream);
    if (event == nullptr || on == nullptr) return failed(INVALID_HANDLE, "invalid resource handle");
    event->stream = on;
    event->uploads = on->uploaded + on->uploads.size();
    return SUCCESS;
}

API cuEventSynchronize(void* handle) {
    ENTER(true);
    Event* event = known<Event>(handle);
    if (event == nullptr) return failed(INVALID_HANDLE, "invalid resource handle");
    if (event->stream != nullptr) event->stream->upload(event->uploads);
    return SUCCESS;
}

API cuMemHostAlloc(void** out, size_t bytes, u32) {
    ENTER(true);
    *out = malloc(bytes);
    return *out == nullptr ? failed(OUT_OF_MEMORY, "out of memory") : SUCCESS;
}

API cuMemAlloc_v2(u64* out, size_t bytes) {
    ENTER(true);
    if (bytes == 0) return failed(INVALID_VALUE, "invalid argument");
    const u64 granules = (bytes + 255) / 256;
    std::vector<u64>& released = heap.released[granules];
    if (heap.used + granules * 256 > heap.limit) return failed(OUT_OF_MEMORY, "out of memory");
    if (released.empty()) {
        *out = heap.top;
        heap.top += granules * 256;
    } else {
        *out = released.back();
        released.pop_back();
    }
    heap.used += granules * 256;
    heap.live[*out] = bytes;
    rewire_host_allocate(*out, bytes);
    return SUCCESS;
}

API cuMemFree_v2(u64 address) {
    ENTER(true);
    auto found = heap.live.find(address);
    if (found == heap.live.end()) return failed(INVALID_VALUE, "not an allocation");
    const u64 granules = (found->second + 255) / 256;
    // A driver waits for the device first.
    for (Stream* stream : streams) stream->upload(~0ull);
    rewire_host_free(address, found->second);
    heap.released[granules].push_back(address);
    heap.used -= granules * 256;
    heap.live.erase(found);
    return SUCCESS;
}

API cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t bytes, void* stream) {
    ENTER(true);
    if (!heap.covers(to, bytes)) return failed(ILLEGAL_ADDRESS, "upload outside an allocation");
    Stream* on = known<Stream>(stream);
    if (on == nullptr || on->recording != nullptr) return submit_with_host(stream, [] { return SUCCESS; });
    on->uploads.push_back([=] { return memcpy(reinterpret_cast<void*>(to), from, bytes), SUCCESS; });
    return SUCCESS;
}

API cuMemcpyDtoHAsync_v2(void* to, u64 from, size_t bytes, void* stream) {
    ENTER(true);
    if (!heap.covers(from, bytes)) return failed(ILLEGAL_ADDRESS, "download outside an allocation");
    return submit_with_host(stream, [=] { return memcpy(to, reinterpret_cast<void*>(from), bytes), SUCCESS; });
}

API cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, void* stream) {
    ENTER(true);
    return submit(stream, [=] {
        if (!heap.covers(to, bytes) || !heap.covers(from, bytes)) return failed(ILLEGAL_ADDRESS, "copy outside an allocation");
        memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
        return SUCCESS;
    });
}

API cuMemsetD8Async(u64 to, unsigned char value, size_t bytes, void* stream) {
    ENTER(true);
    return submit(stream, [=] {
        if (!heap.covers(to, bytes)) return failed(ILLEGAL_ADDRESS, "fill outside an allocation");
        memset(reinterpret_cast<void*>(to), value, bytes);
        return SUCCESS;
    });
}

API cuModuleLoadDataEx(void** out, const char* ptx, u32 count, const int* options, void** values) {
    ENTER(true);
    auto refuse = [&](Status status, const char* why) {
        char* log = nullptr;
        size_t length = 0;
        for (u32 i = 0; i < count; ++i) {
            if (options[i] == 5) log = static_cast<char*>(values[i]);
            if (options[i] == 6) length = reinterpret_cast<size_t>(values[i]);
        }
        if (log != nullptr) snprintf(log, length, "stub: %s", why);
        return failed(status, why);
    };
    int major, minor, newest_major, newest_minor, target;
    char suffix = 0;
    const char *version = strstr(ptx, ".version "), *arch = strstr(ptx, ".target sm_");
    if (version == nullptr || arch == nullptr || sscanf(version, ".version %d.%d", &major, &minor) != 2 ||
        sscanf(arch, ".target sm_%d%c", &target, &suffix) < 1)
        return refuse(INVALID_PTX, "a PTX JIT compilation failed");
    sscanf(setting("STUB_CUDA_PTX", "9.0"), "%d.%d", &newest_major, &newest_minor);
    if (major * 100 + minor > newest_major * 100 + newest_minor)
        return refuse(UNSUPPORTED_PTX_VERSION, "the provided PTX was compiled with an unsupported toolchain.");
    const int here = int(capability());
    if (suffix == 'a' ? target != here : target > here) return refuse(NO_BINARY_FOR_GPU, "no kernel image is available");
    Module* module = open_handle(new Module);
    for (const char* at = ptx; (at = strstr(at, ".entry ")) != nullptr;) {
        at += strlen(".entry ");
        module->entries.insert(std::string(at, strcspn(at, " (\n")));
    }
    *out = module;
    return SUCCESS;
}

API cuModuleGetFunction(void** out, void* handle, const char* name) {
    ENTER(true);
    Module* module = known<Module>(handle);
    if (module == nullptr) return failed(INVALID_HANDLE, "invalid resource handle");
    const host::Kernel* kernel = module->entries.count(name) ? rewire_host_kernel(name) : nullptr;
    if (kernel == nullptr) return failed(NOT_FOUND, "named symbol not found");
    *out = open_handle(new Function{kernel});
    return SUCCESS;
}

API cuFuncGetAttribute(int* value, int attribute, void* handle) {
    ENTER(true);
    Function* function = known<Function>(handle);
    if (function == nullptr) return failed(INVALID_HANDLE, "invalid resource handle");
    if (attribute != 1) return failed(INVALID_VALUE, "this attribute is not known to the stub");
    *value = int(function->static_shared);
    return SUCCESS;
}

API cuFuncSetAttribute(void* handle, int attribute, int value) {
    ENTER(true);
    Function* function = known<Function>(handle);
    if (function == nullptr) return failed(INVALID_HANDLE, "invalid resource handle");
    if (attribute != 8 || value < 0 || u64(value) + function->static_shared > rewire_host_shared_limit(capability()))
        return failed(INVALID_VALUE, "invalid argument");
    function->max_dynamic = u32(value);
    return SUCCESS;
}

API cuLaunchKernel(void* handle, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 dynamic, void* stream,
                   void** params, void**) {
    ENTER(true);
    Function* function = known<Function>(handle);
    if (function == nullptr) return failed(INVALID_HANDLE, "invalid resource handle");
    const host::Kernel* kernel = function->kernel;
    const u32 grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    char why[256];
    if (const u32 error = rewire_host_refuses(kernel, grid, block, dynamic, capability(), why, sizeof why))
        return failed(Status(error), why);
    if (dynamic > function->max_dynamic) {
        snprintf(why, sizeof why, "invalid argument: %u bytes of dynamic shared memory and %u of static, without an opt-in",
                 dynamic, function->static_shared);
        return failed(INVALID_VALUE, why);
    }
    // A driver reads as many bytes as the kernel's parameter has, now.
    std::vector<u64> words;
    for (const char* letter = kernel->signature; *letter != 0; ++letter) {
        u64 word = 0;
        memcpy(&word, params[words.size()], strchr("iuf", *letter) ? 4 : 8);
        words.push_back(word);
    }
    return submit(stream, [=] {
        const u32 grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
        return run_kernel(kernel, grid, block, dynamic, words.data());
    });
}

API cuStreamBeginCapture_v2(void* handle, int) {
    ENTER(true);
    Stream* stream = known<Stream>(handle);
    if (stream == nullptr) return failed(INVALID_HANDLE, "invalid resource handle");
    if (stream->recording != nullptr) return failed(STREAM_CAPTURE_UNSUPPORTED, "already capturing");
    stream->recording = open_handle(new Graph);
    return SUCCESS;
}

API cuStreamEndCapture(void* handle, void** graph) {
    ENTER(true);
    Stream* stream = known<Stream>(handle);
    if (stream == nullptr) return failed(INVALID_HANDLE, "invalid resource handle");
    if (stream->recording == nullptr) return failed(STREAM_CAPTURE_UNMATCHED, "not capturing");
    *graph = stream->recording;
    stream->recording = nullptr;
    return SUCCESS;
}

API cuGraphInstantiateWithFlags(void** out, void* handle, u64) {
    ENTER(true);
    Graph* graph = known<Graph>(handle);
    if (graph == nullptr) return failed(INVALID_HANDLE, "invalid resource handle");
    *out = open_handle(new Graph(*graph));
    return SUCCESS;
}

API cuGraphLaunch(void* handle, void* stream) {
    ENTER(true);
    Graph* graph = known<Graph>(handle);
    if (graph == nullptr) return failed(INVALID_HANDLE, "invalid resource handle");
    return submit(stream, [=] {
        for (const Work& work : graph->nodes)
            if (Status status = work(); status != SUCCESS) return status;
        return SUCCESS;
    });
}

static Status destroy(void* handle) {
    Graph* graph = known<Graph>(handle);
    if (graph == nullptr) return failed(INVALID_HANDLE, "invalid resource handle");
    handles.erase(graph);
    delete graph;
    return SUCCESS;
}

API cuGraphDestroy(void* graph) {
    ENTER(true);
    return destroy(graph);
}

API cuGraphExecDestroy(void* graph) {
    ENTER(true);
    return destroy(graph);
}
