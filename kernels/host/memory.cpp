#include "memory.h"

#include "api.h"

#include <link.h>
#include <string.h>
#include <sys/mman.h>

namespace host {

Memory memory;

static int find_image(dl_phdr_info* info, size_t, void*) {
    const u64 here = reinterpret_cast<u64>(&find_image);
    u64 begin = ~0ull, end = 0;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
        const u64 at = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
        begin = at < begin ? at : begin;
        const u64 stop = at + info->dlpi_phdr[i].p_memsz;
        end = stop > end ? stop : end;
    }
    if (here < begin || here >= end) return 0;
    memory.image_begin = begin;
    memory.image_end = end;
    memory.image_bias = info->dlpi_addr;
    return 1;
}

}  // namespace host

using namespace host;

u64 rewire_host_reserve(u64* bytes) {
    dl_iterate_phdr(find_image, nullptr);
    catch_faults();
    for (u64 size = 64ull << 30; size >= 1ull << 30; size /= 2) {
        const u64 base = reserve(size), granules = reserve(size / GRANULE * sizeof(Granule)), marks = reserve(2 * size);
        if (base != 0 && granules != 0 && marks != 0) {
            memory.base = base;
            memory.bytes = size;
            memory.granules = reinterpret_cast<Granule*>(granules);
            memory.marks = reinterpret_cast<u64*>(marks);
            *bytes = size;
            return base;
        }
        if (base != 0) munmap(reinterpret_cast<void*>(base), size);
        if (granules != 0) munmap(reinterpret_cast<void*>(granules), size / GRANULE * sizeof(Granule));
        if (marks != 0) munmap(reinterpret_cast<void*>(marks), 2 * size);
    }
    return 0;
}

void rewire_host_allocate(u64 address, u64 bytes) {
    memset(reinterpret_cast<void*>(address), 0xFF, bytes);
    Granule* granule = memory.granules + (address - memory.base) / GRANULE;
    for (u64 left = bytes; left > 0; ++granule) {
        granule->valid = u16(left < GRANULE ? left : GRANULE);
        left -= granule->valid;
    }
}

void rewire_host_free(u64 address, u64 bytes) {
    Granule* granule = memory.granules + (address - memory.base) / GRANULE;
    for (u64 i = 0; i < (bytes + GRANULE - 1) / GRANULE; ++i) granule[i].valid = 0;
    const u64 page = 64 * 1024, begin = (address + page - 1) / page * page, end = (address + bytes) / page * page;
    if (bytes >= 1 << 20) {
        madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
        madvise(memory.marks + (begin - memory.base) / 4, 2 * (end - begin), MADV_DONTNEED);
    }
}

u64 rewire_host_image() { return memory.image_bias; }
