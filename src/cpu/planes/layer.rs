//! A convolution over kept weights.

use super::batched::{self, Batched};
use super::compiled::CompiledFilters;
use super::layout::Layout;
use super::lists::KeptLists;
use super::single::{self, Single};
use super::tiles::ListTiles;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::finish::Finish;
use crate::cpu::isa::Isa;

/// A convolution whose zero weights are dropped, with what follows it.
pub(crate) struct SparseLayer {
    filters: CompiledFilters,
    path: Path,
}

enum Path {
    Batched(Batched),
    Single(Single),
}

impl SparseLayer {
    /// Zeros that the layer wants around its input.
    pub(crate) fn halo(isa: Isa, shape: &ConvShape) -> usize {
        let layout = Layout::new(isa, [shape.n, shape.h, shape.w, shape.c], 0);
        let none = match layout.blocks {
            Some(blocks) => batched::exact(ListTiles::of(isa), shape, blocks).is_some(),
            None => !single::direct(shape),
        };
        if none { 0 } else { shape.pad }
    }

    /// `weight` is `[k, r, s, c]`, `bias` `[k]`; the layouts are those of `[n, h, w, c]` and of `[n, p, q, k]`, after
    /// pooling.
    pub(crate) fn new(
        isa: Isa,
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
        let tiles = ListTiles::of(isa);
        let kept = weight.iter().filter(|&&weight| weight != 0.0).count();
        let (path, offsets, order) = match input.blocks {
            Some(_) => {
                let (path, offsets, order) =
                    Batched::new(tiles, shape, kept, finish, &input, &output);
                (Path::Batched(path), offsets, order)
            }
            None => {
                let (path, offsets, order) = Single::new(tiles, shape, kept, &input, &output);
                (Path::Single(path), offsets, order)
            }
        };
        let lists = KeptLists::new(shape, weight, kept, &offsets, order);
        let bias = bias.to_vec();
        Self { filters: CompiledFilters { tiles, input, output, finish, bias, lists }, path }
    }

    /// Layout of what the layer reads.
    #[cfg(test)]
    pub(crate) fn input(&self) -> &Layout {
        &self.filters.input
    }

    /// Layout of what the layer writes.
    #[cfg(test)]
    pub(crate) fn output(&self) -> &Layout {
        &self.filters.output
    }

    /// `y = finish(w ∗ x + bias + residual)`; the residual lies as the output does and excludes pooling.
    pub(crate) fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let CompiledFilters { input, output, finish, .. } = &self.filters;
        assert!(x.len() == input.len() && y.len() == output.len());
        assert!(residual.is_none_or(|r| r.len() == y.len() && !finish.pool));
        if output.h * output.w == 0 {
            return;
        }
        match &self.path {
            Path::Batched(path) => path.run(&self.filters, x, residual, y),
            Path::Single(path) => path.run(&self.filters, x, residual, y),
        }
    }
}
