// infer_sparse_lists.cu -- inference with an irregularly masked filter on CUDA cores: y = pool(relu(x * w + bias + residual)).
//
//   y[k,p,q,n] = bias[k] + residual[k,p,q,n] + sum over kept w[k,r,s,c] of x[c, p*stride - pad + r, q*stride - pad + s, n] * w[k,r,s,c]
//
// behind which may come a ReLU and the largest of each 2 x 2 outputs, an odd last row or column left out.
//
// Output-stationary: a filter is a list of its kept weights, each with the offset at which it finds its input, the same for all
// outputs, and the lists run over sums that stay in registers. So the work is that of the kept weights, however few.
// Activations are f32, 4 images innermost (common/image_planes.cuh). A block copies its pixels with their border of some
// channels ("chunk") to shared memory, zeros where the image ends; with tf32 the thread that copied a row also rounds it. A
// warp has 8 filters by 32 lanes, one after another; a lane two outputs, one below the other, of 4 images: a kept weight is two
// loads of 16 bytes and 8 fmaf, and the two weights behind it are on their way. The blocks of images, `sheet` rows apart,
// are the fastest lanes, so that the 8 lanes whose 16 bytes are one access to shared memory find them in different banks.
//
// Shapes   x: [blocks,c,h,w,4], residual: [blocks,k,p,q,4] or null, y: as residual, or [blocks,k,p/2,q/2,4] with `pool`;
//          f32, below 2^31 elements. bias: [k]. rows: [warps,8] i32, the filter or -1. counts: [warps,chunks,8] u16, weights
//          of each filter in each chunk; entries: {weight, byte offset in the tile} in that order, each filter and chunk from
//          16 bytes on, 16 bytes more at the end; streams: [warps] i32, where a warp's begin, in 16 bytes.
// Launch   32 threads for each of 1 to 8 warps, grid (tiles, ceil(warps / warps of a block)), a tile being 2^block_bits x
//          tile_p x tile_q = 64 outputs of 4 images, tile_p and tile_q even; dynamic shared memory
//          min(chunks, 2) * chunk * plane * 16 bytes, plane >= 2^block_bits * sheet, sheet >= (a block's inputs with border).
// Result   deterministic: one writer per element, entries in the order of the packing; no atomics.
// Cost     predicted, not measured: shared memory bounds it. A kept weight by the 64 x 4 outputs of a tile is 1 KiB of
//          loads, 8 cycles at 128 B, and half a cycle for its entry: 512 FLOP in 8.5 cycles, 24 % of the multiprocessor's
//          fmaf; 15.7 TFLOP/s of kept weights on 132 of them at 1.98 GHz. A chunk is copied once for up to 64 filters:
//          tile_height * tile_width * 16 B a channel and block of images from L2, and once more from and to shared memory
//          with tf32. With stride 2 and fewer than 8 blocks of images, lanes meet in banks: 16 cycles for 8.
//          Taps in the padding are multiplied.
// Source   output-stationary direct convolution over lists of offsets: Park et al. 2017, Chen 2018; filters in the order of
//          their lengths: Gale et al. 2020.
// Host     src/ops/infer_sparse_lists.rs     Cases  tests/cases/infer_sparse_conv2d.toml
#include "common/image_planes.cuh"

namespace {

constexpr i32 FILTERS = 8;
constexpr i32 LANE_ROWS = 2;

// The first of this lane's outputs.
struct Lane {
    i32 block, p, q;

    __device__ explicit Lane(const PlaneTile& tile) {
        const i32 lane = i32(lane_id()), pixel = lane >> tile.block_bits;
        block = lane & (tile.blocks() - 1);
        q = pixel % tile.q;
        p = pixel / tile.q * LANE_ROWS;
    }
};

__device__ inline float4 add(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

__device__ inline float4 larger(float4 a, float4 b) {
    return make_float4(max_nan(a.x, b.x), max_nan(a.y, b.y), max_nan(a.z, b.z), max_nan(a.w, b.w));
}

__device__ inline float4 multiply_add(float a, float4 b, float4 c) {
    return make_float4(fmaf(a, b.x, c.x), fmaf(a, b.y, c.y), fmaf(a, b.z, c.z), fmaf(a, b.w, c.w));
}

// What becomes of a sum.
struct Epilogue {
    const float* bias;
    const float4* residual;
    float4* y;
    i32 relu, pool;

    // This lane's outputs of filter `row`; all lanes call.
    __device__ void put(float4 (&sum)[LANE_ROWS], i32 row, const Lane& lane, const TilePlace& place,
                        const PlaneLayer& layer, const PlaneTile& tile) const {
        const i32 block = place.block + lane.block, p = place.p + lane.p, q = place.q + lane.q;
        const i32 plane = block * layer.k + row;
        const float4 more = make_float4(bias[row], bias[row], bias[row], bias[row]);
        const float low = relu ? 0.0f : -__uint_as_float(0x7F800000u);
#pragma unroll
        for (i32 j = 0; j < LANE_ROWS; ++j) {
            const i32 at = (plane * layer.p + p + j) * layer.q + q;
            const bool inside = block < layer.blocks && p + j < layer.p && q < layer.q;
            sum[j] = add(sum[j], more);
            if (inside && residual != nullptr) sum[j] = add(sum[j], load_float4(residual + at));
            sum[j] = larger(sum[j], make_float4(low, low, low, low));
            if (inside && !pool) store(y + at, sum[j]);
        }
        if (!pool) return;
        const float4 mine = larger(sum[0], sum[1]);
        const u32 right = u32(tile.blocks());
        const float4 other = make_float4(shfl_xor(mine.x, right), shfl_xor(mine.y, right), shfl_xor(mine.z, right), shfl_xor(mine.w, right));
        if (q % 2 == 0 && block < layer.blocks && p + 1 < layer.p && q + 1 < layer.q)
            store(y + (plane * (layer.p / 2) + p / 2) * (layer.q / 2) + q / 2, larger(mine, other));
    }

    __device__ static void store(float4* to, float4 value) { *to = value; }
};

// The sums that one lane has of one filter, and where it finds the pixel of a tap at offset 0.
struct Sums {
    const u8* stage;
    u32 down;

    __device__ void entry(float4 (&sum)[LANE_ROWS], u32 weight, u32 offset) const {
        const u8* const from = stage + offset;
        const float4 upper = load_float4(from), lower = load_float4(from + down);
        sum[0] = multiply_add(__uint_as_float(weight), upper, sum[0]);
        sum[1] = multiply_add(__uint_as_float(weight), lower, sum[1]);
    }
};

template <bool TF32>
__device__ inline void convolve(u8* shared, const u8* x, const uint4* entries, const uint4* counts, const i32* streams,
                                const i32* rows, i32 warps, i32 chunks, i32 chunk, const Epilogue& epilogue,
                                const PlaneLayer& layer, const PlaneTile& tile) {
    const TileStages stages(shared, x, chunks, chunk, layer, tile);
    const Lane lane(tile);
    stages.load(0);

    const i32 warp = i32(blockIdx.y) * i32(blockDim.x / 32) + i32(warp_id());
    const bool works = warp < warps;
    const uint4* ahead = entries + (works ? streams[warp] : 0);
    uint4 next = __ldg(ahead);
    const i32 corner = (lane.block * tile.sheet + (lane.p * tile.width + lane.q) * layer.stride) * PLANE_ROW;
    float4 sum[FILTERS][LANE_ROWS] = {};
    for (i32 number = 0; number < chunks; ++number) {
        u8* const stage = stages.stage(number);
        cp_async_wait<0>();
        if (TF32) {
            stages.each_row(number, [&](i32 channel, i32 of, i32 i, i32 j) {
                uint4* const copied = reinterpret_cast<uint4*>(stage) + tile.row(channel, of, i, j);
                store_whole(copied, round_tf32(load_whole(copied)));
            });
        }
        __syncthreads();  // everybody's copies are there, and nobody reads the other stage any more
        stages.load(number + 1);
        if (!works) continue;
        const Sums sums{stage + corner, u32(layer.stride * tile.width * PLANE_ROW)};
        const uint4 all = __ldg(counts + i64(warp) * chunks + number);
        const u32 pairs[4] = {all.x, all.y, all.z, all.w};
#pragma unroll
        for (i32 f = 0; f < FILTERS; ++f) {
            for (i32 left = i32(pairs[f / 2] >> (f % 2 * 16) & 0xFFFF); left > 0; left -= 2) {
                const uint4 two = next;
                next = __ldg(++ahead);
                sums.entry(sum[f], two.x, two.y);
                if (left > 1) sums.entry(sum[f], two.z, two.w);
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

extern "C" __global__ void __launch_bounds__(256, 2) infer_sparse_lists_f32(const u8* x, const uint4* entries, const uint4* counts, const i32* streams, const i32* rows, const float* bias, const float4* residual, float4* y, i32 warps, i32 chunks, i32 chunk, i32 blocks, i32 c, i32 h, i32 w, i32 k, i32 p, i32 q, i32 stride, i32 pad, i32 block_bits, i32 tile_p, i32 tile_q, i32 tile_height, i32 tile_width, i32 sheet, i32 plane, i32 relu, i32 pool) {
    DYN_SHARED(u8, shared);
    convolve<false>(shared, x, entries, counts, streams, rows, warps, chunks, chunk, {bias, residual, y, relu, pool},
                    {blocks, c, h, w, k, p, q, stride, pad}, {block_bits, tile_p, tile_q, tile_height, tile_width, sheet, plane});
}

extern "C" __global__ void __launch_bounds__(256, 2) infer_sparse_lists_tf32(const u8* x, const uint4* entries, const uint4* counts, const i32* streams, const i32* rows, const float* bias, const float4* residual, float4* y, i32 warps, i32 chunks, i32 chunk, i32 blocks, i32 c, i32 h, i32 w, i32 k, i32 p, i32 q, i32 stride, i32 pad, i32 block_bits, i32 tile_p, i32 tile_q, i32 tile_height, i32 tile_width, i32 sheet, i32 plane, i32 relu, i32 pool) {
    DYN_SHARED(u8, shared);
    convolve<true>(shared, x, entries, counts, streams, rows, warps, chunks, chunk, {bias, residual, y, relu, pool},
                   {blocks, c, h, w, k, p, q, stride, pad}, {block_bits, tile_p, tile_q, tile_height, tile_width, sheet, plane});
}
