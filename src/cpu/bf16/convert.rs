//! Passes over blocked activations apart from convolutions.

use super::layout::{Blocked, ROW, Row, rows, rows_mut};
use super::tile::{Bf16Isa, JOINED, Join};
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::scratch::Shared;
use crate::cpu::team;
use half::bf16;

/// The rows of a pixel.
///
/// # Safety
/// The pixel is in the layout, whose memory `y` is, and nobody else's.
unsafe fn pixel<'a>(
    layout: &Blocked,
    y: &Shared,
    [image, row, column]: [usize; 3],
) -> impl Iterator<Item = &'a mut Row> {
    let place = layout.of_image(image, row, column);
    (0..layout.blocks()).flat_map(move |block| {
        let place = (place + block * layout.block) * ROW / 2;
        // SAFETY: by the caller's word.
        rows_mut(unsafe { y.part(place, ROW / 2) })
    })
}

/// `[n, h, w, c]` in f32, rounded; images that fill up the last group are whatever they are.
pub(crate) fn from_nhwc(layout: &Blocked, x: &[f32], y: &mut [f32]) {
    let &Blocked { n, h, w, c, .. } = layout;
    assert!(x.len() == n * h * w * c && y.len() == layout.len());
    let isa = Bf16Isa::detect();
    let y = Shared::new(y);
    team::for_each(n * h, |line| {
        for column in 0..w {
            let values = x[(line * w + column) * c..][..c].chunks(ROW);
            // SAFETY: each pixel is one task's.
            let rows = unsafe { pixel(layout, &y, [line / h, line % h, column]) };
            for (values, row) in values.zip(rows) {
                isa.round(values, &mut row[..values.len()]);
                row[values.len()..].fill(bf16::ZERO);
            }
        }
    });
}

/// What each pixel of a convolution's result reads, tap by tap, `[n, p, q, r · s · c]`, rounded, from x `[n, h, w, c]` in f32: of images of
/// few channels a row then holds several taps.
pub(crate) fn patches(shape: &ConvShape, layout: &Blocked, x: &[f32], y: &mut [f32]) {
    let &ConvShape { n, h, w, c, r, s, stride, pad, .. } = shape;
    assert!(x.len() == shape.input_len() && y.len() == layout.len());
    assert!([n, shape.p(), shape.q(), r * s * c] == [layout.n, layout.h, layout.w, layout.c]);
    let (isa, count, y) = (Bf16Isa::detect(), layout.together(), Shared::new(y));
    let wide = (w + 2 * pad) * c + JOINED;
    let each = s * c;
    let joined = (1..=JOINED).contains(&each) && (1..=4).contains(&r) && r * each <= ROW;
    team::for_each(layout.groups() * layout.h, |line| {
        let (group, row) = (line / layout.h, line % layout.h);
        let place = layout.at(group, row, 0);
        for i in 0..count {
            // The lines that the taps read, in a border of zeros; images that fill up the group are zeros.
            let mut lines = vec![bf16::ZERO; r * wide];
            for (dr, to) in lines.chunks_exact_mut(wide).enumerate() {
                let image = group * count + i;
                // What starts outside wraps around and is then too large.
                let at = (row * stride + dr).wrapping_sub(pad);
                if image < n && at < h {
                    let from = &x[(image * h + at) * w * c..][..w * c];
                    isa.round(from, &mut to[pad * c..][..w * c]);
                }
            }
            if joined {
                let start = |dr: usize| lines[dr.min(r - 1) * wide..].as_ptr();
                let join = Join {
                    lines: std::array::from_fn(start),
                    step: stride * c,
                    each,
                    filled: r * each,
                    columns: layout.w,
                    y: y.rest((place + i) * ROW / 2).ptr().cast::<bf16>(),
                    pitch: layout.pixel * ROW,
                };
                // SAFETY: a line has 16 words behind its border; each line of a group is one task's.
                unsafe { isa.join(&join) };
                continue;
            }
            let mut patch = vec![bf16::ZERO; layout.blocks() * ROW];
            for column in 0..layout.w {
                for (line, patch) in
                    lines.chunks_exact(wide).zip(patch.chunks_exact_mut(each.max(1)))
                {
                    patch.copy_from_slice(&line[column * stride * c..][..each]);
                }
                for (block, patch) in patch.as_chunks::<ROW>().0.iter().enumerate() {
                    let row = place + column * layout.pixel + block * layout.block + i;
                    // SAFETY: each line of a group is one task's.
                    rows_mut(unsafe { y.part(row * ROW / 2, ROW / 2) })[0] = *patch;
                }
            }
        }
    });
}

/// `[n, h, w, c]` in f32.
pub(crate) fn to_nhwc(layout: &Blocked, x: &[f32], y: &mut [f32]) {
    let &Blocked { n, h, w, c, .. } = layout;
    assert!(x.len() == layout.len() && y.len() == n * h * w * c);
    let x = rows(x);
    team::for_each_chunk(y, (w * c).max(1), |line, y| {
        for (column, y) in y.chunks_exact_mut(c).enumerate() {
            let place = layout.of_image(line / h, line % h, column);
            for (block, y) in y.chunks_mut(ROW).enumerate() {
                let row = &x[place + block * layout.block];
                y.iter_mut().zip(row).for_each(|(y, x)| *y = x.to_f32());
            }
        }
    });
}

/// Maximum over 2×2 windows with stride 2; an odd last row or column is dropped, a NaN is a maximum. `to` is grouped where `from` is.
pub(crate) fn max_pool(from: &Blocked, x: &[f32], to: &Blocked, y: &mut [f32]) {
    assert!([to.n, to.h, to.w, to.c] == [from.n, from.h / 2, from.w / 2, from.c]);
    assert!(x.len() == from.len() && y.len() == to.len() && from.grouped == to.grouped);
    let (isa, x, y) = (Bf16Isa::detect(), rows(x), Shared::new(y));
    let count = to.together();
    team::for_each(to.groups() * to.h, |line| {
        let (group, row) = (line / to.h, line % to.h);
        for (column, block) in (0..to.w).flat_map(|x| (0..to.blocks()).map(move |b| (x, b))) {
            let place = to.at(group, row, column) + block * to.block;
            // SAFETY: each line is one task's.
            let y = unsafe { y.part(place * ROW / 2, count * ROW / 2) };
            let above = from.at(group, 2 * row, 2 * column) + block * from.block;
            let window = [0, from.pixel, from.line, from.line + from.pixel];
            isa.largest(window.map(|place| &x[above + place..][..count]), rows_mut(y));
        }
    });
}

/// Mean over the pixels in f32, `[n, c]`.
pub(crate) fn mean(layout: &Blocked, x: &[f32], y: &mut [f32]) {
    let &Blocked { n, h, w, c, .. } = layout;
    assert!(x.len() == layout.len() && y.len() == n * c);
    let (x, scale) = (rows(x), 1.0 / (h * w) as f32);
    team::for_each_chunk(y, c.max(1), |image, y| {
        for (block, y) in y.chunks_mut(ROW).enumerate() {
            let mut sums = [0.0f32; ROW];
            for (row, column) in (0..h).flat_map(|row| (0..w).map(move |column| (row, column))) {
                let place = layout.of_image(image, row, column) + block * layout.block;
                sums.iter_mut().zip(&x[place]).for_each(|(sum, x)| *sum += x.to_f32());
            }
            y.iter_mut().zip(&sums).for_each(|(y, sum)| *y = sum * scale);
        }
    });
}
