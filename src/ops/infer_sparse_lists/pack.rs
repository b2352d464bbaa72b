//! The format of `kernels/infer_sparse_lists.cu`: which outputs share shared memory, and the lists of kept weights, which
//! `kernels/infer_sparse_lists_pack.cu` builds on the device.

use crate::cpu::conv_shape::ConvShape;
use crate::device::Launch;
use crate::dtype::DType;
use crate::ops::filter_order::filter_order;
use crate::ops::implicit_gemm::{blocks, ints};
use crate::ops::infer_planes::{images_of, on_gpu};
use crate::ops::plane_tile::{FEW_BLOCKS, PlaneTile};
use crate::tensor::Tensor;
use crate::{Error, Mode, Result};

pub(super) const OP: &str = "infer_sparse_lists";
/// Filters of a warp.
pub(super) const FILTERS: usize = 8;
/// Warps of a block of threads.
const WARPS: usize = 8;
const LANES: usize = 32;
/// Sums that a lane has of a filter: outputs, one below the other, with the images of each.
const LANE_SUMS: usize = 8;
/// Lanes whose 16 bytes are one access to shared memory.
const OCTET: usize = 8;
/// What a tile with one output a lane costs besides its copies, in 16-byte rows copied for a channel: reading 32 outputs
/// for each of 64 filters that keep 5 % of 9 weights, a row read counting a quarter of a row copied. (Reasoned, not
/// measured.)
const TILE_ROWS: usize = 230;

/// The cheapest tile for that many blocks of images in a storage type. None where not even one channel fits shared memory.
pub(super) fn tile(shape: &ConvShape, image_blocks: usize, storage: DType) -> Option<PlaneTile> {
    let outputs = LANES * LANE_SUMS / images_of(storage);
    let extents = [2, 4, 8];
    let pairs = extents.into_iter().flat_map(|p| extents.map(|q| [p, q]));
    let tiles =
        pairs.filter(|[p, q]| p * q <= outputs).map(|extents| spread(shape, extents, outputs));
    let cost = |tile: &PlaneTile| {
        let cycles = lane_rows(tile) * cycles(tile, shape.stride);
        tile.count(image_blocks, shape) * (TILE_ROWS * cycles / (LANES / OCTET) + tile.plane)
    };
    tiles.flatten().min_by_key(cost)
}

/// The blocks of images so far apart that lanes meet in as few banks as can be.
fn spread(shape: &ConvShape, [p, q]: [usize; 2], outputs: usize) -> Option<PlaneTile> {
    let tile = PlaneTile::new(shape, (outputs / (p * q)).ilog2() as usize, [p, q]);
    let sheets = (tile.sheet..).take(OCTET);
    let tiles = sheets.map(|sheet| PlaneTile { sheet, plane: sheet << tile.block_bits, ..tile });
    tiles.min_by_key(|tile| cycles(tile, shape.stride))?.in_chunks(shape)
}

/// Outputs of a lane, one below the other.
fn lane_rows(tile: &PlaneTile) -> usize {
    ((tile.p * tile.q) << tile.block_bits) / LANES
}

/// Cycles in which a warp reads a row of each lane; 4 where banks do not meet.
pub(super) fn cycles(tile: &PlaneTile, stride: usize) -> usize {
    let row = |lane: usize| {
        let (block, pixel) = (lane % (1 << tile.block_bits), lane >> tile.block_bits);
        let (p, q) = (pixel / tile.q * lane_rows(tile), pixel % tile.q);
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

/// The lists on the device.
pub(super) struct Packed {
    /// i32, filter of each place of each warp, -1 for none: those with most weights first.
    pub(super) rows: Tensor,
    /// i32, weights of each filter of a warp in a chunk, 16 bits each: by warp, chunk, filter.
    pub(super) counts: Tensor,
    /// i32, where the entries of a warp and chunk begin, in 16 bytes.
    pub(super) starts: Tensor,
    /// i32, bits of a weight and its byte offset in the tile, as they are read; a list begins at 16 bytes.
    pub(super) entries: Tensor,
    pub(super) kept: usize,
}

/// The nonzero weights of the filters `w`, `[k, r, s, c]` on a GPU, rounded to `mode`, by the rules of
/// `kernels/infer_sparse_lists_pack.cu`. Two numbers come back: how long the lists are, and how many weights they hold.
pub(super) fn pack(
    w: &Tensor,
    shape: &ConvShape,
    tile: &PlaneTile,
    split: Split,
    mode: Mode,
) -> Result<Packed> {
    let gpu = on_gpu(OP, w)?;
    if tile.chunks > 65_535 {
        return Err(Error::shape(OP, "w", "of fewer channels", w.shape()));
    }
    let rows = filter_order(gpu, w, split.each, FILTERS)?;
    let lists = split.warps * tile.chunks;
    let words = |shape: &[usize]| w.empty_like(shape, DType::I32);
    let (counts, lengths) = (words(&[lists, FILTERS / 2])?, words(&[lists, 2])?);
    let (starts, sizes) = (words(&[lists])?, words(&[2])?);
    let warps = blocks(split.warps, 1)?;
    let grid = |name| Launch::new(name).grid(warps, tile.chunks as u32, 1);
    let filter = [shape.r * shape.s, shape.c, tile.chunk];
    let launch = grid("infer_sparse_lists_pack_count").arg(w).arg(&rows).arg(&counts).arg(&lengths);
    ints(launch, &filter)?.run(gpu)?;
    let launch = Launch::new("infer_sparse_lists_pack_scan").arg(&lengths).arg(&starts).arg(&sizes);
    ints(launch, &[lists])?.run(gpu)?;
    let sizes: Vec<usize> = sizes.to_vec::<i32>()?.into_iter().map(|size| size as usize).collect();
    // A warp asks for 16 bytes more than it reads.
    let entries = words(&[4 * (sizes[0] + 1)])?;
    let launch = grid("infer_sparse_lists_pack_write").arg(w).arg(&rows).arg(&counts);
    let geometry = [mode as usize, shape.s, tile.width, tile.plane];
    ints(launch.arg(&starts).arg(&entries), &[&geometry[..], &filter].concat())?.run(gpu)?;
    Ok(Packed { rows, counts, starts, entries, kept: sizes[1] })
}
