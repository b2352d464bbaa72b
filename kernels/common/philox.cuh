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

// Natural logarithm of a normal number in (0, 1], as src/rng.rs's `ln`.
__device__ inline float philox_ln(float x) {
    const u32 shifted = __float_as_uint(x) - 0x3F3504F3u;
    const float exponent = float(int(shifted) >> 23);
    const float m = __uint_as_float((shifted & 0x007FFFFFu) + 0x3F3504F3u);
    const float s = (m - 1.0f) / (m + 1.0f);
    const float q = s * s;
    const float series =
        1.0f + q * (1.0f / 3.0f + q * (1.0f / 5.0f + q * (1.0f / 7.0f + q * (1.0f / 9.0f))));
    return exponent * 0.693147180559945309f + 2.0f * s * series;
}

// (cos 2 pi v, sin 2 pi v) for v in [0, 1), as src/rng.rs's `turn`.
__device__ inline float2 philox_turn(float v) {
    const float quarters = 4.0f * v;
    const int nearest = int(quarters + 0.5f);
    const float a = (quarters - float(nearest)) * 1.57079632679489662f;
    const float q = a * a;
    const float cosine =
        1.0f + q * (-1.0f / 2.0f + q * (1.0f / 24.0f + q * (-1.0f / 720.0f + q * (1.0f / 40320.0f))));
    const float odd =
        1.0f + q * (-1.0f / 6.0f + q * (1.0f / 120.0f + q * (-1.0f / 5040.0f + q * (1.0f / 362880.0f))));
    const float sine = a * odd;
    switch (nearest % 4) {
        case 0: return make_float2(cosine, sine);
        case 1: return make_float2(-sine, cosine);
        case 2: return make_float2(-cosine, -sine);
        default: return make_float2(sine, -cosine);
    }
}

// Two standard normal numbers of two words (Box & Muller 1958), as src/rng.rs's `box_muller`: only exactly rounded
// operations, so the bits are the CPU's.
__device__ inline float2 box_muller(u32 u, u32 v) {
    const float radius = sqrtf(-2.0f * philox_ln(float((u >> 8) + 1) * (1.0f / 16777216.0f)));
    const float2 direction = philox_turn(unit(v));
    return make_float2(radius * direction.x, radius * direction.y);
}

// Standard normal numbers 4*block .. 4*block+3 of the stream, as src/rng.rs's `Philox::normals`.
__device__ inline float4 philox_normals(uint2 key, u32 layer, u64 step, u32 block) {
    const uint4 words = philox_block(key, layer, step, block);
    const float2 a = box_muller(words.x, words.y), b = box_muller(words.z, words.w);
    return make_float4(a.x, a.y, b.x, b.y);
}
