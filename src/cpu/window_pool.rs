//! Pooling over windows of any size: the largest, and the mean.

use super::pool2d::larger;
use super::team;
use super::window::Window;
use rayon::prelude::*;
use std::ops::Range;

/// Largest of each window and, where asked for, the place `r·size + s` of the first maximum; a NaN is a maximum.
///
/// Shapes: x `[n, h, w, c]`, y and argmax `[n, p, q, c]`.
pub(crate) fn max_forward(
    window: Window,
    [n, h, w, c]: [usize; 4],
    x: &[f32],
    y: &mut [f32],
    argmax: Option<&mut [u8]>,
) {
    let [p, q] = counts(window, [h, w]);
    assert!(x.len() == n * h * w * c && y.len() == n * p * q * c);
    if y.is_empty() {
        return;
    }
    let line = |row: usize, y: &mut [f32], mut argmax: Option<&mut [u8]>| {
        let (image, row) = (row / p, row % p);
        for (column, y) in y.chunks_exact_mut(c).enumerate() {
            let mut argmax = argmax.as_mut().map(|argmax| &mut argmax[column * c..][..c]);
            let mut first = true;
            for (r, s) in taps(window, [h, w], [row, column]) {
                let place = (r * window.size + s) as u8;
                let pixel = pixel(window, [h, w], [image, row, column], [r, s]) * c;
                let x = &x[pixel..pixel + c];
                match &mut argmax {
                    None if first => y.copy_from_slice(x),
                    None => y.iter_mut().zip(x).for_each(|(y, &x)| *y = larger(*y, x)),
                    Some(argmax) => {
                        for i in 0..c {
                            if first || x[i] > y[i] || (x[i].is_nan() && !y[i].is_nan()) {
                                (y[i], argmax[i]) = (x[i], place);
                            }
                        }
                    }
                }
                first = false;
            }
        }
    };
    match argmax {
        None => team::for_each_chunk(y, q * c, |row, y| line(row, y, None)),
        Some(argmax) => {
            let rows = y.par_chunks_exact_mut(q * c).enumerate();
            let argmax = argmax.par_chunks_exact_mut(q * c);
            rows.zip(argmax).for_each(|((row, y), argmax)| line(row, y, Some(argmax)));
        }
    }
}

/// `dx` is the sum of `dy` over the windows whose maximum the pixel is.
pub(crate) fn max_backward(
    window: Window,
    shape: [usize; 4],
    dy: &[f32],
    argmax: &[u8],
    dx: &mut [f32],
) {
    assert!(argmax.len() == dy.len());
    backward(window, shape, dy, dx, |place, at, dx| {
        let windows = dy[at..at + dx.len()].iter().zip(&argmax[at..]);
        let chosen =
            |(dx, (&dy, &at)): (&mut f32, (&f32, &u8))| *dx += if at == place { dy } else { 0.0 };
        dx.iter_mut().zip(windows).for_each(chosen);
    });
}

/// Sum of each window over `size²`. Shapes: x `[n, h, w, c]`, y `[n, p, q, c]`.
pub(crate) fn mean_forward(window: Window, [n, h, w, c]: [usize; 4], x: &[f32], y: &mut [f32]) {
    let [p, q] = counts(window, [h, w]);
    assert!(x.len() == n * h * w * c && y.len() == n * p * q * c);
    if y.is_empty() {
        return;
    }
    let area = (window.size * window.size) as f32;
    team::for_each_chunk(y, q * c, |row, y| {
        let (image, row) = (row / p, row % p);
        for (column, y) in y.chunks_exact_mut(c).enumerate() {
            y.fill(0.0);
            for (r, s) in taps(window, [h, w], [row, column]) {
                let pixel = pixel(window, [h, w], [image, row, column], [r, s]) * c;
                y.iter_mut().zip(&x[pixel..pixel + c]).for_each(|(y, &x)| *y += x);
            }
            y.iter_mut().for_each(|y| *y /= area);
        }
    });
}

/// `dx` is the sum of `dy` over the windows that hold the pixel, over `size²`.
pub(crate) fn mean_backward(window: Window, shape: [usize; 4], dy: &[f32], dx: &mut [f32]) {
    backward(window, shape, dy, dx, |_, at, dx| {
        dx.iter_mut().zip(&dy[at..]).for_each(|(dx, &dy)| *dx += dy);
    });
    let area = (window.size * window.size) as f32;
    dx.par_iter_mut().for_each(|dx| *dx /= area);
}

/// `add(place, offset of the window, dx of the pixel)` for each window that holds the pixel, in order.
fn backward(
    window: Window,
    [n, h, w, c]: [usize; 4],
    dy: &[f32],
    dx: &mut [f32],
    add: impl Fn(u8, usize, &mut [f32]) + Sync,
) {
    let [p, q] = counts(window, [h, w]);
    assert!(dx.len() == n * h * w * c && dy.len() == n * p * q * c);
    if dx.is_empty() {
        return;
    }
    let Window { size, stride, padding } = window;
    dx.par_chunks_exact_mut(w * c).enumerate().for_each(|(row, dx)| {
        let (image, row) = (row / h, row % h + padding);
        for (column, dx) in dx.chunks_exact_mut(c).enumerate() {
            let column = column + padding;
            dx.fill(0.0);
            for i in reaching(window, row, p) {
                for j in reaching(window, column, q) {
                    let place = ((row - i * stride) * size + column - j * stride) as u8;
                    add(place, ((image * p + i) * q + j) * c, dx);
                }
            }
        }
    });
}

fn counts(window: Window, extents: [usize; 2]) -> [usize; 2] {
    extents.map(|extent| window.count(extent).unwrap_or(0))
}

/// The places of a window that lie in the image, row by row.
fn taps(
    Window { size, stride, padding }: Window,
    [h, w]: [usize; 2],
    [row, column]: [usize; 2],
) -> impl Iterator<Item = (usize, usize)> {
    let inside = |at: usize, extent: usize| -> Range<usize> {
        let start = at * stride;
        padding.saturating_sub(start)..size.min(extent + padding - start)
    };
    let (rows, columns) = (inside(row, h), inside(column, w));
    rows.flat_map(move |r| columns.clone().map(move |s| (r, s)))
}

/// The pixel at a place of a window.
fn pixel(
    Window { stride, padding, .. }: Window,
    [h, w]: [usize; 2],
    [image, row, column]: [usize; 3],
    [r, s]: [usize; 2],
) -> usize {
    (image * h + row * stride + r - padding) * w + column * stride + s - padding
}

/// The windows that reach a padded coordinate.
fn reaching(Window { size, stride, .. }: Window, at: usize, count: usize) -> Range<usize> {
    let first = if at < size { 0 } else { (at - size) / stride + 1 };
    first..count.min(at / stride + 1)
}
