// infer_sparse_conv2d.cu -- inference with an irregularly masked filter on tensor cores: y = pool(relu(x * w + bias + residual)).
//
//   y[k,p,q,n] = bias[k] + residual[k,p,q,n] + sum over kept w[k,r,s,c] of x[c, p*stride - pad + r, q*stride - pad + s, n] * w[k,r,s,c]
//
// behind which may come a ReLU and the largest of each 2 x 2 outputs, an odd last row or column left out.
//
// Condensed: 32 filters form a group. A column is one place (r,s,c) of the filters. A group multiplies only columns that at
// least one of its filters keeps, block by block. `dense_bf16` multiplies every filter by the 16 columns of a block.
// `two_four_bf16` has blocks of 32 columns, in which each filter keeps at most two of any four neighbours; the tensor core
// multiplies such a block in as many steps as one of 16. The packing puts the columns in an order for which this holds. Where
// no column is left that fits, a place stays empty. Any mask can be packed; the fuller it is, the more places.
//
// Activations are bf16, 8 images innermost: [image block][channel][row][column][8], so that each tap of each pixel is
// one aligned row of 16 bytes. A thread block copies its pixels with their border, some channels at a time ("chunk"), to
// shared memory, with zeros where the image ends. The 32 addresses that a warp passes to ldmatrix are the gather. Planes lie
// an odd number of rows apart there. Eight neighbouring columns lie in eight different bank groups wherever the packing
// found such columns; this holds for all pixels alike, because an offset is the same for all pixels.
// A warp has 32 filters by 8 pixels by 8 images in registers; its pixels are 2 x 2 quads, pooled within a lane.
//
// Shapes   x: [blocks,c,h,w,8], residual: [blocks,k,p,q,8] or null, y: as residual, or [blocks,k,p/2,q/2,8] with
//          `pool`; bf16, below 2^31 elements. bias: [k] f32. rows: [groups,32] i32, the filter or -1. starts:
//          [groups,chunks+1] i32, blocks of columns. records: for each block of columns the left operand in lane order,
//          [2][32] uint4, then the byte offset of each column in the tile, with two_four and a word of metadata.
// Launch   two_four, dense: 64 threads for each of 1 to 4 groups, grid (tiles, ceil(groups / groups of a block)), a tile
//          being 2^block_bits x tile_p x tile_q = 16 outputs of 8 images, tile_p and tile_q even; dynamic shared memory
//          min(chunks, 2) * chunk * plane * 16 bytes, plane >= 2^block_bits * sheet, sheet >= (tile_height * tile_width).
// Result   deterministic: one writer per element, columns in the order of the packing; no atomics.
// Cost     predicted, not measured: shared memory bounds it. For 32 columns of 32 filters by 8 pixels by 8 images a warp
//          spends 32 cycles on 8 ldmatrix.x4, and reads 1280 B (two_four) or 2176 B (dense) of records from L1 or L2,
//          10 or 17 cycles; 16 mma.sp or 32 mma, 131072 FLOP of the dense product. Taps in the padding are multiplied.
//          Bytes: x (tile_height * tile_width) / (tile_p * tile_q * stride^2) times for each 1 to 4 groups, residual and
//          y once, the records for each tile.
// Source   2:4 operands: PTX ISA, "sparse mma.m16n8k32"; permuting columns for 2:4: Pool and Yu 2021; columns chosen by
//          group of rows in front of mma.sp: Castro et al. 2023; in an order without bank conflicts: Lin et al. 2023.
// Host     src/ops/infer_sparse_conv2d.rs     Cases  tests/cases/infer_sparse_conv2d.toml
// mma: infer_sparse_conv2d_dense_bf16
// mma-sp: infer_sparse_conv2d_two_four_bf16
#include "common/image_planes.cuh"

namespace {

constexpr i32 GROUP = 32;
// Outputs of a warp, and the 2 x 2 quads that they form.
constexpr i32 PIXELS = 8;
constexpr i32 QUADS = PIXELS / 4;

using Layer = PlaneLayer;

// A block of columns of a group: the left operand and what a lane gathers. `multiply` takes the step's fragment, from
// the 32 rows whose addresses the lanes passed: 8 i + 2 t and the next in register i.
struct TwoFour {
    static constexpr i32 BYTES = 2 * 32 * 16 + 32 * 8;
    static constexpr int STEPS = PIXELS;
    uint4 a[2];
    uint2 lane;  // offset of a column, metadata: of filters 0-15 in lanes 0 and 1 of each four, of 16-31 in the others

    __device__ void load(const u8* record) {
        const u32 at = lane_id();
        a[0] = __ldg(reinterpret_cast<const uint4*>(record) + at);
        a[1] = __ldg(reinterpret_cast<const uint4*>(record) + 32 + at);
        lane = __ldg(reinterpret_cast<const uint2*>(record + 1024) + at);
    }

    // 32 columns of one pixel.
    __device__ u32 offset(u32) const { return lane.x; }

    __device__ void multiply(uint4 b, float4 (&sum)[2][PIXELS], int step) const {
        sum[0][step] = mma_sp_m16n8k32_bf16<0>(a[0], b, sum[0][step], lane.y);
        sum[1][step] = mma_sp_m16n8k32_bf16<1>(a[1], b, sum[1][step], lane.y);
    }
};

struct Dense {
    static constexpr i32 BYTES = 2 * 32 * 16 + 16 * 4;
    static constexpr int STEPS = PIXELS / 2;
    uint4 a[2];
    u32 lane;

    __device__ void load(const u8* record) {
        const u32 at = lane_id();
        a[0] = __ldg(reinterpret_cast<const uint4*>(record) + at);
        a[1] = __ldg(reinterpret_cast<const uint4*>(record) + 32 + at);
        lane = __ldg(reinterpret_cast<const u32*>(record + 1024) + at % 16);
    }

    // 16 columns of a pixel and of its neighbour.
    __device__ u32 offset(u32 neighbour) const { return lane + (lane_id() < 16 ? 0 : neighbour); }

    __device__ void multiply(uint4 b, float4 (&sum)[2][PIXELS], int step) const {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            sum[i][2 * step] = mma_m16n8k16_bf16(a[i], make_uint2(b.x, b.y), sum[i][2 * step]);
            sum[i][2 * step + 1] = mma_m16n8k16_bf16(a[i], make_uint2(b.z, b.w), sum[i][2 * step + 1]);
        }
    }
};

// What becomes of a sum.
struct Epilogue {
    const float* bias;
    const u32* residual;
    u32* y;
    i32 relu, pool;

    // Images 2 t and 2 t + 1 of four outputs of filter `row`: the quad at (p, q).
    __device__ void put(const float2 (&sum)[4], i32 row, i32 block, i32 p, i32 q, const Layer& layer) const {
        const i32 t = i32(lane_id()) % 4, plane = block * layer.k + row;
        const float add = bias[row];
        float2 most = make_pair(0.0f, 0.0f);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const i32 down = p + j / 2, along = q + j % 2;
            if (down >= layer.p || along >= layer.q) continue;
            const i64 at = i64((plane * layer.p + down) * layer.q + along) * 4 + t;
            float2 value = make_pair(sum[j].x + add, sum[j].y + add);
            if (residual != nullptr) {
                const u32 pair = residual[at];
                value.x += __uint_as_float(pair << 16), value.y += __uint_as_float(pair & 0xFFFF0000u);
            }
            if (relu) value = make_pair(value.x <= 0.0f ? 0.0f : value.x, value.y <= 0.0f ? 0.0f : value.y);
            if (!pool) y[at] = pack_bf16x2(value.x, value.y);
            else most = j == 0 ? value : make_pair(larger(most.x, value.x), larger(most.y, value.y));
        }
        if (pool && p + 1 < layer.p && q + 1 < layer.q)
            y[i64((plane * (layer.p / 2) + p / 2) * (layer.q / 2) + q / 2) * 4 + t] = pack_bf16x2(most.x, most.y);
    }

  private:
    __device__ static float2 make_pair(float x, float y) {
        float2 pair;
        pair.x = x, pair.y = y;
        return pair;
    }
    // A NaN stays one.
    __device__ static float larger(float a, float b) { return b > a || isnan(b) ? b : a; }
};

// Two warps have a group, each half of the tile's quads: where quad i of this warp starts in the tile.
struct Quad {
    i32 block, p, q;

    __device__ Quad(i32 i, const PlaneTile& tile) {
        const i32 number = i32(warp_id()) % 2 * QUADS + i, along = tile.q / 2, down = tile.p / 2;
        q = number % along * 2;
        p = number / along % down * 2;
        block = number / along / down;
    }
};

template <class Record>
__device__ inline void convolve(u8* shared, const u8* x, const u8* records, const i32* starts, const i32* rows, i32 groups,
                                i32 chunks, i32 chunk, const Epilogue& epilogue, const Layer& layer, const PlaneTile& tile) {
    const TileStages stages(shared, x, chunks, chunk, layer, tile);
    stages.load(0);

    const i32 group = i32(blockIdx.y) * i32(blockDim.x / 64) + i32(warp_id()) / 2;
    u32 corner[QUADS];
#pragma unroll
    for (int i = 0; i < QUADS; ++i) {
        const Quad quad(i, tile);
        corner[i] = u32(tile.row(0, quad.block, quad.p * layer.stride, quad.q * layer.stride) * PLANE_ROW);
    }
    const u32 along = u32(layer.stride * PLANE_ROW), down = along * u32(tile.width);

    const i32* const start = starts + (group < groups ? group : 0) * (chunks + 1);
    i32 at = start[0];
    const i32 end = group < groups ? start[chunks] : at;
    const u8* ahead = records + i64(at) * Record::BYTES;
    Record next;
    if (at < end) next.load(ahead);
    float4 sum[2][PIXELS] = {};
    for (i32 number = 0; number < chunks; ++number) {
        cp_async_wait<0>();
        __syncthreads();  // everybody's copies are there, and nobody reads the other stage any more
        stages.load(number + 1);
        const u8* const stage = stages.stage(number);
        const i32 chunk_end = group < groups ? start[number + 1] : at;
        for (; at < chunk_end; ++at) {
            // Asked for ahead: the next block while this one is multiplied, and each fragment before the one in front.
            const Record record = next;
            ahead += Record::BYTES;
            if (at + 1 < end) next.load(ahead);
            const u8* const gathered = stage + record.offset(along);
            const auto gather = [&](int step) {
                const int pixel = step * (PIXELS / Record::STEPS);
                return ldmatrix_x4_trans(gathered + corner[pixel / 4] + (pixel / 2 % 2 ? down : 0) + (pixel % 2 ? along : 0));
            };
            uint4 b[2] = {gather(0)};
#pragma unroll
            for (int step = 0; step < Record::STEPS; ++step) {
                if (step + 1 < Record::STEPS) b[(step + 1) % 2] = gather(step + 1);
                record.multiply(b[step % 2], sum, step);
            }
        }
    }

    if (group >= groups) return;
    const TilePlace origin(layer, tile);  // again: the loop above has no registers to spare
#pragma unroll
    for (int n = 0; n < QUADS; ++n) {
        const Quad quad(n, tile);
        if (origin.block + quad.block >= layer.blocks) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const i32 row = rows[group * GROUP + 8 * i + i32(lane_id()) / 4];
            if (row < 0) continue;
            float2 values[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float4 d = sum[i / 2][4 * n + j];
                values[j].x = i % 2 ? d.z : d.x, values[j].y = i % 2 ? d.w : d.y;
            }
            epilogue.put(values, row, origin.block + quad.block, origin.p + quad.p, origin.q + quad.q, layer);
        }
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256, 2) infer_sparse_conv2d_two_four_bf16(const u8* x, const u8* records, const i32* starts, const i32* rows, const float* bias, const u32* residual, u32* y, i32 groups, i32 chunks, i32 chunk, i32 blocks, i32 c, i32 h, i32 w, i32 k, i32 p, i32 q, i32 stride, i32 pad, i32 block_bits, i32 tile_p, i32 tile_q, i32 tile_height, i32 tile_width, i32 sheet, i32 plane, i32 relu, i32 pool) {
    DYN_SHARED(u8, shared);
    convolve<TwoFour>(shared, x, records, starts, rows, groups, chunks, chunk, {bias, residual, y, relu, pool},
                      {blocks, c, h, w, k, p, q, stride, pad}, {block_bits, tile_p, tile_q, tile_height, tile_width, sheet, plane});
}

extern "C" __global__ void __launch_bounds__(256, 2) infer_sparse_conv2d_dense_bf16(const u8* x, const u8* records, const i32* starts, const i32* rows, const float* bias, const u32* residual, u32* y, i32 groups, i32 chunks, i32 chunk, i32 blocks, i32 c, i32 h, i32 w, i32 k, i32 p, i32 q, i32 stride, i32 pad, i32 block_bits, i32 tile_p, i32 tile_q, i32 tile_height, i32 tile_width, i32 sheet, i32 plane, i32 relu, i32 pool) {
    DYN_SHARED(u8, shared);
    convolve<Dense>(shared, x, records, starts, rows, groups, chunks, chunk, {bias, residual, y, relu, pool},
                    {blocks, c, h, w, k, p, q, stride, pad}, {block_bits, tile_p, tile_q, tile_height, tile_width, sheet, plane});
}
