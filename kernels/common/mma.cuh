// Tensor-core products and the loads that feed them. Meeting points of a whole warp: all 32 lanes call.
//
// Fragments by lane, with g = lane / 4 and t = lane % 4:
//   m16n8k16 bf16   a.x (g, 2t..) a.y (g+8, 2t..) a.z (g, 2t+8..) a.w (g+8, 2t+8..), two elements a register;
//                   b.x (2t.., g) b.y (2t+8.., g)
//   m16n8k8 tf32    a.x (g, t) a.y (g+8, t) a.z (g, t+4) a.w (g+8, t+4);  b.x (t, g) b.y (t+4, g)
//   m16n8k32 bf16   the left operand 2:4 sparse: a as for m16n8k16 over its 16 kept columns;
//                   b.x (2t.., g) b.y (2t+8.., g) b.z (2t+16.., g) b.w (2t+24.., g)
//   accumulators    d.x (g, 2t) d.y (g, 2t+1) d.z (g+8, 2t) d.w (g+8, 2t+1)
// The twins add in f32 with k ascending. Tensor cores align and truncate inside a k-block, so values agree to
// rounding, not to the bit.
//
// Source: PTX ISA, "Matrix fragments for mma.m16n8k16", "mma.m16n8k8" and "sparse mma.m16n8k32", "ldmatrix".
#pragma once
#include "common/convert.cuh"

#ifdef HOST_SHIM

namespace host {

struct MmaLane {
    uint4 a;
    uint2 b;
    float4 d;
};

inline float low_half(u32 pair) { return __uint_as_float(pair << 16); }
inline float high_half(u32 pair) { return __uint_as_float(pair & 0xFFFF0000u); }

// d += a * b for 16 x K times K x 8, from plain arrays.
template <int K>
HOST_TWIN inline void multiply(const float (&a)[16][K], const float (&b)[K][8], void* const* lanes) {
    float d[16][8];
    for (u32 lane = 0; lane < 32; ++lane) {
        const float4& c = static_cast<MmaLane*>(lanes[lane])->d;
        const u32 g = lane / 4, t = lane % 4;
        d[g][2 * t] = c.x, d[g][2 * t + 1] = c.y, d[g + 8][2 * t] = c.z, d[g + 8][2 * t + 1] = c.w;
    }
    for (int m = 0; m < 16; ++m)
        for (int k = 0; k < K; ++k)
            for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
    for (u32 lane = 0; lane < 32; ++lane) {
        const u32 g = lane / 4, t = lane % 4;
        static_cast<MmaLane*>(lanes[lane])->d =
            make_float4(d[g][2 * t], d[g][2 * t + 1], d[g + 8][2 * t], d[g + 8][2 * t + 1]);
    }
}

HOST_TWIN inline void mma_bf16(void* const* lanes, u32) {
    float a[16][16], b[16][8];
    for (u32 lane = 0; lane < 32; ++lane) {
        const MmaLane& l = *static_cast<MmaLane*>(lanes[lane]);
        const u32 g = lane / 4, t = 2 * (lane % 4);
        a[g][t] = low_half(l.a.x), a[g][t + 1] = high_half(l.a.x);
        a[g + 8][t] = low_half(l.a.y), a[g + 8][t + 1] = high_half(l.a.y);
        a[g][t + 8] = low_half(l.a.z), a[g][t + 9] = high_half(l.a.z);
        a[g + 8][t + 8] = low_half(l.a.w), a[g + 8][t + 9] = high_half(l.a.w);
        b[t][g] = low_half(l.b.x), b[t + 1][g] = high_half(l.b.x);
        b[t + 8][g] = low_half(l.b.y), b[t + 9][g] = high_half(l.b.y);
    }
    multiply(a, b, lanes);
}

// The tensor core ignores the 13 lowest bits.
inline float tf32(u32 bits) { return __uint_as_float(bits & 0xFFFFE000u); }

HOST_TWIN inline void mma_tf32(void* const* lanes, u32) {
    float a[16][8], b[8][8];
    for (u32 lane = 0; lane < 32; ++lane) {
        const MmaLane& l = *static_cast<MmaLane*>(lanes[lane]);
        const u32 g = lane / 4, t = lane % 4;
        a[g][t] = tf32(l.a.x), a[g + 8][t] = tf32(l.a.y);
        a[g][t + 4] = tf32(l.a.z), a[g + 8][t + 4] = tf32(l.a.w);
        b[t][g] = tf32(l.b.x), b[t + 4][g] = tf32(l.b.y);
    }
    multiply(a, b, lanes);
}

struct SparseLane {
    uint4 a, b;
    float4 d;
    u32 metadata;
};

// Of four neighbouring columns two are kept; a nibble of the metadata holds their numbers, the smaller one lower.
template <u32 SELECTOR>
HOST_TWIN inline void mma_sparse_bf16(void* const* lanes, u32) {
    float a[16][32] = {}, b[32][8], d[16][8];
    bool kept[16][32] = {};
    for (u32 lane = 0; lane < 32; ++lane) {
        const SparseLane& l = *static_cast<SparseLane*>(lanes[lane]);
        const u32 g = lane / 4, t = 2 * (lane % 4);
        const u32 right[4] = {l.b.x, l.b.y, l.b.z, l.b.w}, left[4] = {l.a.x, l.a.y, l.a.z, l.a.w};
        for (u32 i = 0; i < 4; ++i) {
            b[8 * i + t][g] = low_half(right[i]), b[8 * i + t + 1][g] = high_half(right[i]);
            const u32 row = g + 8 * (i % 2), quad = lane % 4 + 4 * (i / 2);
            // Columns 0-15 are described by lane 2 * SELECTOR of the quad, 16-31 by the next one.
            const u32 word = static_cast<SparseLane*>(lanes[4 * g + 2 * SELECTOR + quad / 4])->metadata;
            const u32 nibble = word >> (16 * (i % 2) + 4 * (quad % 4)) & 15, first = nibble & 3, second = nibble >> 2;
            if (first >= second) reject(lane, "mma.sp: metadata out of order");
            a[row][4 * quad + first] = low_half(left[i]), a[row][4 * quad + second] = high_half(left[i]);
            kept[row][4 * quad + first] = kept[row][4 * quad + second] = true;
        }
        d[g][t] = l.d.x, d[g][t + 1] = l.d.y, d[g + 8][t] = l.d.z, d[g + 8][t + 1] = l.d.w;
    }
    for (int m = 0; m < 16; ++m)
        for (int k = 0; k < 32; ++k)
            for (int n = 0; n < 8 && kept[m][k]; ++n) d[m][n] += a[m][k] * b[k][n];
    for (u32 lane = 0; lane < 32; ++lane) {
        const u32 g = lane / 4, t = 2 * (lane % 4);
        static_cast<SparseLane*>(lanes[lane])->d = make_float4(d[g][t], d[g][t + 1], d[g + 8][t], d[g + 8][t + 1]);
    }
}

struct LdmatrixLane {
    const void* row;
    const void* pc;
    u32 out[4];
};

// Lane 8i+r gives row r of matrix i; register i of a lane is element (lane/4, 2*(lane%4)) and the next one of
// matrix i, rows and columns swapped for TRANS.
template <int MATRICES, bool TRANS>
HOST_TWIN inline void ldmatrix(void* const* lanes, u32) {
    u16 m[MATRICES][8][8];
    for (u32 lane = 0; lane < 8 * MATRICES; ++lane) {
        const LdmatrixLane& l = *static_cast<LdmatrixLane*>(lanes[lane]);
        read_matrix_row(m[lane / 8][lane % 8], l.row, lane, l.pc);
    }
    for (u32 lane = 0; lane < 32; ++lane) {
        const u32 g = lane / 4, t = 2 * (lane % 4);
        for (int i = 0; i < MATRICES; ++i)
            static_cast<LdmatrixLane*>(lanes[lane])->out[i] =
                TRANS ? m[i][t][g] | u32(m[i][t + 1][g]) << 16 : m[i][g][t] | u32(m[i][g][t + 1]) << 16;
    }
}

}  // namespace host

HOST_TWIN inline float4 mma_m16n8k16_bf16(uint4 a, uint2 b, float4 c, host::Site site = host::here()) {
    host::MmaLane lane{a, b, c};
    host::meet(host::mma_bf16, &lane, 0xFFFFFFFFu, "mma.m16n8k16", site.at(HOST_PC));
    return lane.d;
}

HOST_TWIN inline float4 mma_m16n8k8_tf32(uint4 a, uint2 b, float4 c, host::Site site = host::here()) {
    host::MmaLane lane{a, b, c};
    host::meet(host::mma_tf32, &lane, 0xFFFFFFFFu, "mma.m16n8k8", site.at(HOST_PC));
    return lane.d;
}

template <u32 SELECTOR>
HOST_TWIN inline float4 mma_sp_m16n8k32_bf16(uint4 a, uint4 b, float4 c, u32 metadata, host::Site site = host::here()) {
    host::SparseLane lane{a, b, c, metadata};
    host::meet(host::mma_sparse_bf16<SELECTOR>, &lane, 0xFFFFFFFFu, "mma.sp.m16n8k32", site.at(HOST_PC));
    return lane.d;
}

HOST_TWIN inline uint4 ldmatrix_x4(const void* row, host::Site site = host::here()) {
    host::LdmatrixLane lane{row, HOST_PC, {}};
    host::meet(host::ldmatrix<4, false>, &lane, 0xFFFFFFFFu, "ldmatrix.x4", site.at(HOST_PC));
    return make_uint4(lane.out[0], lane.out[1], lane.out[2], lane.out[3]);
}

HOST_TWIN inline uint4 ldmatrix_x4_trans(const void* row, host::Site site = host::here()) {
    host::LdmatrixLane lane{row, HOST_PC, {}};
    host::meet(host::ldmatrix<4, true>, &lane, 0xFFFFFFFFu, "ldmatrix.x4.trans", site.at(HOST_PC));
    return make_uint4(lane.out[0], lane.out[1], lane.out[2], lane.out[3]);
}

HOST_TWIN inline uint2 ldmatrix_x2(const void* row, host::Site site = host::here()) {
    host::LdmatrixLane lane{row, HOST_PC, {}};
    host::meet(host::ldmatrix<2, false>, &lane, 0xFFFFFFFFu, "ldmatrix.x2", site.at(HOST_PC));
    return make_uint2(lane.out[0], lane.out[1]);
}

HOST_TWIN inline uint2 ldmatrix_x2_trans(const void* row, host::Site site = host::here()) {
    host::LdmatrixLane lane{row, HOST_PC, {}};
    host::meet(host::ldmatrix<2, true>, &lane, 0xFFFFFFFFu, "ldmatrix.x2.trans", site.at(HOST_PC));
    return make_uint2(lane.out[0], lane.out[1]);
}

#else

// d = a * b + c for one 16 x 8 tile.
__device__ inline float4 mma_m16n8k16_bf16(uint4 a, uint2 b, float4 c) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c.x), "+f"(c.y), "+f"(c.z), "+f"(c.w)
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
    return c;
}

__device__ inline float4 mma_m16n8k8_tf32(uint4 a, uint2 b, float4 c) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c.x), "+f"(c.y), "+f"(c.z), "+f"(c.w)
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
    return c;
}

// d = a * b + c with a 2:4 sparse. `metadata` counts in lanes 2 * SELECTOR (columns 0-15) and the next (16-31) of each
// four: bits 4q..4q+3 for columns 4q..4q+3 of row g, and 16 bits higher for row g+8.
template <u32 SELECTOR>
__device__ inline float4 mma_sp_m16n8k32_bf16(uint4 a, uint4 b, float4 c, u32 metadata) {
    asm volatile(
        "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, %13;"
        : "+f"(c.x), "+f"(c.y), "+f"(c.z), "+f"(c.w)
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y), "r"(b.z), "r"(b.w), "r"(metadata), "n"(SELECTOR));
    return c;
}

// Four 8 x 8 matrices of 16-bit elements. Lane 8i+r passes the address of row r of matrix i, 16-byte aligned.
__device__ inline uint4 ldmatrix_x4(const void* row) {
    uint4 m;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m.x), "=r"(m.y), "=r"(m.z), "=r"(m.w)
                 : "r"(u32(__cvta_generic_to_shared(row)))
                 : "memory");
    return m;
}

__device__ inline uint4 ldmatrix_x4_trans(const void* row) {
    uint4 m;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m.x), "=r"(m.y), "=r"(m.z), "=r"(m.w)
                 : "r"(u32(__cvta_generic_to_shared(row)))
                 : "memory");
    return m;
}

// Two matrices; the addresses of lanes 16..31 are ignored.
__device__ inline uint2 ldmatrix_x2(const void* row) {
    uint2 m;
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(m.x), "=r"(m.y)
                 : "r"(u32(__cvta_generic_to_shared(row)))
                 : "memory");
    return m;
}

__device__ inline uint2 ldmatrix_x2_trans(const void* row) {
    uint2 m;
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(m.x), "=r"(m.y)
                 : "r"(u32(__cvta_generic_to_shared(row)))
                 : "memory");
    return m;
}

#endif
