//! The packing of `kernels/infer_sparse_pack.cu` as loops: its file states the rules.

use super::super::SparseProduct;
use super::super::pack::{BankCount, GROUP, OCTET};
use crate::cpu::conv_shape::ConvShape;
use crate::ops::plane_tile::{PlaneTile, ROW_BYTES};
use std::cmp::Reverse;

/// A packed filter.
#[derive(Debug, PartialEq)]
pub(super) struct Packed {
    pub(super) rows: Vec<i32>,
    pub(super) starts: Vec<i32>,
    pub(super) records: Vec<u32>,
    pub(super) kept: usize,
    pub(super) columns: usize,
    pub(super) blocks: usize,
    pub(super) banks: BankCount,
}

/// One position of the filters of a group.
#[derive(Clone, Copy)]
struct Column {
    /// Where in a filter.
    element: usize,
    /// 16-byte row of the tile, counted from the pixel's.
    row: usize,
    /// Which of the group's filters keep it.
    kept: u32,
}

impl Column {
    /// Bank group, the pixel's own aside.
    fn bank(&self) -> usize {
        self.row % OCTET
    }
}

/// The nonzero weights of the filters `w`, `[k, r, s, c]`.
pub(super) fn pack(
    w: &[f32],
    shape: &ConvShape,
    tile: &PlaneTile,
    product: SparseProduct,
) -> Packed {
    let len = shape.r * shape.s * shape.c;
    let filters: Vec<&[f32]> = w.chunks_exact(len.max(1)).collect();
    let counts: Vec<usize> =
        filters.iter().map(|filter| filter.iter().filter(|&&v| v != 0.0).count()).collect();
    let mut order: Vec<usize> = (0..filters.len()).collect();
    order.sort_by_key(|&filter| Reverse(counts[filter]));
    let mut packed = Packed {
        rows: vec![-1; order.len().next_multiple_of(GROUP)],
        starts: Vec::new(),
        records: Vec::new(),
        kept: counts.iter().sum(),
        columns: 0,
        blocks: 0,
        banks: BankCount::default(),
    };
    packed.rows.iter_mut().zip(&order).for_each(|(row, &filter)| *row = filter as i32);
    for group in order.chunks(GROUP) {
        let group: Vec<&[f32]> = group.iter().map(|&filter| filters[filter]).collect();
        for chunk in 0..tile.chunks {
            packed.starts.push(packed.blocks as i32);
            packed.add(&group, &columns(&group, shape, tile, chunk), product);
        }
        packed.starts.push(packed.blocks as i32);
    }
    packed
}

/// The columns of a chunk that one of the filters keeps.
fn columns(group: &[&[f32]], shape: &ConvShape, tile: &PlaneTile, chunk: usize) -> Vec<Column> {
    let first = chunk * tile.chunk;
    let mut columns = Vec::new();
    for tap in 0..shape.r * shape.s {
        for channel in first..(first + tile.chunk).min(shape.c) {
            let element = tap * shape.c + channel;
            let bits = group.iter().enumerate().map(|(i, w)| u32::from(w[element] != 0.0) << i);
            let kept = bits.fold(0, |all, bit| all | bit);
            if kept != 0 {
                let row =
                    (channel - first) * tile.plane + tap / shape.s * tile.width + tap % shape.s;
                columns.push(Column { element, row, kept });
            }
        }
    }
    columns
}

impl Packed {
    fn add(&mut self, group: &[&[f32]], columns: &[Column], product: SparseProduct) {
        let places = arrange(columns, product);
        self.columns += columns.len();
        for block in places.chunks_exact(product.columns()) {
            self.blocks += 1;
            for octet in block.chunks_exact(OCTET) {
                let mut load = [0; OCTET];
                octet.iter().flatten().for_each(|column| load[column.bank()] += 1);
                self.banks.accesses += 1;
                self.banks.conflicts += load.into_iter().max().unwrap_or(0).max(1) - 1;
            }
            match product {
                SparseProduct::TwoFour => two_four_record(group, block, &mut self.records),
                SparseProduct::Dense => dense_record(group, block, &mut self.records),
            }
        }
    }
}

/// Puts columns into blocks: in each octet as many bank groups as there are, and for [`SparseProduct::TwoFour`] at most
/// two weights of a filter in four neighbours. First fit, the columns with most weights first.
fn arrange(columns: &[Column], product: SparseProduct) -> Vec<Option<Column>> {
    let block = product.columns();
    let limit = product == SparseProduct::TwoFour;
    let mut queues: [Vec<Column>; OCTET] = Default::default();
    columns.iter().for_each(|&column| queues[column.bank()].push(column));
    queues.iter_mut().for_each(|q| q.sort_by_key(|column| Reverse(column.kept.count_ones())));
    let mut left = columns.len();
    let mut places = Vec::new();
    while left > 0 {
        // Octets of the blocks that the rest would fill.
        let octets = left.div_ceil(block) * (block / OCTET);
        for i in 0..block / OCTET {
            let mut octet = Octet { limit, ..Octet::default() };
            let after = octets - 1 - i;
            let mut banks: [usize; OCTET] = std::array::from_fn(|bank| bank);
            banks.sort_by_key(|&bank| Reverse(queues[bank].len()));
            left -= banks.into_iter().filter(|&bank| octet.take(&mut queues[bank])).count();
            // A bank group twice only where the octets behind this one could not hold the rest.
            while left > after * OCTET || queues.iter().any(|queue| queue.len() > after) {
                banks.sort_by_key(|&bank| (Reverse(queues[bank].len()), bank));
                if !banks.into_iter().any(|bank| octet.take(&mut queues[bank])) {
                    break;
                }
                left -= 1;
            }
            places.extend(octet.slots);
        }
    }
    places
}

/// Two quads of columns that are being filled.
#[derive(Default)]
struct Octet {
    limit: bool,
    slots: [Option<Column>; OCTET],
    /// Filters with a weight in the quad, and those with two.
    once: [u32; 2],
    twice: [u32; 2],
}

impl Octet {
    /// Takes the first column of the queue that fits.
    fn take(&mut self, queue: &mut Vec<Column>) -> bool {
        for quad in 0..2 {
            let slots = &mut self.slots[4 * quad..][..4];
            let Some(slot) = slots.iter_mut().find(|slot| slot.is_none()) else { continue };
            let full = if self.limit { self.twice[quad] } else { 0 };
            if let Some(i) = queue.iter().position(|column| column.kept & full == 0) {
                let column = queue.remove(i);
                self.twice[quad] |= self.once[quad] & column.kept;
                self.once[quad] |= column.kept;
                *slot = Some(column);
                return true;
            }
        }
        false
    }
}

/// The byte offset of each column. An empty place repeats a column of its octet: the same address is no conflict.
fn offsets(block: &[Option<Column>]) -> impl Iterator<Item = u32> {
    (0..block.len()).map(|i| {
        let row = [i, i / OCTET * OCTET, 0].into_iter().find_map(|i| block[i]).map_or(0, |c| c.row);
        (row * ROW_BYTES) as u32
    })
}

/// bf16 bits of the weight of filter `row` of the group in a column; 0 where there is none.
fn weight(group: &[&[f32]], row: usize, column: Option<Column>) -> u32 {
    let value = column.and_then(|column| group.get(row).map(|w| w[column.element]));
    u32::from(half::bf16::from_f32(value.unwrap_or(0.0)).to_bits())
}

/// Places of a filter's one or two weights among four columns, ascending.
fn kept_pair(quad: &[Option<Column>], row: usize) -> [usize; 2] {
    let mut kept = (0..4).filter(|&i| quad[i].is_some_and(|column| column.kept >> row & 1 == 1));
    match (kept.next(), kept.next()) {
        (Some(first), Some(second)) => [first, second],
        (Some(first), None) => [first.min(2), first.max(first.min(2) + 1)],
        _ => [0, 1],
    }
}

/// Left operand of two `mma.sp.m16n8k32`, then for each lane the offset of a column and a word of metadata.
fn two_four_record(group: &[&[f32]], block: &[Option<Column>], out: &mut Vec<u32>) {
    let quad = |q: usize| &block[4 * q..][..4];
    for half in 0..2 {
        for lane in 0..32 {
            for register in 0..4 {
                let row = 16 * half + lane / 4 + 8 * (register % 2);
                let columns = quad(lane % 4 + 4 * (register / 2));
                let [low, high] = kept_pair(columns, row).map(|i| weight(group, row, columns[i]));
                out.push(low | high << 16);
            }
        }
    }
    for (lane, offset) in offsets(block).enumerate() {
        // Lanes 0 and 1 of each four describe filters 0-15, lanes 2 and 3 filters 16-31; the odd ones the upper columns.
        let row = lane % 4 / 2 * 16 + lane / 4;
        let nibble = |row: usize, q: usize| {
            let [first, second] = kept_pair(quad(lane % 2 * 4 + q), row);
            (first | second << 2) << (4 * q)
        };
        let metadata = (0..4).map(|q| nibble(row, q) | nibble(row + 8, q) << 16).sum::<usize>();
        out.extend([offset, metadata as u32]);
    }
}

/// Left operand of two `mma.m16n8k16`, then the offset of each column.
fn dense_record(group: &[&[f32]], block: &[Option<Column>], out: &mut Vec<u32>) {
    for half in 0..2 {
        for lane in 0..32 {
            for register in 0..4 {
                let row = 16 * half + lane / 4 + 8 * (register % 2);
                let first = 2 * (lane % 4) + 8 * (register / 2);
                let [low, high] = [0, 1].map(|i| weight(group, row, block[first + i]));
                out.push(low | high << 16);
            }
        }
    }
    out.extend(offsets(block));
}
