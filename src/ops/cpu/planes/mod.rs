//! Inference with irregularly pruned filters: layers compiled for their shape, on activations that stay in a
//! [`Layout`] of planes from layer to layer.
//!
//! A kept weight is one broadcast and one fixed offset for all pixels of a plane. A tile of sums stays in
//! registers while the list of its output channel's kept weights runs over it; bias, residual, ReLU and 2×2 maximum
//! follow there. Many images lie along the lanes ([`batched`]), few are computed one by one with pixels along the
//! lanes ([`single`]). Every output is summed in one order, so its bits do not depend on the number of threads.

mod batched;
mod layout;
mod moves;
mod single;
mod tile;

pub(crate) use layout::Layout;
pub(crate) use moves::{from_lanes, global_avg_pool, max_pool2, pack, to_lanes, unpack};
pub(crate) use tile::Isa;

use super::aligned::huge_pages;
use crate::ops::conv_shape::ConvShape;
use batched::Batched;
use single::Single;
use tile::Term;

/// What follows the sums of a convolution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Finish {
    /// Negative results become 0.
    pub(crate) relu: bool,
    /// Maximum over 2×2 windows with stride 2; an odd last row or column is dropped.
    pub(crate) pool: bool,
}

/// A convolution whose zero weights are dropped, with what follows it.
pub(crate) struct SparseLayer {
    isa: &'static Isa,
    input: Layout,
    output: Layout,
    finish: Finish,
    bias: Vec<f32>,
    terms: Vec<Term>,
    /// `lists` lists for each output channel, and the end.
    starts: Vec<u32>,
    lists: usize,
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
        let (path, offsets, lists) = match input.blocks {
            Some(_) => {
                let (path, offsets, lists) = Batched::new(isa, shape, finish, &input, &output);
                (Path::Batched(path), offsets, lists)
            }
            None => {
                let (path, offsets, lists) = Single::new(shape, &input, &output);
                (Path::Single(path), offsets, lists)
            }
        };
        let (terms, starts) = terms(shape, weight, &offsets, lists);
        Self { isa, input, output, finish, bias: bias.to_vec(), terms, starts, lists, path }
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

    /// The starts of an output channel's lists, and the end of the last.
    fn lists(&self, channel: usize) -> &[u32] {
        &self.starts[channel * self.lists..=(channel + 1) * self.lists]
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

/// The lists of all output channels: one each, one for each column of taps, or one for each tap.
fn terms(
    shape: &ConvShape,
    weight: &[f32],
    offsets: &Offsets,
    lists: usize,
) -> (Vec<Term>, Vec<u32>) {
    let &ConvShape { c, k, r, s, .. } = shape;
    let kept = weight.iter().filter(|&&weight| weight != 0.0).count();
    let (mut terms, mut starts) = (Vec::with_capacity(kept), Vec::with_capacity(k * lists + 1));
    huge_pages(&terms);
    let mut term = |filter: usize, channel: usize, tap: usize| {
        let weight = weight[(filter * r * s + tap) * c + channel];
        let offset = offsets.taps[tap] + channel * offsets.channel;
        let offset = u32::try_from(offset).expect("a group of images has less than 2^32 floats");
        if weight != 0.0 {
            terms.push(Term { weight, offset });
        }
        terms.len() as u32
    };
    starts.push(0);
    for filter in 0..k {
        for list in 0..lists {
            let taps = (list..r * s).step_by(lists);
            let mut end = *starts.last().expect("0 is there");
            // There and back: the input that the last list ended with is still in the first cache.
            for channel in 0..c {
                let channel = if filter % 2 == 0 { channel } else { c - 1 - channel };
                for tap in taps.clone() {
                    end = term(filter, channel, tap);
                }
            }
            starts.push(end);
        }
    }
    (terms, starts)
}
