// topk.cu -- radix select: flips the mask positions of the k smallest (or largest) |x| among those of one value.
//
//   rank(i) = (key(i), i) as one number: key = the 31 bits of |x[i]|, or their complement for the largest; below them
//   `index_bits` bits of the index, so that no two candidates are equal and the lower index goes first.
//   topk_histogram   counts the digit at `shift` of the candidates whose higher digits are the prefix
//   topk_select      finds the digit that holds the candidate of rank `left`, appends it to the prefix; clears the counters
//   topk_flip        m[i] <- 1 - from for the candidates with rank(i) <= prefix
//
// Shapes   x: [len] f32; m: [len] u8; histogram: [2048] u32, zero at the start; state: {prefix, left}, two u64.
// Launch   histogram, flip: 1-D grid-stride, blocks of 256; select: one block of 256. Digits from the top, `width` <= 11
//          bits each; `left` > 0 in the first call of select (`first` in the first of histogram), which reads no state.
// Result   deterministic and exact: only integer atomics; all candidates where there are fewer than k.
// Cost     5 bytes an element and digit, 20 at a time: five digits for a million elements; the flip reads 5 and writes 1.
//          No host round trip.
// Source   Alabi et al. 2012 (radix select); the index as low key: Kundu et al. 2021 needs one answer for ties.
// Host     src/ops/topk.rs     Cases  tests/cases/topk.toml
#include "common/atomic.cuh"
#include "common/elements.cuh"
#include "common/warp.cuh"

constexpr u32 BINS = 2048;

__device__ inline u64 rank_of(float x, i64 index, i32 largest, i32 index_bits) {
    const u32 magnitude = __float_as_uint(x) & 0x7FFFFFFFu;
    return u64(largest ? 0x7FFFFFFFu - magnitude : magnitude) << index_bits | u64(index);
}

struct Histogram {
    const float* x;
    const u8* m;
    u32* bins;
    u64 prefix;
    i32 from, largest, index_bits, width, shift;

    template <int V>
    __device__ void at(i64 i) const {
        const Pack<u8, V> mask = load<V>(m + i);
        const Pack<float, V> value = load<V>(x + i);
        for (int j = 0; j < V; ++j) {
            if (mask.at[j] != from) continue;
            const u64 rank = rank_of(value.at[j], i + j, largest, index_bits);
            if (rank >> (shift + width) == prefix) atomic_add_u32(&bins[rank >> shift & ((1u << width) - 1)], 1);
        }
    }
};

extern "C" __global__ void __launch_bounds__(256) topk_histogram_f32(const float* x, const u8* m, const u64* state, u32* histogram, i32 from, i32 largest, i32 index_bits, i32 width, i32 shift, i32 first, i64 len) {
    SHARED(bins, u32[BINS]);
    for (u32 bin = threadIdx.x; bin < BINS; bin += blockDim.x) bins[bin] = 0;
    __syncthreads();
    each_pack(len, Histogram{x, m, bins, first ? 0 : state[0], from, largest, index_bits, width, shift});
    __syncthreads();
    for (u32 bin = threadIdx.x; bin < BINS; bin += blockDim.x)
        if (bins[bin] != 0) atomic_add_u32(&histogram[bin], bins[bin]);
}

extern "C" __global__ void __launch_bounds__(256) topk_select(u32* histogram, u64* state, u64 left, i32 width) {
    constexpr u32 EACH = BINS / 256;
    SHARED(warps, u32[8]);
    u32 counts[EACH];
    u32 own = 0;
    for (u32 j = 0; j < EACH; ++j) {
        u32* bin = &histogram[threadIdx.x * EACH + j];
        counts[j] = *bin;
        own += counts[j];
        *bin = 0;
    }
    // Candidates in the bins of the threads up to this one.
    u32 upto = own;
    for (u32 delta = 1; delta < 32; delta *= 2) {
        const u32 below = shfl_up(upto, delta);
        if (lane_id() >= delta) upto += below;
    }
    if (lane_id() == 31) warps[warp_id()] = upto;
    __syncthreads();
    u32 total = 0;
    for (u32 warp = 0; warp < 8; ++warp) {
        if (warp < warp_id()) upto += warps[warp];
        total += warps[warp];
    }
    const u64 prefix = left > 0 ? 0 : state[0];
    const u64 wanted = left > 0 ? left : state[1];
    __syncthreads();  // all have read the state
    if (wanted > total) {
        if (threadIdx.x == 0) state[0] = ~u64(0), state[1] = wanted;
        return;
    }
    u64 below = upto - own;
    for (u32 j = 0; j < EACH; ++j) {
        if (below < wanted && wanted <= below + counts[j]) {
            state[0] = prefix << width | (threadIdx.x * EACH + j);
            state[1] = wanted - below;
        }
        below += counts[j];
    }
}

struct Flip {
    const float* x;
    u8* m;
    u64 last;
    i32 from, largest, index_bits;

    template <int V>
    __device__ void at(i64 i) const {
        Pack<u8, V> mask = load<V>(m + i);
        const Pack<float, V> value = load<V>(x + i);
        for (int j = 0; j < V; ++j)
            if (mask.at[j] == from && rank_of(value.at[j], i + j, largest, index_bits) <= last) mask.at[j] = u8(1 - from);
        store(m + i, mask);
    }
};

extern "C" __global__ void __launch_bounds__(256) topk_flip_f32(const float* x, u8* m, const u64* state, i32 from, i32 largest, i32 index_bits, i64 len) {
    each_pack(len, Flip{x, m, state[0], from, largest, index_bits});
}
