// Philox4x32-10: the same arithmetic, and the same bits, as src/rng.rs.
//
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once
#include "common/math.cuh"

// Ten rounds over the 128-bit counter `c` with the 64-bit key `k`.
__device__ inline uint4 philox4x32_10(uint4 c, uint2 k) {
    for (int round = 0; round < 10; ++round) {
        const u64 p0 = u64(c.x) * 0xD2511F53u;
        const u64 p1 = u64(c.z) * 0xCD9E8D57u;
        c = make_uint4(u32(p1 >> 32) ^ c.y ^ k.x, u32(p1), u32(p0 >> 32) ^ c.w ^ k.y, u32(p0));
        k = make_uint2(k.x + 0x9E3779B9u, k.y + 0xBB67AE85u);
    }
    return c;
}

// Numbers 4*block .. 4*block+3 of the stream (key, layer, step), as src/rng.rs's `Philox::block`.
__device__ inline uint4 philox_block(uint2 key, u32 layer, u64 step, u32 block) {
    return philox4x32_10(make_uint4(block, layer, u32(step), u32(step >> 32)), key);
}

// Number `index` of that stream, as src/rng.rs's `Philox::bits`.
__device__ inline u32 philox_bits(uint2 key, u32 layer, u64 step, u64 index) {
    const uint4 n = philox_block(key, layer, step, u32(index / 4));
    const u32 i = u32(index % 4);
    return i == 0 ? n.x : i == 1 ? n.y : i == 2 ? n.z : n.w;
}

// The upper 24 bits times 2^-24: exact, in [0, 1).
__device__ inline float unit(u32 bits) { return float(bits >> 8) * (1.0f / 16777216.0f); }
