// infer_sparse_pack.cu -- the operands of infer_sparse_conv2d.cu from a filter in device memory: an order of its columns.
//
//   count     counts[k] = nonzero weights of filter k
//   order     rows: the filters, those with most weights first, of equals the first first; `each` form a group, which has
//             `slots` (both 32, but infer_sparse_lists_pack.cu takes this order too)
//   arrange   the columns of one chunk of channels that a group keeps, in places: blocks of 16 (dense) or 32, octets of
//             8, quads of 4. First fit, by these rules:
//               A column's bank is its row of 16 bytes in the tile modulo 8. Each bank has a queue of its columns: those
//               that most filters keep first, of equals the first by tap and channel.
//               The octets of a block are filled one behind another. `after` octets are behind one in the blocks that the
//               columns not placed when its block was begun would fill. First each bank may give one column. Then, as
//               long as more than 8 * after columns are left, or more than `after` in one bank, the first bank that can
//               gives one more. Banks are asked in order of the columns that they have left, of equals the lower first.
//               A bank gives to the first quad that has room, or else to the second, the first column that fits: with
//               two_four, one of which no filter has two weights in the quad already.
//   records   for each block the left operand and the offsets, as infer_sparse_conv2d.cu has them
//
// Shapes   w: [k,len] f32, len = taps * c; counts: [k] i32; rows: [groups,slots] i32, -1 for none; places:
//          [groups,chunks,room] uint2, the column's element in a filter (~0: none) and the filters of the group that keep
//          it; statistics: [groups,chunks,4] i32: blocks, columns, cycles more than one for each octet (the banks),
//          nonzero weights; starts: [groups,chunks+1] i32, the first block of each chunk; records: u32, 320 (two_four)
//          or 272 a block. taps * chunk <= 3072; room: a multiple of a block, a block for each 4 columns (two_four) or
//          each 16.
// Launch   count: 256 threads, a warp a filter. order: 1-D, 256 threads, a thread for each of groups * slots, which is at least
//          k. arrange, records: 256 threads, grid (chunks, groups).
// Result   deterministic, the same bits as the loops of src/ops/infer_sparse_conv2d/tests/packing.rs; no atomics.
// Cost     once for each layer of a plan. Bytes: w twice, less what nobody keeps the second time; order reads counts
//          k times, from L1. arrange is bound by latency: one warp places the columns of a chunk one after another,
//          predicted, not measured, some 300 cycles each: 0.1 ms for 700 columns, chunks and groups at once.
// Source   as infer_sparse_conv2d.cu.
// Host     src/ops/infer_sparse_conv2d/pack.rs, src/ops/filter_order.rs     Cases  src/ops/infer_sparse_conv2d/tests.rs
#include "common/convert.cuh"
#include "common/warp.cuh"

namespace {

constexpr i32 GROUP = 32;
constexpr i32 BANKS = 8;
constexpr i32 OCTET = 8;
constexpr i32 MAX_COLUMNS = 3072;
constexpr u32 NONE = 0xFFFFFFFFu;
constexpr u16 TAKEN = 0xFFFF;

// A filter of taps * c elements, `s` taps a row; `chunk` channels at a time in tiles `width` wide, a channel `plane` rows
// behind the one before.
struct Geometry {
    i32 taps, s, c, chunk, width, plane;

    __device__ i32 first() const { return i32(blockIdx.x) * chunk; }
    __device__ i32 channels() const { return min(chunk, c - first()); }
    // Row of 16 bytes of the tile, counted from the pixel's.
    __device__ i32 row(i32 tap, i32 channel) const { return channel * plane + tap / s * width + tap % s; }
};

// The columns of a chunk, in order of tap and channel.
struct Columns {
    u32 kept[MAX_COLUMNS];  // by which filters
    u8 bank[MAX_COLUMNS];   // BANKS where nobody keeps it
    u16 list[MAX_COLUMNS];  // by bank
    u16 queue[MAX_COLUMNS];
    i32 count[BANKS];
};

}  // namespace

extern "C" __global__ void __launch_bounds__(256) infer_sparse_pack_count(const float* w, i32* counts, i32 k, i32 len) {
    const i32 filter = i32(blockIdx.x) * 8 + i32(warp_id());
    if (filter >= k) return;
    const float* const row = w + i64(filter) * len;
    i32 count = 0;
    for (i32 i = i32(lane_id()); i < len; i += 32) count += row[i] != 0.0f;
    count = warp_sum(count);
    if (lane_id() == 0) counts[filter] = count;
}

extern "C" __global__ void __launch_bounds__(256) infer_sparse_pack_order(const i32* counts, i32* rows, i32 k, i32 groups, i32 each, i32 slots) {
    const i32 filter = i32(blockIdx.x * 256 + threadIdx.x);
    if (filter < groups * slots && (filter % slots >= each || filter / slots * each + filter % slots >= k)) rows[filter] = -1;
    if (filter >= k) return;
    const i32 own = counts[filter];
    i32 before = 0;
    for (i32 i = 0; i < k; ++i) before += counts[i] > own || (counts[i] == own && i < filter);
    rows[before / each * slots + before % each] = filter;
}

namespace {

// Which filters keep each column of the chunk, and its bank. Returns this thread's share of the nonzero weights.
__device__ inline i32 find_columns(Columns& columns, const i32 (&filters)[GROUP], const float* w, const Geometry& g) {
    const i32 channels = g.channels(), len = g.taps * g.c;
    i32 weights = 0;
    for (i32 i = i32(threadIdx.x); i < g.taps * channels; i += 256) {
        const i32 tap = i / channels, channel = i % channels;
        const float* const at = w + tap * g.c + g.first() + channel;
        u32 kept = 0;
#pragma unroll 8
        for (i32 j = 0; j < GROUP; ++j) {
            const i32 filter = filters[j];
            if (filter >= 0 && at[i64(filter) * len] != 0.0f) kept |= 1u << j;
        }
        columns.kept[i] = kept;
        columns.bank[i] = u8(kept == 0 ? BANKS : g.row(tap, channel) % BANKS);
        weights += i32(popc(kept));
    }
    return weights;
}

// The queue of this warp's bank begins behind those of the banks below; all threads call.
__device__ inline i32 sort_bank(Columns& columns, i32 count) {
    const i32 bank = i32(warp_id()), lane = i32(lane_id());
    const u32 lower = (1u << lane) - 1;
    i32 own = 0;
    for (i32 i = 0; i < count; i += 32) own += i32(popc(ballot(i + lane < count && columns.bank[i + lane] == bank, FULL_MASK)));
    if (lane == 0) columns.count[bank] = own;
    __syncthreads();
    i32 begin = 0;
    for (i32 i = 0; i < bank; ++i) begin += columns.count[i];
    u32 most = 0;
    i32 next = begin;
    for (i32 i = 0; i < count; i += 32) {
        const bool here = i + lane < count && columns.bank[i + lane] == bank;
        const u32 votes = ballot(here, FULL_MASK);
        if (here) {
            columns.list[next + i32(popc(votes & lower))] = u16(i + lane);
            most = max(most, popc(columns.kept[i + lane]));
        }
        next += i32(popc(votes));
    }
    __syncwarp();
    next = begin;
    for (u32 filters = warp_max(most); filters > 0; --filters)
        for (i32 i = begin; i < begin + own; i += 32) {
            const i32 column = i + lane < begin + own ? i32(columns.list[i + lane]) : -1;
            const bool here = column >= 0 && popc(columns.kept[column]) == filters;
            const u32 votes = ballot(here, FULL_MASK);
            if (here) columns.queue[next + i32(popc(votes & lower))] = u16(column);
            next += i32(popc(votes));
        }
    return begin;
}

// One warp: the places of a chunk's columns. Lanes 0 to 7 hold what is known of a bank.
template <bool LIMIT>
struct Packer {
    Columns& columns;
    uint2* out;
    i32 lane, channels, c, first;
    // The bank's queue: where it begins, with what is taken at its front left out, and ends; how many are not taken.
    i32 begin, end, alive;
    // Of this octet, by quad: filters with a weight, filters with two, columns; by bank: columns.
    u32 once[2], twice[2];
    i32 filled[2], load;

    __device__ Packer(Columns& columns, uint2* out, const Geometry& g)
        : columns(columns), out(out), lane(i32(lane_id())), channels(g.channels()), c(g.c), first(g.first()), begin(0) {
        for (i32 i = 0; i < lane && i < BANKS; ++i) begin += columns.count[i];
        alive = lane < BANKS ? columns.count[lane] : 0;
        end = begin + alive;
    }

    // Of the banks in `banks` the one with most columns, of equals the lowest.
    __device__ i32 fullest(u32 banks, i32 size) const {
        const i32 key = lane < BANKS && (banks >> lane & 1) != 0 ? size * BANKS + BANKS - 1 - lane : -1;
        return BANKS - 1 - warp_max(key) % BANKS;
    }

    __device__ bool take(i32 bank) { return take(bank, 0) || take(bank, 1); }

    __device__ bool take(i32 bank, int quad) {
        if (filled[quad] == 4) return false;
        const u32 full = LIMIT ? twice[quad] : 0;
        const i32 from = shfl_idx(begin, u32(bank)), to = shfl_idx(end, u32(bank));
        for (i32 i = from; i < to; i += 32) {
            const u32 column = i + lane < to ? columns.queue[i + lane] : TAKEN;
            const u32 kept = column != TAKEN ? columns.kept[column] : 0;
            const u32 votes = ballot(kept != 0 && (kept & full) == 0, FULL_MASK);
            const u32 left = ballot(kept != 0, FULL_MASK);
            // What is taken at the front is not looked at again.
            if (lane == bank && begin == i) begin = min(to, i + (left == 0 ? 32 : i32(ffs(left)) - 1));
            if (votes == 0) continue;
            const u32 source = ffs(votes) - 1;
            const u32 filters = shfl_idx(kept, source);
            __syncwarp();
            if (lane == i32(source)) {
                columns.queue[i + lane] = TAKEN;
                const i32 tap = i32(column) / channels, channel = i32(column) % channels;
                out[4 * quad + filled[quad]] = make_uint2(u32(tap * c + first + channel), kept);
            }
            twice[quad] |= once[quad] & filters;
            once[quad] |= filters;
            ++filled[quad];
            if (lane == bank) --alive, ++load;
            __syncwarp();
            return true;
        }
        return false;
    }

    // One column of each bank, and more where the `after` octets behind could not hold the rest; returns how many.
    __device__ i32 octet(i32 left, i32 after) {
        once[0] = once[1] = twice[0] = twice[1] = 0;
        filled[0] = filled[1] = load = 0;
        const i32 size = alive;
        for (u32 banks = (1u << BANKS) - 1; banks != 0;) {
            const i32 bank = fullest(banks, size);
            banks &= ~(1u << bank);
            take(bank);
        }
        for (bool more = true; more;) {
            more = left - filled[0] - filled[1] > after * OCTET || any(alive > after, FULL_MASK);
            const i32 now = alive;
            u32 banks = more ? (1u << BANKS) - 1 : 0;
            for (more = false; banks != 0 && !more;) {
                const i32 bank = fullest(banks, now);
                banks &= ~(1u << bank);
                more = take(bank);
            }
        }
        if (lane < OCTET && lane % 4 >= (lane < 4 ? filled[0] : filled[1])) out[lane] = make_uint2(NONE, 0);
        out += OCTET;
        return filled[0] + filled[1];
    }
};

template <bool LIMIT, i32 BLOCK>
__device__ inline void arrange(const float* w, const i32* rows, uint2* places, i32* statistics, i32 room, const Geometry& g) {
    SHARED(columns, Columns);
    SHARED(filters, i32[GROUP]);
    if (threadIdx.x < u32(GROUP)) filters[threadIdx.x] = rows[i32(blockIdx.y) * GROUP + i32(threadIdx.x)];
    __syncthreads();
    const i32 weights = block_sum(find_columns(columns, filters, w, g));
    sort_bank(columns, g.taps * g.channels());
    __syncthreads();
    if (warp_id() != 0) return;

    const i32 own = i32(blockIdx.y * gridDim.x + blockIdx.x);
    Packer<LIMIT> packer(columns, places + i64(own) * room, g);
    const i32 all = warp_sum(packer.alive);
    i32 left = all, blocks = 0, conflicts = 0;
    while (left > 0) {
        const i32 octets = (left + BLOCK - 1) / BLOCK * (BLOCK / OCTET);
        for (i32 i = 0; i < BLOCK / OCTET; ++i) {
            left -= packer.octet(left, octets - 1 - i);
            conflicts += max(warp_max(packer.load), 1) - 1;
        }
        ++blocks;
    }
    if (lane_id() == 0) {
        i32* const out = statistics + 4 * own;
        out[0] = blocks, out[1] = all, out[2] = conflicts, out[3] = weights;
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) infer_sparse_pack_arrange_dense(const float* w, const i32* rows, uint2* places, i32* statistics, i32 room, i32 taps, i32 s, i32 c, i32 chunk, i32 width, i32 plane) {
    arrange<false, 16>(w, rows, places, statistics, room, {taps, s, c, chunk, width, plane});
}

extern "C" __global__ void __launch_bounds__(256) infer_sparse_pack_arrange_two_four(const float* w, const i32* rows, uint2* places, i32* statistics, i32 room, i32 taps, i32 s, i32 c, i32 chunk, i32 width, i32 plane) {
    arrange<true, 32>(w, rows, places, statistics, room, {taps, s, c, chunk, width, plane});
}

namespace {

// A block of places and the filters that it is for.
struct Block {
    const uint2* places;
    const i32* rows;
    const float* w;
    i32 len;

    __device__ float weight(i32 row, i32 place) const {
        const u32 element = __ldg(&places[place].x);
        const i32 filter = __ldg(rows + row);
        return element == NONE || filter < 0 ? 0.0f : __ldg(w + i64(filter) * len + element);
    }

    // The places, ascending, of a filter's one or two weights among four columns: the first one, and 4 times the second.
    __device__ u32 pair(i32 row, i32 quad) const {
        u32 kept = 0;
#pragma unroll
        for (i32 i = 0; i < 4; ++i) kept |= (__ldg(&places[4 * quad + i].y) >> row & 1) << i;
        const u32 first = min(kept == 0 ? 0 : ffs(kept) - 1, 2u), rest = kept & (kept - 1);
        return first | (rest != 0 ? ffs(rest) - 1 : max(kept == 0 ? 1 : ffs(kept) - 1, first + 1)) << 2;
    }

    // Where the column is in a tile; a place without one repeats a column of its octet, or else the block's first one.
    __device__ u32 offset(i32 place, const Geometry& g) const {
        u32 element = __ldg(&places[place].x);
        if (element == NONE) element = __ldg(&places[place / OCTET * OCTET].x);
        if (element == NONE) element = __ldg(&places[0].x);
        return element == NONE ? 0 : u32(g.row(i32(element) / g.c, i32(element) % g.c - g.first()) * 16);
    }
};

struct TwoFour {
    static constexpr i32 COLUMNS = 32, WORDS = 320;

    // Two weights that are neighbours for the tensor core: of filter `row`, lane t of each four, registers 0-1 or 2-3.
    __device__ static u32 weights(const Block& block, i32 row, i32 t, i32 upper) {
        const i32 quad = t + 4 * upper;
        const u32 pair = block.pair(row, quad);
        return pack_bf16x2(block.weight(row, 4 * quad + i32(pair & 3)), block.weight(row, 4 * quad + i32(pair >> 2)));
    }

    // Lanes 0 and 1 of each four describe filters 0-15, lanes 2 and 3 filters 16-31; the odd ones the upper columns.
    __device__ static void tail(u32* out, const Block& block, i32 lane, const Geometry& g) {
        const i32 row = lane % 4 / 2 * 16 + lane / 4;
        u32 metadata = 0;
#pragma unroll 1
        for (i32 q = 0; q < 4; ++q) {
            const i32 quad = lane % 2 * 4 + q;
            metadata |= block.pair(row, quad) << (4 * q) | block.pair(row + 8, quad) << (4 * q + 16);
        }
        out[2 * lane] = block.offset(lane, g);
        out[2 * lane + 1] = metadata;
    }
};

struct Dense {
    static constexpr i32 COLUMNS = 16, WORDS = 272;

    __device__ static u32 weights(const Block& block, i32 row, i32 t, i32 upper) {
        const i32 first = 2 * t + 8 * upper;
        return pack_bf16x2(block.weight(row, first), block.weight(row, first + 1));
    }

    __device__ static void tail(u32* out, const Block& block, i32 lane, const Geometry& g) {
        if (lane < COLUMNS) out[lane] = block.offset(lane, g);
    }
};

// A warp a block.
template <class Record>
__device__ inline void write_records(const float* w, const i32* rows, const uint2* places, const i32* starts, u32* records, i32 room, const Geometry& g) {
    const i32 chunks = i32(gridDim.x), group = i32(blockIdx.y), lane = i32(lane_id());
    const i32* const start = starts + group * (chunks + 1) + i32(blockIdx.x);
    const uint2* const own = places + i64(group * chunks + i32(blockIdx.x)) * room;
    for (i32 i = i32(warp_id()); i < start[1] - start[0]; i += 8) {
        const Block block{own + i * Record::COLUMNS, rows + group * GROUP, w, g.taps * g.c};
        u32* const out = records + i64(start[0] + i) * Record::WORDS;
#pragma unroll 1
        for (i32 half = 0; half < 2; ++half) {
            const i32 row = 16 * half + lane / 4, t = lane % 4;
            reinterpret_cast<uint4*>(out)[32 * half + lane] =
                make_uint4(Record::weights(block, row, t, 0), Record::weights(block, row + 8, t, 0),
                           Record::weights(block, row, t, 1), Record::weights(block, row + 8, t, 1));
        }
        Record::tail(out + 256, block, lane, g);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) infer_sparse_pack_records_dense(const float* w, const i32* rows, const uint2* places, const i32* starts, u32* records, i32 room, i32 taps, i32 s, i32 c, i32 chunk, i32 width, i32 plane) {
    write_records<Dense>(w, rows, places, starts, records, room, {taps, s, c, chunk, width, plane});
}

extern "C" __global__ void __launch_bounds__(256) infer_sparse_pack_records_two_four(const float* w, const i32* rows, const uint2* places, const i32* starts, u32* records, i32 room, i32 taps, i32 s, i32 c, i32 chunk, i32 width, i32 plane) {
    write_records<TwoFour>(w, rows, places, starts, records, room, {taps, s, c, chunk, width, plane});
}
