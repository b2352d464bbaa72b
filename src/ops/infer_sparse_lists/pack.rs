//! The format of `kernels/infer_sparse_lists.cu`: which outputs share shared memory, and the lists of kept weights.

use crate::ops::conv_shape::ConvShape;
use crate::ops::plane_tile::{FEW_BLOCKS, PlaneTile, ROW_BYTES};
use std::cmp::Reverse;

/// Filters of a warp.
pub(super) const FILTERS: usize = 8;
/// Warps of a block of threads.
const WARPS: usize = 8;
/// Lanes, and outputs of a lane, one below the other.
const LANES: usize = 32;
const LANE_ROWS: usize = 2;
/// Lanes whose 16 bytes are one access to shared memory.
const OCTET: usize = 8;
/// What a tile costs besides its copies, in 16-byte rows copied for a channel: reading 64 outputs for each of 64 filters
/// that keep 5 % of 9 weights, a row read counting a quarter of a row copied. (Reasoned, not measured.)
const TILE_ROWS: usize = 460;

/// The cheapest tile for that many blocks of images. None where not even one channel fits shared memory.
pub(super) fn tile(shape: &ConvShape, image_blocks: usize) -> Option<PlaneTile> {
    let extents = [2, 4, 8];
    let tiles = extents.into_iter().flat_map(|p| extents.map(|q| spread(shape, [p, q])));
    let cost = |tile: &PlaneTile| {
        let multiplied = TILE_ROWS * cycles(tile, shape.stride) / (LANES / OCTET);
        tile.count(image_blocks, shape) * (multiplied + tile.plane)
    };
    tiles.flatten().min_by_key(cost)
}

/// The blocks of images so far apart that lanes meet in as few banks as can be.
fn spread(shape: &ConvShape, [p, q]: [usize; 2]) -> Option<PlaneTile> {
    let tile = PlaneTile::new(shape, (LANES * LANE_ROWS / (p * q)).ilog2() as usize, [p, q]);
    let sheets = (tile.sheet..).take(OCTET);
    let tiles = sheets.map(|sheet| PlaneTile { sheet, plane: sheet << tile.block_bits, ..tile });
    tiles.min_by_key(|tile| cycles(tile, shape.stride))?.in_chunks(shape)
}

/// Cycles in which a warp reads a row of each lane; 4 where banks do not meet.
pub(super) fn cycles(tile: &PlaneTile, stride: usize) -> usize {
    let row = |lane: usize| {
        let (block, pixel) = (lane % (1 << tile.block_bits), lane >> tile.block_bits);
        let (p, q) = (pixel / tile.q * LANE_ROWS, pixel % tile.q);
        block * tile.sheet + (p * tile.width + q) * stride
    };
    let cycles = |octet: usize| {
        let mut load = [0; OCTET];
        (0..OCTET).for_each(|i| load[row(octet * OCTET + i) % OCTET] += 1);
        load.into_iter().max().unwrap_or(0)
    };
    (0..LANES / OCTET).map(cycles).sum()
}

/// How filters are dealt to warps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Split {
    /// Filters of a warp, at most [`FILTERS`].
    pub(super) each: usize,
    /// Warps for all filters.
    pub(super) warps: usize,
    /// Warps of a block of threads, which share its copies.
    pub(super) together: usize,
}

impl Split {
    /// As many filters as can share copies, fewer where blocks of threads would be.
    pub(super) fn of(k: usize, tiles: usize) -> Self {
        let split = |each: usize, together: usize| {
            let warps = k.div_ceil(each);
            Self { each, warps, together: together.min(warps.max(1)) }
        };
        let few = |s: &Self| tiles * s.warps.div_ceil(s.together) < FEW_BLOCKS;
        let ways = [(8, WARPS), (4, WARPS), (2, WARPS), (1, WARPS), (1, 4), (1, 2)];
        let mut ways = ways.into_iter().map(|(each, together)| split(each, together));
        ways.find(|s| !few(s)).unwrap_or(split(1, 2))
    }
}

/// The lists on the host.
pub(super) struct Packed {
    /// Filter of each place of each warp, -1 for none: those with most weights first.
    pub(super) rows: Vec<i32>,
    /// Where a warp's entries begin, in 16 bytes.
    pub(super) streams: Vec<i32>,
    /// Weights of each filter of a warp in a chunk, 16 bits each: by warp, chunk, filter.
    pub(super) counts: Vec<i32>,
    /// Bits of a weight and its byte offset in the tile, as they are read; a list begins at 16 bytes.
    pub(super) entries: Vec<i32>,
    pub(super) kept: usize,
}

/// The nonzero weights of the filters `w`, `[k, r, s, c]`.
pub(super) fn pack(w: &[f32], shape: &ConvShape, tile: &PlaneTile, split: Split) -> Packed {
    let len = shape.r * shape.s * shape.c;
    let kept = |filter: &[f32]| filter.iter().filter(|&&w| w != 0.0).count();
    let filters: Vec<&[f32]> = w.chunks_exact(len.max(1)).collect();
    let mut order: Vec<usize> = (0..filters.len()).collect();
    order.sort_by_key(|&filter| Reverse(kept(filters[filter])));
    let mut packed = Packed {
        rows: vec![-1; split.warps * FILTERS],
        streams: Vec::new(),
        counts: Vec::new(),
        entries: Vec::new(),
        kept: kept(w),
    };
    for (warp, own) in order.chunks(split.each).enumerate() {
        let rows = &mut packed.rows[warp * FILTERS..];
        rows.iter_mut().zip(own).for_each(|(row, &filter)| *row = filter as i32);
        packed.streams.push((packed.entries.len() / 4) as i32);
        for chunk in 0..tile.chunks {
            let mut counts = [0; FILTERS];
            for (count, &filter) in counts.iter_mut().zip(own) {
                *count = list(filters[filter], shape, tile, chunk, &mut packed.entries);
            }
            packed.counts.extend(counts.chunks_exact(2).map(|pair| pair[0] | pair[1] << 16));
        }
    }
    // A warp asks for 16 bytes more than it reads.
    packed.entries.extend([0; 4]);
    packed
}

/// The weights of a filter in a chunk of channels, at most as many as rows of 16 bytes fit a chunk.
fn list(w: &[f32], shape: &ConvShape, tile: &PlaneTile, chunk: usize, out: &mut Vec<i32>) -> i32 {
    let first = chunk * tile.chunk;
    let mut count = 0;
    for channel in first..(first + tile.chunk).min(shape.c) {
        for tap in 0..shape.r * shape.s {
            let weight = w[tap * shape.c + channel];
            if weight == 0.0 {
                continue;
            }
            let pixel = tap / shape.s * tile.width + tap % shape.s;
            let offset = ((channel - first) * tile.plane + pixel) * ROW_BYTES;
            out.extend([weight.to_bits() as i32, offset as i32]);
            count += 1;
        }
    }
    out.resize(out.len().next_multiple_of(4), 0);
    count
}
