//! Passes over `[block][h][w][c][lane]` other than convolutions.

use super::lanes;
use crate::cpu::team;

/// `y` is the NHWC tensor x with images in lanes; the images that fill up the last block are zeros.
///
/// Shapes: x `[n, pixels, c]`.
pub(crate) fn from_nhwc([n, pixels, c]: [usize; 3], x: &[f32], y: &mut [f32]) {
    let (lanes, len) = (lanes(), pixels * c);
    assert!(x.len() == n * len && y.len() == n.next_multiple_of(lanes) * len);
    if y.is_empty() {
        return;
    }
    team::for_each_chunk(y, len * lanes, |block, y| {
        let images = &x[block * lanes * len..n.min((block + 1) * lanes) * len];
        let count = images.len() / len;
        for (i, y) in y.chunks_exact_mut(lanes).enumerate() {
            for (image, y) in y[..count].iter_mut().enumerate() {
                *y = images[image * len + i];
            }
            y[count..].fill(0.0);
        }
    });
}

/// `y` is the NHWC tensor of x, which has images in lanes.
///
/// Shapes: y `[n, pixels, c]`.
pub(crate) fn to_nhwc([n, pixels, c]: [usize; 3], x: &[f32], y: &mut [f32]) {
    let (lanes, len) = (lanes(), pixels * c);
    assert!(y.len() == n * len && x.len() == n.next_multiple_of(lanes) * len);
    if y.is_empty() {
        return;
    }
    team::for_each_chunk(y, len, |image, y| {
        let (block, lane) = (image / lanes, image % lanes);
        let values = x[block * len * lanes..].chunks_exact(lanes);
        y.iter_mut().zip(values).for_each(|(y, x)| *y = x[lane]);
    });
}

/// The `index` of the `c` channels. Shapes: x `[.., c, lane]`, y `[.., index.len(), lane]`.
pub(crate) fn pick(c: usize, index: &[usize], x: &[f32], y: &mut [f32]) {
    let lanes = lanes();
    assert!(x.len() / (c * lanes).max(1) * index.len() * lanes == y.len());
    if y.is_empty() {
        return;
    }
    team::for_each_chunk(y, index.len() * lanes, |pixel, y| {
        let x = &x[pixel * c * lanes..][..c * lanes];
        for (y, &channel) in y.chunks_exact_mut(lanes).zip(index) {
            y.copy_from_slice(&x[channel * lanes..][..lanes]);
        }
    });
}

/// Maximum over 2×2 windows with stride 2; an odd last row or column is dropped.
///
/// Shapes: x `[block, h, w, c, lane]`, y `[block, h/2, w/2, c, lane]`.
pub(crate) fn max_pool([n, h, w, c]: [usize; 4], x: &[f32], y: &mut [f32]) {
    let lanes = lanes();
    let blocks = n.div_ceil(lanes);
    crate::cpu::pool2d::max([blocks, h, w, c * lanes], x, y);
}

/// Mean over the pixels. Shapes: x `[block, pixels, c, lane]`, y `[block, c, lane]`.
pub(crate) fn mean([n, pixels, c]: [usize; 3], x: &[f32], y: &mut [f32]) {
    let lanes = lanes();
    crate::cpu::pool2d::mean_forward([n.div_ceil(lanes), pixels, c * lanes], x, y);
}
