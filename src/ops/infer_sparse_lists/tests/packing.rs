//! The packing of `kernels/infer_sparse_lists_pack.cu` as loops.

use super::super::pack::{FILTERS, Split};
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::round;
use crate::ops::plane_tile::{PlaneTile, ROW_BYTES};
use std::cmp::Reverse;

/// A packed filter.
#[derive(Debug, PartialEq)]
pub(super) struct Packed {
    pub(super) rows: Vec<i32>,
    pub(super) counts: Vec<i32>,
    pub(super) starts: Vec<i32>,
    pub(super) entries: Vec<i32>,
    pub(super) kept: usize,
}

/// The nonzero weights of the filters `w`, `[k, r, s, c]`.
pub(super) fn pack(
    w: &[f32],
    shape: &ConvShape,
    tile: &PlaneTile,
    split: Split,
    mode: Mode,
) -> Packed {
    let len = shape.r * shape.s * shape.c;
    let kept = |filter: &[f32]| filter.iter().filter(|&&w| w != 0.0).count();
    let filters: Vec<&[f32]> = w.chunks_exact(len.max(1)).collect();
    let mut order: Vec<usize> = (0..filters.len()).collect();
    order.sort_by_key(|&filter| Reverse(kept(filters[filter])));
    let mut packed = Packed {
        rows: vec![-1; split.warps * FILTERS],
        counts: Vec::new(),
        starts: Vec::new(),
        entries: Vec::new(),
        kept: kept(w),
    };
    for (warp, own) in order.chunks(split.each).enumerate() {
        let rows = &mut packed.rows[warp * FILTERS..];
        rows.iter_mut().zip(own).for_each(|(row, &filter)| *row = filter as i32);
        for chunk in 0..tile.chunks {
            packed.starts.push((packed.entries.len() / 4) as i32);
            let mut counts = [0; FILTERS];
            for (count, &filter) in counts.iter_mut().zip(own) {
                *count = list(filters[filter], shape, tile, chunk, mode, &mut packed.entries);
            }
            packed.counts.extend(counts.chunks_exact(2).map(|pair| pair[0] | pair[1] << 16));
        }
    }
    // A warp asks for 16 bytes more than it reads.
    packed.entries.extend([0; 4]);
    packed
}

/// The weights of a filter in a chunk of channels, at most as many as rows of 16 bytes fit a chunk.
fn list(
    w: &[f32],
    shape: &ConvShape,
    tile: &PlaneTile,
    chunk: usize,
    mode: Mode,
    out: &mut Vec<i32>,
) -> i32 {
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
            out.extend([round::round(mode, weight).to_bits() as i32, offset as i32]);
            count += 1;
        }
    }
    out.resize(out.len().next_multiple_of(4), 0);
    count
}
