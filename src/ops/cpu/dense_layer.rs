//! A dense convolution made ready for inference: its filter is packed once, and what follows it happens where
//! its sums are written.

use super::aligned::Aligned;
use super::conv2d::{Finish, Product, Schedule};
use super::gather::Channels;
use super::kernel::Isa;
use super::{pack, scratch};
use crate::Mode;
use crate::ops::conv_shape::ConvShape;

/// `y = relu?(x ∗ w + bias + residual?)` for one geometry.
pub(crate) struct DenseLayer {
    shape: ConvShape,
    product: Product<'static>,
    schedule: Schedule,
    packed: Aligned,
    bias: Vec<f32>,
    relu: bool,
    /// Channels of x where the filter reads only some, and which.
    channels: Option<(usize, Vec<i32>)>,
}

impl DenseLayer {
    /// Shapes: w `[k, r, s, c]`, bias `[k]`; `channels`: those that x has and the `c` of them that w reads.
    pub(crate) fn new(
        shape: &ConvShape,
        w: &[f32],
        bias: &[f32],
        relu: bool,
        channels: Option<(usize, Vec<i32>)>,
        mode: Mode,
    ) -> Self {
        assert!(w.len() == shape.filter_len() && bias.len() == shape.k);
        let isa = Isa::detect();
        let product = Product::forward(isa, shape, mode);
        let mut packed = Aligned::zeros(product.packed_len());
        pack::forward(isa, shape, w, mode, &mut packed);
        let schedule = product.schedule();
        Self { shape: *shape, product, schedule, packed, bias: bias.to_vec(), relu, channels }
    }

    /// Shapes: x `[n, h, w, channels]`, residual and y `[n, p, q, k]`.
    pub(crate) fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        assert!(y.len() == self.shape.output_len());
        let finish = Finish { bias: Some(&self.bias), residual, relu: self.relu };
        let mut product = |x: &[f32]| {
            assert!(x.len() == self.shape.input_len());
            self.product.run(&self.schedule, x, &self.packed, &finish, y);
        };
        match &self.channels {
            None => product(x),
            Some((all, index)) => scratch::with(self.shape.input_len(), |picked| {
                Channels { all: *all, index }.pick(x, picked);
                product(picked);
            }),
        }
    }
}
