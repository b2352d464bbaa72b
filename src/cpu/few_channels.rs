//! Input gradient of a convolution that reads few channels, the first of a network: a tile of columns would be mostly
//! empty, so the lanes run over the filters instead and are summed at the end of each pixel.

use super::kernel::{DenseTiles, MAX_CHANNELS, PixelDots};
use super::round;
use super::scratch;
use super::taps::Axis;
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use rayon::prelude::*;

/// Whether this algorithm is the better one.
pub(super) fn fits(shape: &ConvShape) -> bool {
    (1..=MAX_CHANNELS).contains(&shape.c) && shape.k >= 8
}

/// `dx = dy ∗ᵀ w` for a shape that [`fits`].
pub(super) fn backward_input(
    tiles: &DenseTiles,
    shape: &ConvShape,
    dy: &[f32],
    w: &[f32],
    mode: Mode,
    dx: &mut [f32],
) {
    let padded = shape.k.next_multiple_of(tiles.columns());
    scratch::with(shape.r * shape.s * shape.c * padded, |weights| {
        pack(shape, padded, w, mode, weights);
        round::with(mode, dy, |dy| rows(tiles, shape, padded, dy, weights, dx));
    });
}

/// `weights[R − 1 − r, S − 1 − s, c, k]`, zeros up to `padded` filters.
fn pack(shape: &ConvShape, padded: usize, w: &[f32], mode: Mode, weights: &mut [f32]) {
    let &ConvShape { c, k, .. } = shape;
    let taps = shape.r * shape.s;
    for (row, weights) in weights.chunks_exact_mut(padded).enumerate() {
        let (tap, channel) = (taps - 1 - row / c, row % c);
        for (filter, weight) in weights.iter_mut().enumerate() {
            let kept = filter < k;
            *weight =
                if kept { round::round(mode, w[(filter * taps + tap) * c + channel]) } else { 0.0 };
        }
    }
}

fn rows(
    tiles: &DenseTiles,
    shape: &ConvShape,
    padded: usize,
    dy: &[f32],
    weights: &[f32],
    dx: &mut [f32],
) {
    let &ConvShape { h, w, c, k, r, s, stride, pad, .. } = shape;
    let (p, q) = (shape.p(), shape.q());
    let column = Axis::backward(w, q, s, stride, pad).whole();
    let (mut starts, mut taps) = (vec![0], Vec::new());
    for sources in column.sources.chunks_exact(s) {
        let found = sources.iter().enumerate().filter_map(|(tap, x)| Some((tap, (*x)?)));
        taps.extend(found.map(|(tap, x)| (x * k, tap * c * padded)));
        starts.push(taps.len());
    }
    let row = Axis::backward(h, p, r, stride, pad).whole();
    dx.par_chunks_exact_mut(w * c).enumerate().for_each(|(index, out)| {
        let (n, y) = (index / h, index % h);
        let sources = row.sources[y * r..][..r].iter().enumerate();
        let rows: Vec<_> = sources
            .filter_map(|(tap, y)| Some(((n * p + (*y)?) * q * k, tap * s * c * padded)))
            .collect();
        let (starts, taps) = (&starts, &taps);
        let dots =
            PixelDots { input: dy, depth: k, weights, padded, rows: &rows, starts, taps, out };
        // SAFETY: rows and taps are pixels of `dy` and taps of the filter; `out` is a row of `w` pixels.
        unsafe { tiles.dots(c, dots) };
    });
}
