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

// ln(u) for u in [2^-24, 1], from IEEE operations and fmaf alone: the same bits on every device as `ln` of src/rng.rs.
// u = 2^e * (1 + f) with 1 + f in (0.70, 1.42); the polynomial is (ln(1 + f) - f + f^2/2) / f^3.
__device__ inline float philox_ln(float u) {
    const u32 bits = __float_as_uint(u);
    const u32 shift = (bits + 0x004AFB0D) >> 23;  // the mantissa rounds up from sqrt(2) on
    const float e = float(i32(shift) - 127);
    const float f = __uint_as_float(bits + ((127 - shift) << 23)) - 1.0f;
    float p = 0.06971611f;
    p = fmaf(p, f, -0.11479734f);
    p = fmaf(p, f, 0.11685420f);
    p = fmaf(p, f, -0.12425687f);
    p = fmaf(p, f, 0.14249058f);
    p = fmaf(p, f, -0.16667803f);
    p = fmaf(p, f, 0.20000716f);
    p = fmaf(p, f, -0.24999997f);
    p = fmaf(p, f, 0.33333331f);
    const float z = f * f;
    const float tail = fmaf(e, 1.42860677e-6f, fmaf(f * z, p, -0.5f * z));
    return fmaf(e, 0.69314575f, f + tail);
}

// Two independent standard normal numbers from two words, by Box and Muller: r cos(a) and r sin(a) with
// r = sqrt(-2 ln u), u in (0, 1] from the first word, and a the second word's share of a turn.
__device__ inline float2 normal_pair(u32 radius, u32 turn) {
    const float r = sqrtf(-2.0f * philox_ln(float((radius >> 8) + 1) * (1.0f / 16777216.0f)));
    const u32 t = turn >> 8, quarter = (t + (1u << 21)) >> 22;
    const float x = float(i32(t) - i32(quarter << 22)) * (6.2831853f / 16777216.0f);
    const float z = x * x;
    const float s = fmaf(x * z, fmaf(fmaf(-1.9587891e-4f, z, 8.3327480e-3f), z, -0.16666664f), x);
    const float c = fmaf(z * z, fmaf(fmaf(2.4547943e-5f, z, -1.3888302e-3f), z, 0.041666664f), fmaf(-0.5f, z, 1.0f));
    const bool swap = quarter % 2 == 1;
    const float cosine = swap ? s : c, sine = swap ? c : s;
    return make_float2(r * (quarter % 4 == 1 || quarter % 4 == 2 ? -cosine : cosine), r * (quarter % 4 >= 2 ? -sine : sine));
}

// Standard normal numbers 4*block .. 4*block+3 of the stream, as src/rng.rs's `Philox::normals`.
__device__ inline float4 philox_normals(uint2 key, u32 layer, u64 step, u32 block) {
    const uint4 n = philox_block(key, layer, step, block);
    const float2 first = normal_pair(n.x, n.y), second = normal_pair(n.z, n.w);
    return make_float4(first.x, first.y, second.x, second.y);
}

// Number `index` of the stream as a standard normal number, as src/rng.rs's `Philox::normal`.
__device__ inline float philox_normal(uint2 key, u32 layer, u64 step, u64 index) {
    const uint4 n = philox_block(key, layer, step, u32(index / 4));
    const float2 pair = index % 4 < 2 ? normal_pair(n.x, n.y) : normal_pair(n.z, n.w);
    return index % 2 == 0 ? pair.x : pair.y;
}
