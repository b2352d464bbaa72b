//! Pooling: 2×2 maximum with stride 2, and the mean over all pixels.

use super::team;
use rayon::prelude::*;

/// Maximum over 2×2 windows with stride 2; an odd last row or column is dropped, as in PyTorch.
/// `argmax` is the position `2·row + column` of the first maximum in its window; a NaN is a maximum.
///
/// Shapes: x `[n, h, w, c]`, y and argmax `[n, h/2, w/2, c]`.
pub(crate) fn max_forward([n, h, w, c]: [usize; 4], x: &[f32], y: &mut [f32], argmax: &mut [u8]) {
    let (p, q) = (h / 2, w / 2);
    assert!(x.len() == n * h * w * c && y.len() == n * p * q * c && argmax.len() == y.len());
    if y.is_empty() {
        return;
    }
    let rows = y.par_chunks_exact_mut(q * c).zip(argmax.par_chunks_exact_mut(q * c));
    rows.enumerate().for_each(|(row, (y, argmax))| {
        let (image, row) = (row / p, row % p);
        let lines = &x[(image * h + 2 * row) * w * c..][..2 * w * c];
        let (above, below) = lines.split_at(w * c);
        let pixels = y.chunks_exact_mut(c).zip(argmax.chunks_exact_mut(c));
        let windows = above.chunks_exact(2 * c).zip(below.chunks_exact(2 * c));
        for ((y, argmax), (above, below)) in pixels.zip(windows) {
            let [(a, b), (d, e)] = [above.split_at(c), below.split_at(c)];
            for i in 0..c {
                let (mut best, mut at) = (a[i], 0);
                for (x, place) in [(b[i], 1), (d[i], 2), (e[i], 3)] {
                    let better = x > best || (x.is_nan() && !best.is_nan());
                    (best, at) = if better { (x, place) } else { (best, at) };
                }
                (y[i], argmax[i]) = (best, at);
            }
        }
    });
}

/// `dx` is `dy` at the maxima and 0 elsewhere.
pub(crate) fn max_backward([n, h, w, c]: [usize; 4], dy: &[f32], argmax: &[u8], dx: &mut [f32]) {
    let (p, q) = (h / 2, w / 2);
    assert!(dx.len() == n * h * w * c && dy.len() == n * p * q * c && argmax.len() == dy.len());
    if dx.is_empty() {
        return;
    }
    dx.par_chunks_exact_mut(w * c).enumerate().for_each(|(row, dx)| {
        let (image, row) = (row / h, row % h);
        if row / 2 >= p {
            return dx.fill(0.0);
        }
        let windows = (image * p + row / 2) * q * c..(image * p + row / 2 + 1) * q * c;
        let (dy, argmax) = (&dy[windows.clone()], &argmax[windows]);
        let first = (row % 2 * 2) as u8;
        let (inside, rest) = dx.split_at_mut(2 * q * c);
        rest.fill(0.0);
        let windows = dy.chunks_exact(c).zip(argmax.chunks_exact(c));
        for (dx, (dy, argmax)) in inside.chunks_exact_mut(2 * c).zip(windows) {
            let (left, right) = dx.split_at_mut(c);
            for i in 0..c {
                left[i] = if argmax[i] == first { dy[i] } else { 0.0 };
                right[i] = if argmax[i] == first + 1 { dy[i] } else { 0.0 };
            }
        }
    });
}

/// Mean over the pixels of each image. Shapes: x `[n, pixels, c]`, y `[n, c]`.
pub(crate) fn mean_forward([n, pixels, c]: [usize; 3], x: &[f32], y: &mut [f32]) {
    assert!(x.len() == n * pixels * c && y.len() == n * c);
    if x.is_empty() {
        return y.fill(0.0);
    }
    let scale = 1.0 / pixels as f32;
    team::for_each_chunk(y, c, |image, y| {
        y.fill(0.0);
        for x in x[image * pixels * c..][..pixels * c].chunks_exact(c) {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y += x);
        }
        y.iter_mut().for_each(|y| *y *= scale);
    });
}

/// `dx = dy / pixels` at every pixel.
pub(crate) fn mean_backward([n, pixels, c]: [usize; 3], dy: &[f32], dx: &mut [f32]) {
    assert!(dx.len() == n * pixels * c && dy.len() == n * c);
    if dx.is_empty() {
        return;
    }
    let scale = 1.0 / pixels as f32;
    dx.par_chunks_exact_mut(pixels * c).zip(dy.par_chunks_exact(c)).for_each(|(dx, dy)| {
        for dx in dx.chunks_exact_mut(c) {
            dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx = dy * scale);
        }
    });
}

/// [`max_forward`] without the positions, for inference.
pub(crate) fn max([n, h, w, c]: [usize; 4], x: &[f32], y: &mut [f32]) {
    let (p, q) = (h / 2, w / 2);
    assert!(x.len() == n * h * w * c && y.len() == n * p * q * c);
    if y.is_empty() {
        return;
    }
    team::for_each_chunk(y, q * c, |row, y| {
        let (image, row) = (row / p, row % p);
        let lines = &x[(image * h + 2 * row) * w * c..][..2 * w * c];
        let (above, below) = lines.split_at(w * c);
        let windows = above.chunks_exact(2 * c).zip(below.chunks_exact(2 * c));
        for (y, (above, below)) in y.chunks_exact_mut(c).zip(windows) {
            let ((a, b), (d, e)) = (above.split_at(c), below.split_at(c));
            for i in 0..c {
                y[i] = larger(larger(a[i], b[i]), larger(d[i], e[i]));
            }
        }
    });
}

/// The larger one; NaN where one is NaN.
#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}
