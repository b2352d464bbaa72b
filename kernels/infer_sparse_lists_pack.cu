// infer_sparse_lists_pack.cu -- the lists of infer_sparse_lists.cu from a filter in device memory.
//
//   rows    as infer_sparse_pack_order leaves them
//   count   counts[warp,chunk,slot] = weights that are not 0 of filter rows[warp,slot] in the chunk of channels; lengths[warp,
//           chunk] = 16 bytes that their lists take, each a multiple, and their number
//   scan    starts[i] = sum of the lengths before i; sizes = both sums of all
//   write   the entries {weight, rounded, byte offset in the tile}: a filter's by channel, then tap; zeros where a list ends
//           within 16 bytes, and in the 16 bytes behind the last
//
// Shapes   w: [k,taps,c] f32; rows: [warps,8] i32, -1 for none; counts: [warps,chunks,8] u16; lengths: [warps,chunks] int2;
//          starts: [warps,chunks] i32; sizes: [2] i32; entries: [2 * (sizes[0] + 1)] uint2. taps * chunk < 2^16. rounding: 0
//          f32, 1 tf32, 2 bf16.
// Launch   count, write: 256 threads, a warp a slot, grid (warps, chunks). scan: 256 threads, one block.
// Result   deterministic, the same bits as the loops of src/ops/infer_sparse_lists/tests/packing.rs; no atomics.
// Cost     once for each layer of a plan. Bytes: w twice, neighbouring lanes reading neighbouring channels, and 8 for each kept
//          weight. scan is one block: 9 steps a thread for 64 warps and 36 chunks.
// Source   as infer_sparse_lists.cu.
// Host     src/ops/infer_sparse_lists/pack.rs     Cases  src/ops/infer_sparse_lists/tests.rs
#include "common/convert.cuh"
#include "common/warp.cuh"

namespace {

constexpr i32 FILTERS = 8;

// The part of a filter that a warp lists: `chunk` channels of each tap.
struct List {
    const float* w;
    i32 row, taps, c, first, channels;

    __device__ List(const float* w, const i32* rows, i32 taps, i32 c, i32 chunk)
        : row(rows[i32(blockIdx.x) * FILTERS + i32(warp_id())]), taps(taps), c(c), first(i32(blockIdx.y) * chunk),
          channels(min(chunk, c - first)) {
        this->w = w + i64(max(row, 0)) * taps * c + first;
    }

    // 0 where there is none.
    __device__ float weight(i32 tap, i32 channel) const { return row >= 0 && channel < channels ? w[tap * c + channel] : 0.0f; }

    __device__ i32 count(i32 channel) const {
        i32 count = 0;
        for (i32 tap = 0; tap < taps; ++tap) count += weight(tap, channel) != 0.0f;
        return count;
    }
};

// 16 bytes that so many entries take.
__device__ inline i32 length(i32 entries) { return (entries + 1) / 2; }

// Sum over the lanes below this one.
__device__ inline i32 sum_below(i32 value) {
    i32 sum = value;
    for (u32 delta = 1; delta < 32; delta *= 2) {
        const i32 below = shfl_up(sum, delta);
        if (lane_id() >= delta) sum += below;
    }
    return sum - value;
}

__device__ inline u32 rounded(float weight, i32 rounding) {
    if (rounding == 1) return f32_to_tf32(weight);
    return rounding == 2 ? u32(f32_to_bf16(weight).bits) << 16 : __float_as_uint(weight);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) infer_sparse_lists_pack_count(const float* w, const i32* rows, uint4* counts, int2* lengths, i32 taps, i32 c, i32 chunk) {
    SHARED(own, i32[FILTERS]);
    const List list(w, rows, taps, c, chunk);
    i32 count = 0;
    for (i32 channel = i32(lane_id()); channel < list.channels; channel += 32) count += list.count(channel);
    count = warp_sum(count);
    if (lane_id() == 0) own[warp_id()] = count;
    __syncthreads();
    if (threadIdx.x != 0) return;
    u32 pairs[FILTERS / 2];
    i32 all = 0, kept = 0;
#pragma unroll
    for (i32 i = 0; i < FILTERS; ++i) {
        pairs[i / 2] = i % 2 == 0 ? u32(own[i]) : pairs[i / 2] | u32(own[i]) << 16;
        all += length(own[i]);
        kept += own[i];
    }
    const i64 at = i64(blockIdx.x) * gridDim.y + blockIdx.y;
    store_whole(counts + at, make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
    int2 both;
    both.x = all, both.y = kept;
    store_whole(lengths + at, both);
}

extern "C" __global__ void __launch_bounds__(256) infer_sparse_lists_pack_scan(const int2* lengths, i32* starts, i32* sizes, i32 lists) {
    SHARED(warps, i32[8]);
    const i32 each = (lists + 255) / 256;
    const i32 first = min(i32(threadIdx.x) * each, lists), end = min(first + each, lists);
    i32 own = 0, kept = 0;
    for (i32 i = first; i < end; ++i) own += lengths[i].x, kept += lengths[i].y;
    i32 start = sum_below(own);
    if (lane_id() == 31) warps[warp_id()] = start + own;
    kept = block_sum(kept);  // with barriers: the warps' sums are there
    for (u32 i = 0; i < warp_id(); ++i) start += warps[i];
    for (i32 i = first; i < end; ++i) {
        starts[i] = start;
        start += lengths[i].x;
    }
    if (threadIdx.x == 255) sizes[0] = start, sizes[1] = kept;
}

extern "C" __global__ void __launch_bounds__(256) infer_sparse_lists_pack_write(const float* w, const i32* rows, const uint4* counts, const i32* starts, uint2* entries, i32 rounding, i32 s, i32 width, i32 plane, i32 taps, i32 c, i32 chunk) {
    const List list(w, rows, taps, c, chunk);
    const i64 at = i64(blockIdx.x) * gridDim.y + blockIdx.y;
    const uint4 all = load_whole(counts + at);
    const u32 pairs[FILTERS / 2] = {all.x, all.y, all.z, all.w};
    i32 start = starts[at], own = 0;
#pragma unroll
    for (i32 i = 0; i < FILTERS; ++i) {
        own = i32(pairs[i / 2] >> (i % 2 * 16) & 0xFFFF);
        if (i == i32(warp_id())) break;
        start += length(own);
    }
    uint2* out = entries + 2 * i64(start);
    for (i32 from = 0; from < list.channels; from += 32) {
        const i32 channel = from + i32(lane_id()), here = list.count(channel), below = sum_below(here);
        uint2* next = out + below;
        for (i32 tap = 0; here > 0 && tap < taps; ++tap) {
            const float weight = list.weight(tap, channel);
            if (weight == 0.0f) continue;
            const u32 offset = u32((channel * plane + tap / s * width + tap % s) * 16);
            store_whole(next++, make_uint2(rounded(weight, rounding), offset));
        }
        out += shfl_idx(below + here, 31);
    }
    if (lane_id() != 0) return;
    if (own % 2 != 0) store_whole(out++, make_uint2(0, 0));
    if (blockIdx.x + 1 == gridDim.x && blockIdx.y + 1 == gridDim.y && warp_id() + 1 == u32(FILTERS)) {
        store_whole(out, make_uint2(0, 0));
        store_whole(out + 1, make_uint2(0, 0));
    }
}
