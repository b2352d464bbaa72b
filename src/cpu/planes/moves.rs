//! Operations on activations in a layout other than convolutions: conversions, pooling, means.

use super::layout::Layout;
use super::plane::{max_pool_plane, spread};
use super::tiles::ListTiles;
use crate::cpu::isa::Isa;
use crate::cpu::pool2d::larger;
use crate::cpu::scratch::{self, Shared};
use crate::cpu::team;

/// Copies `[n, h, w, c]` into a layout.
pub(crate) fn pack(isa: Isa, layout: &Layout, x: &[f32], out: &mut [f32]) {
    let &Layout { n, h, w, c, .. } = layout;
    assert!(x.len() == n * h * w * c && out.len() == layout.len() && layout.lanes == isa.lanes());
    if x.is_empty() {
        return;
    }
    let shared = Shared::new(out);
    if layout.blocks.is_none() {
        let len = (h * w).next_multiple_of(layout.lanes);
        let (tiles, masks) = (ListTiles::of(isa), layout.masks());
        return team::for_each(n * c, |task| {
            let (image, channel) = (task / c, task % c);
            let x = &x[image * h * w * c..][..h * w * c];
            scratch::with(len, |plane| {
                plane.iter_mut().zip(x[channel..].iter().step_by(c)).for_each(|(p, &x)| *p = x);
                let place = layout.at(image, 0, 0) + channel * layout.channel;
                // SAFETY: the copies of this channel are this task's alone.
                unsafe { spread(tiles, layout, &masks, plane, shared, place) };
            });
        });
    }
    team::for_each(layout.images() * h, |task| {
        let (block, y) = (task / h, task % h);
        let images = block * layout.lanes..((block + 1) * layout.lanes).min(n);
        for (x_column, channel) in (0..w).flat_map(|x| (0..c).map(move |channel| (x, channel))) {
            let place = layout.at(images.start, y, x_column) + channel * layout.channel;
            // SAFETY: this row of this block is this task's alone.
            let lanes = unsafe { shared.part(place, images.len()) };
            for (lane, image) in lanes.iter_mut().zip(images.clone()) {
                *lane = x[((image * h + y) * w + x_column) * c + channel];
            }
        }
    });
}

/// Copies an activation in a layout to `[n, h, w, c]`.
pub(crate) fn unpack(layout: &Layout, x: &[f32], out: &mut [f32]) {
    let &Layout { n, h, w, c, .. } = layout;
    assert!(out.len() == n * h * w * c && x.len() == layout.len());
    if out.is_empty() {
        return;
    }
    team::for_each_chunk(out, w * c, |row, out| {
        for (column, out) in out.chunks_exact_mut(c).enumerate() {
            let place = layout.at(row / h, row % h, column);
            out.iter_mut()
                .zip(x[place..].iter().step_by(layout.channel))
                .for_each(|(o, &x)| *o = x);
        }
    });
}

/// Mean over all pixels, to `[n, c]`.
pub(crate) fn global_avg_pool(layout: &Layout, x: &[f32], out: &mut [f32]) {
    let &Layout { n, h, w, c, .. } = layout;
    assert!(out.len() == n * c && x.len() == layout.len());
    if out.is_empty() {
        return;
    }
    let scale = 1.0 / (h * w) as f32;
    team::for_each_chunk(out, c, |image, out| {
        for (channel, out) in out.iter_mut().enumerate() {
            let place =
                |pixel: usize| layout.at(image, pixel / w, pixel % w) + channel * layout.channel;
            *out = (0..h * w).map(|pixel| x[place(pixel)]).sum::<f32>() * scale;
        }
    });
}

/// Maximum over 2×2 windows with stride 2, from a layout of `[n, h, w, c]` to one of `[n, h/2, w/2, c]`; an odd last row
/// or column is dropped, a NaN is a maximum.
pub(crate) fn max_pool(isa: Isa, input: &Layout, x: &[f32], output: &Layout, y: &mut [f32]) {
    let &Layout { n, h, w, c, .. } = output;
    assert!((n, h, w, c) == (input.n, input.h / 2, input.w / 2, input.c));
    assert!(input.lanes == isa.lanes() && output.lanes == isa.lanes());
    assert!(x.len() == input.len() && y.len() == output.len());
    if h * w == 0 {
        return;
    }
    let shared = Shared::new(y);
    if output.blocks.is_none() {
        let len = (h * w).next_multiple_of(output.lanes);
        let (tiles, masks) = (ListTiles::of(isa), output.masks());
        return team::for_each(n * c, |task| {
            let (image, channel) = (task / c, task % c);
            let from = &x[input.at(image, 0, 0) + channel * input.channel..][..input.h * input.w];
            scratch::with(len, |plane| {
                max_pool_plane(from, input.w, [h, w], plane);
                let place = output.at(image, 0, 0) + channel * output.channel;
                // SAFETY: the copies of this channel are this task's alone.
                unsafe { spread(tiles, output, &masks, plane, shared, place) };
            });
        });
    }
    let lanes = output.lanes;
    team::for_each(output.images() * c, |task| {
        let (block, channel) = (task / c, task % c);
        let image = block * lanes;
        for (y, column) in (0..h).flat_map(|y| (0..w).map(move |column| (y, column))) {
            let from = |i: usize, j: usize| {
                &x[input.at(image, 2 * y + i, 2 * column + j) + channel * input.channel..][..lanes]
            };
            let [a, b, d, e] = [from(0, 0), from(0, 1), from(1, 0), from(1, 1)];
            // SAFETY: this channel of this block is this task's alone.
            let out = unsafe {
                shared.part(output.at(image, y, column) + channel * output.channel, lanes)
            };
            for i in 0..lanes {
                out[i] = larger(larger(a[i], b[i]), larger(d[i], e[i]));
            }
        }
    });
}

/// Copies `[block][h][w][c][lane]` ([`crate::cpu::lanes`]) into a layout of many images.
pub(crate) fn from_lanes(layout: &Layout, x: &[f32], out: &mut [f32]) {
    let &Layout { h, w, c, lanes, .. } = layout;
    let len = h * w * c * lanes;
    assert!(
        layout.blocks.is_some() && x.len() == layout.images() * len && out.len() == layout.len()
    );
    let shared = Shared::new(out);
    team::for_each(layout.images() * h, |task| {
        let (block, y) = (task / h, task % h);
        let row = &x[block * len + y * w * c * lanes..][..w * c * lanes];
        for (i, lane) in row.chunks_exact(lanes).enumerate() {
            let place = layout.at(block * lanes, y, i / c) + i % c * layout.channel;
            // SAFETY: this row of this block is this task's alone.
            unsafe { shared.part(place, lanes) }.copy_from_slice(lane);
        }
    });
}

/// Copies a layout of many images back to `[block][h][w][c][lane]`.
pub(crate) fn to_lanes(layout: &Layout, x: &[f32], out: &mut [f32]) {
    let &Layout { h, w, c, lanes, .. } = layout;
    let row = w * c * lanes;
    assert!(layout.blocks.is_some() && x.len() == layout.len());
    assert!(out.len() == layout.images() * h * row);
    if out.is_empty() {
        return;
    }
    team::for_each_chunk(out, row, |task, out| {
        let (block, y) = (task / h, task % h);
        for (i, lane) in out.chunks_exact_mut(lanes).enumerate() {
            let place = layout.at(block * lanes, y, i / c) + i % c * layout.channel;
            lane.copy_from_slice(&x[place..][..lanes]);
        }
    });
}
