//! Dense convolution over some of the channels: the input's are picked by index, the filter has only those.
//!
//! `y[n,p,q,k] = bias[k] + Σ_{r,s,i} x[n, y, x, index[i]] · w[k,r,s,i]`. Shapes: x `[n, h, w, channels]`, filter
//! `[k, r, s, index.len()]`, `shape.c = index.len()`. Indices are distinct.

use super::{conv2d, conv2d_weight, scratch};
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::team;
use rayon::prelude::*;

/// Pixels of a task.
const PIXELS: usize = 256;

/// The channels of `x` that a convolution reads.
#[derive(Clone, Copy)]
pub(crate) struct PickedChannels<'a> {
    /// How many the activation has.
    pub(crate) all: usize,
    /// Those that are read, each less than `all`.
    pub(crate) index: &'a [i32],
}

impl PickedChannels<'_> {
    /// `out[pixel, i] = x[pixel, index[i]]`.
    fn pick(&self, x: &[f32], out: &mut [f32]) {
        let kept = self.index.len();
        if out.is_empty() {
            return;
        }
        team::for_each_chunk(out, PIXELS * kept, |part, out| {
            let x = &x[part * PIXELS * self.all..];
            for (out, x) in out.chunks_exact_mut(kept).zip(x.chunks_exact(self.all)) {
                out.iter_mut().zip(self.index).for_each(|(out, &i)| *out = x[i as usize]);
            }
        });
    }

    /// `out[pixel, index[i]] = x[pixel, i]`, 0 elsewhere.
    fn spread(&self, x: &[f32], out: &mut [f32]) {
        let kept = self.index.len();
        if kept == 0 || out.is_empty() {
            return out.fill(0.0);
        }
        let pixels = out.par_chunks_mut(PIXELS * self.all).zip(x.par_chunks(PIXELS * kept));
        pixels.for_each(|(out, x)| {
            out.fill(0.0);
            for (out, x) in out.chunks_exact_mut(self.all).zip(x.chunks_exact(kept)) {
                x.iter().zip(self.index).for_each(|(&x, &i)| out[i as usize] = x);
            }
        });
    }

    fn expect(&self, shape: &ConvShape, activation: &[f32]) {
        assert!(self.index.len() == shape.c);
        assert!(activation.len() == shape.n * shape.h * shape.w * self.all);
    }
}

/// `y[pixel, i] = x[pixel, index[i]]` of `channels` channels.
pub(crate) fn pick(channels: usize, index: &[usize], x: &[f32], y: &mut [f32]) {
    let index: Vec<i32> = index.iter().map(|&channel| channel as i32).collect();
    PickedChannels { all: channels, index: &index }.pick(x, y);
}

/// The convolution.
pub(crate) fn forward(
    channels: PickedChannels,
    shape: &ConvShape,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    mode: Mode,
    y: &mut [f32],
) {
    channels.expect(shape, x);
    scratch::with(shape.input_len(), |picked| {
        channels.pick(x, picked);
        conv2d::forward(shape, picked, w, bias, mode, y);
    });
}

/// Input gradient, 0 for the channels that are not read.
pub(crate) fn backward_input(
    channels: PickedChannels,
    shape: &ConvShape,
    dy: &[f32],
    w: &[f32],
    mode: Mode,
    dx: &mut [f32],
) {
    channels.expect(shape, dx);
    scratch::with(shape.input_len(), |picked| {
        conv2d::backward_input(shape, dy, w, mode, picked);
        channels.spread(picked, dx);
    });
}

/// Gradient of the compact filter.
pub(crate) fn backward_weight(
    channels: PickedChannels,
    shape: &ConvShape,
    x: &[f32],
    dy: &[f32],
    mode: Mode,
    dw: &mut [f32],
) {
    channels.expect(shape, x);
    scratch::with(shape.input_len(), |picked| {
        channels.pick(x, picked);
        conv2d_weight::backward_weight(shape, picked, dy, mode, dw);
    });
}
