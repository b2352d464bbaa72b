// infer_sparse_lists.cu -- inference with an irregularly masked filter on CUDA cores: y = pool(relu(x * w + bias + residual)).
//
//   y[k,p,q,n] = bias[k] + residual[k,p,q,n] + sum over kept w[k,r,s,c] of x[c, p*stride - pad + r, q*stride - pad + s, n] * w[k,r,s,c]
//
// behind which may come a ReLU and the largest of each 2 x 2 outputs, an odd last row or column left out.
//
// Output-stationary: a filter is a list of its kept weights, each with the offset of its input, which is the same for all
// outputs. The lists run over sums that stay in registers. So only kept weights are multiplied, however few they are.
// Activations are f32 with 4 images innermost, or bf16 with 8 (common/image_planes.cuh). A thread block copies its pixels with
// their border, some channels at a time ("chunk"), to shared memory, zeros where the image ends. With tf32 the thread that
// copied a row also rounds it. A warp computes 8 filters one after another; a lane has 8 sums of a filter: two outputs, one below
// the other, of 4 images, or one output of 8. A kept weight takes two loads of 16 bytes (bf16: one, and the widening) and 8 fmaf;
// the next two weights are loaded meanwhile. The blocks of images, `sheet` rows apart, are the fastest lanes, so that the 8
// lanes whose 16 bytes are one access to shared memory read different banks.
//
// Shapes   x: [blocks,c,h,w,i], residual: [blocks,k,p,q,i] or null, y: as residual, or [blocks,k,p/2,q/2,i] with `pool`;
//          below 2^31 elements, f32 with i = 4 (f32, tf32) or bf16 with i = 8 (bf16). bias: [k] f32. rows: [warps,8] i32, the
//          filter or -1. counts: [warps,chunks,8] u16, weights of each filter in each chunk; entries: {f32 weight, byte offset
//          in the tile} in that order, each filter and chunk from 16 bytes on, 16 bytes more at the end; starts:
//          [warps,chunks] i32, where those of a warp and chunk begin, in 16 bytes.
// Launch   32 threads for each of 1 to 8 warps, grid (tiles, ceil(warps / warps of a block)), a tile being 2^block_bits x
//          tile_p x tile_q = 64 outputs of 4 images or 32 of 8, tile_p and tile_q even; dynamic shared memory
//          min(chunks, 2) * chunk * plane * 16 bytes, plane >= 2^block_bits * sheet, sheet >= (a block's inputs with border).
// Result   deterministic: one writer per element, entries in the order of the packing; no atomics. Sums are f32; with bf16
//          they are rounded at the end.
// Cost     predicted, not measured: shared memory bounds it. A kept weight by the 64 x 4 outputs of a tile is 1 KiB of
//          loads, 8 cycles at 128 B, and half a cycle for its entry: 512 FLOP in 8.5 cycles, 24 % of the multiprocessor's
//          fmaf; 15.7 TFLOP/s of kept weights on 132 of them at 1.98 GHz. A chunk is copied once for up to 64 filters:
//          tile_height * tile_width * 16 B a channel and block of images from L2, and once more from and to shared memory
//          with tf32. bf16 reads half of these bytes for as many outputs and is bound by issue: 8 fmaf, 8 operations that
//          widen and what loads and loops are 21.5 instructions of sm_90a's machine code for 4 schedulers, 5.4 cycles: 24.9
//          TFLOP/s.
//          With stride 2 and fewer than 8 blocks of images, lanes meet in banks: twice the cycles of loads; with stride 4 and
//          one block four times.
//          Taps in the padding are multiplied.
// Source   output-stationary direct convolution over lists of offsets: Park et al. 2017, Chen 2018; filters in the order of
//          their lengths: Gale et al. 2020.
// Host     src/ops/infer_sparse_lists.rs     Cases  tests/cases/infer_sparse_conv2d.toml
#include "common/image_planes.cuh"

namespace {

constexpr i32 FILTERS = 8;
// Outputs of a lane, one below the other: 8 sums of a filter with the images of each.
template <class Mode>
constexpr i32 LANE_ROWS = 8 / CHUNK<Mode>;

// One pixel or sum of the images of a block.
template <class Mode>
struct Images {
    static constexpr int COUNT = CHUNK<Mode>;
    float at[COUNT];

    __device__ static Images load(const void* from) {
        const uint4 row = load_whole(static_cast<const uint4*>(from));
        const u32 words[4] = {row.x, row.y, row.z, row.w};
        Images images;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const u32 word = words[i * 4 / COUNT];
            images.at[i] = __uint_as_float(!Mode::BF16 ? word : i % 2 == 0 ? word << 16 : word & 0xFFFF0000u);
        }
        return images;
    }

    __device__ void store(uint4* to) const {
        u32 words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
            words[i] = Mode::BF16 ? pack_bf16x2(at[2 * i % COUNT], at[(2 * i + 1) % COUNT]) : __float_as_uint(at[i]);
        store_whole(to, make_uint4(words[0], words[1], words[2], words[3]));
    }

    // op(value, number of the image) for each.
    template <class Op>
    __device__ Images map(Op op) const {
        Images images;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) images.at[i] = op(at[i], i);
        return images;
    }

    __device__ Images larger(const Images& other) const {
        return map([&](float value, int i) { return max_nan(value, other.at[i]); });
    }

    // The larger ones of these and of the lane that differs in `bits`.
    __device__ Images larger_across(u32 bits) const {
        return map([&](float value, int) { return max_nan(value, shfl_xor(value, bits)); });
    }
};

// The first of this lane's outputs.
template <class Mode>
struct Lane {
    i32 block, p, q;

    __device__ explicit Lane(const PlaneTile& tile) {
        const i32 lane = i32(lane_id()), pixel = lane >> tile.block_bits;
        block = lane & (tile.blocks() - 1);
        q = pixel % tile.q;
        p = pixel / tile.q * LANE_ROWS<Mode>;
    }
};

// What becomes of a sum.
template <class Mode>
struct Epilogue {
    const float* bias;
    const uint4* residual;
    uint4* y;
    i32 relu, pool;

    // This lane's outputs of filter `row`; all lanes call.
    __device__ void put(Images<Mode> (&sum)[LANE_ROWS<Mode>], i32 row, const Lane<Mode>& lane, const TilePlace& place,
                        const PlaneLayer& layer, const PlaneTile& tile) const {
        const i32 block = place.block + lane.block, p = place.p + lane.p, q = place.q + lane.q;
        const i32 plane = block * layer.k + row;
        const float more = bias[row], low = relu ? 0.0f : -__uint_as_float(0x7F800000u);
#pragma unroll
        for (i32 j = 0; j < LANE_ROWS<Mode>; ++j) {
            const i32 at = (plane * layer.p + p + j) * layer.q + q;
            const bool inside = block < layer.blocks && p + j < layer.p && q < layer.q;
            sum[j] = sum[j].map([&](float value, int) { return value + more; });
            if (inside && residual != nullptr) {
                const Images<Mode> added = Images<Mode>::load(residual + at);
                sum[j] = sum[j].map([&](float value, int i) { return value + added.at[i]; });
            }
            sum[j] = sum[j].map([&](float value, int) { return max_nan(value, low); });
            if (inside && !pool) sum[j].store(y + at);
        }
        if (!pool) return;
        // Below in this lane, or in the one a row of the tile further.
        Images<Mode> most = LANE_ROWS<Mode> == 2 ? sum[0].larger(sum[LANE_ROWS<Mode> - 1])
                                                 : sum[0].larger_across(u32(tile.q << tile.block_bits));
        most = most.larger_across(u32(tile.blocks()));
        if (p % 2 == 0 && q % 2 == 0 && block < layer.blocks && p + 1 < layer.p && q + 1 < layer.q)
            most.store(y + (plane * (layer.p / 2) + p / 2) * (layer.q / 2) + q / 2);
    }
};

// Where one lane finds the pixel of a tap at offset 0, and the one of its next output.
template <class Mode>
struct Taps {
    const u8* stage;
    u32 down;

    __device__ void entry(Images<Mode> (&sum)[LANE_ROWS<Mode>], u32 weight, u32 offset) const {
        Images<Mode> x[LANE_ROWS<Mode>];
#pragma unroll
        for (i32 j = 0; j < LANE_ROWS<Mode>; ++j) x[j] = Images<Mode>::load(stage + offset + j * down);
#pragma unroll
        for (i32 j = 0; j < LANE_ROWS<Mode>; ++j)
            sum[j] = sum[j].map([&](float value, int i) { return fmaf(__uint_as_float(weight), x[j].at[i], value); });
    }
};

template <class Mode>
__device__ inline void convolve(u8* shared, const u8* x, const uint4* entries, const uint4* counts, const i32* starts,
                                const i32* rows, i32 warps, i32 chunks, i32 chunk, const Epilogue<Mode>& epilogue,
                                const PlaneLayer& layer, const PlaneTile& tile) {
    const TileStages stages(shared, x, chunks, chunk, layer, tile);
    const Lane<Mode> lane(tile);
    stages.load(0);

    const i32 warp = i32(blockIdx.y) * i32(blockDim.x / 32) + i32(warp_id());
    const bool works = warp < warps;
    const uint4* ahead = entries + (works ? starts[i64(warp) * chunks] : 0);
    uint4 next = __ldg(ahead);
    const i32 corner = tile.row(0, lane.block, lane.p * layer.stride, lane.q * layer.stride) * PLANE_ROW;
    Images<Mode> sum[FILTERS][LANE_ROWS<Mode>] = {};
    for (i32 number = 0; number < chunks; ++number) {
        u8* const stage = stages.stage(number);
        cp_async_wait<0>();
        if (Mode::TF32) {
            stages.each_row(number, [&](i32 channel, i32 of, i32 i, i32 j) {
                uint4* const copied = reinterpret_cast<uint4*>(stage) + tile.row(channel, of, i, j);
                store_whole(copied, round_tf32(load_whole(copied)));
            });
        }
        __syncthreads();  // everybody's copies are there, and nobody reads the other stage any more
        stages.load(number + 1);
        if (!works) continue;
        const Taps<Mode> taps{stage + corner, u32(layer.stride * tile.width * PLANE_ROW)};
        const uint4 all = __ldg(counts + i64(warp) * chunks + number);
        const u32 pairs[4] = {all.x, all.y, all.z, all.w};
#pragma unroll
        for (i32 f = 0; f < FILTERS; ++f) {
            for (i32 left = i32(pairs[f / 2] >> (f % 2 * 16) & 0xFFFF); left > 0; left -= 2) {
                const uint4 two = next;
                next = __ldg(++ahead);
                taps.entry(sum[f], two.x, two.y);
                if (left > 1) taps.entry(sum[f], two.z, two.w);
            }
        }
    }

    if (!works) return;
#pragma unroll
    for (i32 f = 0; f < FILTERS; ++f) {
        const i32 row = rows[warp * FILTERS + f];
        if (row >= 0) epilogue.put(sum[f], row, lane, stages.place, layer, tile);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256, 2) infer_sparse_lists_f32(const u8* x, const uint4* entries, const uint4* counts, const i32* starts, const i32* rows, const float* bias, const uint4* residual, uint4* y, i32 warps, i32 chunks, i32 chunk, i32 blocks, i32 c, i32 h, i32 w, i32 k, i32 p, i32 q, i32 stride, i32 pad, i32 block_bits, i32 tile_p, i32 tile_q, i32 tile_height, i32 tile_width, i32 sheet, i32 plane, i32 relu, i32 pool) {
    DYN_SHARED(u8, shared);
    convolve<F32>(shared, x, entries, counts, starts, rows, warps, chunks, chunk, {bias, residual, y, relu, pool},
                  {blocks, c, h, w, k, p, q, stride, pad}, {block_bits, tile_p, tile_q, tile_height, tile_width, sheet, plane});
}

extern "C" __global__ void __launch_bounds__(256, 2) infer_sparse_lists_tf32(const u8* x, const uint4* entries, const uint4* counts, const i32* starts, const i32* rows, const float* bias, const uint4* residual, uint4* y, i32 warps, i32 chunks, i32 chunk, i32 blocks, i32 c, i32 h, i32 w, i32 k, i32 p, i32 q, i32 stride, i32 pad, i32 block_bits, i32 tile_p, i32 tile_q, i32 tile_height, i32 tile_width, i32 sheet, i32 plane, i32 relu, i32 pool) {
    DYN_SHARED(u8, shared);
    convolve<Tf32>(shared, x, entries, counts, starts, rows, warps, chunks, chunk, {bias, residual, y, relu, pool},
                  {blocks, c, h, w, k, p, q, stride, pad}, {block_bits, tile_p, tile_q, tile_height, tile_width, sheet, plane});
}

extern "C" __global__ void __launch_bounds__(256, 2) infer_sparse_lists_bf16(const u8* x, const uint4* entries, const uint4* counts, const i32* starts, const i32* rows, const float* bias, const uint4* residual, uint4* y, i32 warps, i32 chunks, i32 chunk, i32 blocks, i32 c, i32 h, i32 w, i32 k, i32 p, i32 q, i32 stride, i32 pad, i32 block_bits, i32 tile_p, i32 tile_q, i32 tile_height, i32 tile_width, i32 sheet, i32 plane, i32 relu, i32 pool) {
    DYN_SHARED(u8, shared);
    convolve<Bf16>(shared, x, entries, counts, starts, rows, warps, chunks, chunk, {bias, residual, y, relu, pool},
                  {blocks, c, h, w, k, p, q, stride, pad}, {block_bits, tile_p, tile_q, tile_height, tile_width, sheet, plane});
}
