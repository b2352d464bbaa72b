// Device memory: one reserved range of addresses, in granules of 256 bytes, with what the checks know of each word.
#pragma once
#include "runtime.h"

namespace host {

constexpr u64 GRANULE = 256;

struct Granule {
    u32 epoch;  // launch that the words' marks belong to
    u16 valid;  // bytes that an allocation covers, from the start of the granule
    u16 unused;
};

struct Memory {
    u64 base, bytes;
    Granule* granules;
    u64* marks;                              // one per 4 bytes, see global.h
    u64 image_bias, image_begin, image_end;  // this program's own constants may be read
};

extern Memory memory;

}  // namespace host
