//! The fully connected layer, as a convolution of one-pixel images.

use super::{conv2d, conv2d_weight};
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;

/// `n` rows of `c` features to `k` features.
fn shape(n: usize, c: usize, k: usize) -> ConvShape {
    ConvShape { n, h: 1, w: 1, c, k, r: 1, s: 1, stride: 1, pad: 0 }
}

/// `y = x wᵀ + bias`. Shapes: x `[n, c]`, w `[k, c]`, y `[n, k]` in `[n, c, k]`.
pub(crate) fn forward(
    [n, c, k]: [usize; 3],
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    mode: Mode,
    y: &mut [f32],
) {
    conv2d::forward(&shape(n, c, k), x, w, bias, mode, y);
}

/// `dx = dy w`.
pub(crate) fn backward_input(
    [n, c, k]: [usize; 3],
    dy: &[f32],
    w: &[f32],
    mode: Mode,
    dx: &mut [f32],
) {
    conv2d::backward_input(&shape(n, c, k), dy, w, mode, dx);
}

/// `dw = dyᵀ x`. The gradient of the bias is [`conv2d::backward_bias`].
pub(crate) fn backward_weight(
    [n, c, k]: [usize; 3],
    x: &[f32],
    dy: &[f32],
    mode: Mode,
    dw: &mut [f32],
) {
    conv2d_weight::backward_weight(&shape(n, c, k), x, dy, mode, dw);
}
