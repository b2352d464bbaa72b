//! Inference with irregularly pruned filters: layers compiled for their shape, on activations that stay in a
//! [`Layout`] of planes from layer to layer.
//!
//! A kept weight is one broadcast and one fixed offset for all pixels of a plane. A tile of sums stays in
//! registers while a list of its filter's kept weights runs over it: all of them, or those of a slice of the channels,
//! between which the sums wait in memory. Bias, residual, ReLU and 2×2 maximum follow in registers. Many images lie along
//! the lanes ([`batched`]), few are computed one by one with pixels along the lanes ([`single`]). Every output is summed in one order, so its bits do not depend on the number of threads.

mod batched;
mod layout;
mod moves;
mod single;
mod tile;

pub(crate) use layout::Layout;
pub(crate) use moves::{from_lanes, global_avg_pool, max_pool2, pack, to_lanes, unpack};
pub(crate) use tile::Isa;

use super::aligned::huge_pages;
use super::finish::Finish;
use crate::cpu::conv_shape::ConvShape;
use batched::Batched;
use single::Single;
use std::ops::Range;
use tile::Term;

/// Floats of the first cache, roughly. What a tile reads of so many channels stays there while filters pass over it: the second
/// one gives a third as much (`cargo bench -- machine`), which bounds everything here.
const FIRST_CACHE: usize = 12 << 10;

/// A convolution whose zero weights are dropped, with what follows it.
pub(crate) struct SparseLayer {
    isa: &'static Isa,
    input: Layout,
    output: Layout,
    finish: Finish,
    bias: Vec<f32>,
    order: Order,
    terms: Vec<Term>,
    /// Of all lists, and the end of the last.
    starts: Vec<u32>,
    path: Path,
}

enum Path {
    Batched(Batched),
    Single(Single),
}

impl SparseLayer {
    /// Zeros that the layer wants around its input.
    pub(crate) fn halo(isa: &Isa, shape: &ConvShape) -> usize {
        let layout = Layout::new(isa, [shape.n, shape.h, shape.w, shape.c], 0);
        let none = match layout.blocks {
            Some(blocks) => batched::exact(isa, shape, blocks).is_some(),
            None => !single::direct(shape),
        };
        if none { 0 } else { shape.pad }
    }

    /// `weight` is `[k, r, s, c]`, `bias` `[k]`; the layouts are those of `[n, h, w, c]` and of `[n, p, q, k]`, after
    /// pooling.
    pub(crate) fn new(
        isa: &'static Isa,
        shape: &ConvShape,
        weight: &[f32],
        bias: &[f32],
        finish: Finish,
        input: Layout,
        output: Layout,
    ) -> Self {
        let &ConvShape { n, h, w, c, k, .. } = shape;
        let edge = |edge: usize| if finish.pool { edge / 2 } else { edge };
        assert!(weight.len() == shape.filter_len() && bias.len() == k);
        assert!(input == Layout::new(isa, [n, h, w, c], input.halo));
        assert!(output == Layout::new(isa, [n, edge(shape.p()), edge(shape.q()), k], output.halo));
        assert!(input.halo >= Self::halo(isa, shape));
        let kept = weight.iter().filter(|&&weight| weight != 0.0).count();
        let (path, offsets, order) = match input.blocks {
            Some(_) => {
                let (path, offsets, order) =
                    Batched::new(isa, shape, kept, finish, &input, &output);
                (Path::Batched(path), offsets, order)
            }
            None => {
                let (path, offsets, order) = Single::new(isa, shape, kept, &input, &output);
                (Path::Single(path), offsets, order)
            }
        };
        let (terms, starts) = lists(shape, weight, kept, &offsets, &order);
        let bias = bias.to_vec();
        Self { isa, input, output, finish, bias, order, terms, starts, path }
    }

    /// Layout of what the layer reads.
    #[cfg(test)]
    pub(crate) fn input(&self) -> &Layout {
        &self.input
    }

    /// Layout of what the layer writes.
    #[cfg(test)]
    pub(crate) fn output(&self) -> &Layout {
        &self.output
    }

    /// `y = finish(w ∗ x + bias + residual)`; the residual lies as the output does and excludes pooling.
    pub(crate) fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        assert!(x.len() == self.input.len() && y.len() == self.output.len());
        assert!(residual.is_none_or(|r| r.len() == y.len() && !self.finish.pool));
        if self.output.h * self.output.w == 0 {
            return;
        }
        match &self.path {
            Path::Batched(path) => path.run(self, x, residual, y),
            Path::Single(path) => path.run(self, x, residual, y),
        }
    }

    /// The starts of the lists of a group's filters in a slice of the channels, and the end of the last.
    fn starts(&self, group: usize, slice: usize) -> &[u32] {
        let Order { slices, lists, .. } = self.order;
        let group = self.order.group(group);
        let first = group.start * slices + slice * group.len();
        &self.starts[first * lists..=(first + group.len()) * lists]
    }

    fn floor(&self) -> f32 {
        if self.finish.relu { 0.0 } else { f32::NEG_INFINITY }
    }
}

/// Where the weights of a tap read: channel 0, and the distance of the channels.
struct Offsets {
    taps: Vec<usize>,
    channel: usize,
}

/// How the kept weights follow each other: by groups of filters, for a group by slices of the channels, in a slice by filters,
/// and of a filter there in some lists: one, one for each column of taps, or one for each tap.
struct Order {
    filters: usize,
    groups: usize,
    slices: usize,
    lists: usize,
    /// Whether every other filter goes through the channels backwards: the input that the last list ended with is still in the
    /// first cache. Never where the slices depend on the number of images, which would sum in another order then.
    turns: bool,
}

/// Slices of the channels, of which a tile reads so many floats in all: as many as bring each near [`FIRST_CACHE`], unless
/// filters then keep fewer than `least` weights in a slice, for which it does not pay to keep the sums in memory.
fn slices(read: usize, kept: usize, filters: usize, least: usize) -> usize {
    let near = (read + FIRST_CACHE / 2) / FIRST_CACHE;
    near.min(kept / (least * filters).max(1)).max(1)
}

impl Order {
    /// The filters of a group.
    fn group(&self, group: usize) -> Range<usize> {
        self.filters * group / self.groups..self.filters * (group + 1) / self.groups
    }
}

/// The `kept` weights in their order, and the starts of their lists with the end of the last.
fn lists(
    shape: &ConvShape,
    weight: &[f32],
    kept: usize,
    offsets: &Offsets,
    order: &Order,
) -> (Vec<Term>, Vec<u32>) {
    let &ConvShape { c, k, r, s, .. } = shape;
    let mut terms = Vec::with_capacity(kept);
    huge_pages(&terms);
    let mut starts = Vec::with_capacity(k * order.slices * order.lists + 1);
    starts.push(0);
    for group in 0..order.groups {
        for slice in 0..order.slices {
            let channels = c * slice / order.slices..c * (slice + 1) / order.slices;
            for filter in order.group(group) {
                for list in 0..order.lists {
                    for i in 0..channels.len() {
                        let back = order.turns && filter % 2 == 1;
                        let channel = if back { c - 1 - i } else { channels.start + i };
                        for tap in (list..r * s).step_by(order.lists) {
                            let offset = offsets.taps[tap] + channel * offsets.channel;
                            let offset = u32::try_from(offset)
                                .expect("a group of images has less than 2^32 floats");
                            let weight = weight[(filter * r * s + tap) * c + channel];
                            if weight != 0.0 {
                                terms.push(Term { weight, offset });
                            }
                        }
                    }
                    starts.push(terms.len() as u32);
                }
            }
        }
    }
    (terms, starts)
}
