//! Inference of few images, `[n][h][w][c]`: vectors of filters, pixels broadcast from where they lie.
//!
//! Nothing is gathered: a tile holds the address that each of its pixels reads through each tap. Outside the image that is
//! a row of zeros; a tap that is outside for every pixel of a tile is left out.

mod kernel;
mod tiling;

pub(super) use kernel::{Fetch, NhwcTap, NhwcTile, NhwcTiles, PIXELS};

use super::aligned::Aligned;
use super::isa::Isa;
use super::panel::{Panel, pad_bias};
use super::round;
use super::scratch::{self, Shared};
use super::split::split;
use super::team;
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use std::ops::Range;
use tiling::Tiling;
pub(super) use tiling::cost;

/// Floats of weights that all tiles of a task pass over before the next: with those that are fetched meanwhile an eighth
/// of a second-level cache.
const BLOCK: usize = 1 << 15;

/// Channels of a row of taps up to which the row is read as one tap: neighbouring pixels lie behind each other. The image is
/// copied into a border of zeros for that.
const FEW: usize = 32;

/// `y = relu?(x ∗ w + bias + residual?)` for one geometry.
pub(crate) struct NhwcConv {
    register_tiles: &'static NhwcTiles,
    /// What is asked for.
    whole: ConvShape,
    /// What is computed; with rows of taps as one, their channels are its channels.
    shape: ConvShape,
    /// Floats from pixel to pixel and from row to row of what it reads.
    pitch: [usize; 2],
    mode: Mode,
    relu: bool,
    panels: Vec<Panel>,
    /// `[panel][r · s][c][filters of the panel]`.
    weights: Aligned,
    bias: Vec<f32>,
    /// What taps outside the image read.
    zeros: Vec<f32>,
    /// Pixels of the result, as tasks take them.
    ranges: Vec<Range<usize>>,
    /// Most pixels of a tile.
    pixels: usize,
}

impl NhwcConv {
    /// Shapes: w `[k, r, s, c]`, bias `[k]`.
    pub(crate) fn new(shape: &ConvShape, w: &[f32], bias: &[f32], relu: bool, mode: Mode) -> Self {
        Self::new_on(Isa::detect(), shape, w, bias, relu, mode)
    }

    /// [`Self::new`] with the instructions of `isa`.
    pub(super) fn new_on(
        isa: Isa,
        shape: &ConvShape,
        w: &[f32],
        bias: &[f32],
        relu: bool,
        mode: Mode,
    ) -> Self {
        assert!(w.len() == shape.filter_len() && bias.len() == shape.k);
        let (whole, width) = (*shape, shape.w + 2 * shape.pad);
        let few = (1..=FEW).contains(&(shape.s * shape.c)) && shape.h * shape.w > 0;
        let rows = few && shape.s > 1 && shape.s <= width;
        let (shape, pitch) = match rows {
            true => (
                &ConvShape {
                    h: shape.h + 2 * shape.pad,
                    w: width + 1 - shape.s,
                    c: shape.s * shape.c,
                    s: 1,
                    pad: 0,
                    ..whole
                },
                [shape.c, width * shape.c],
            ),
            false => (shape, [shape.c, shape.w * shape.c]),
        };
        let (lanes, depth) = (isa.lanes(), shape.r * shape.s * shape.c);
        let vectors = shape.k.div_ceil(lanes);
        let register_tiles = NhwcTiles::of(isa);
        let Tiling { vectors: most, pixels, range } = Tiling::of(register_tiles, shape);
        let panels = Panel::cut(shape.k, depth, lanes, most);
        let mut weights = Aligned::zeros(vectors * lanes * depth);
        for panel in &panels {
            let width = panel.vectors * lanes;
            let packed = &mut weights[panel.weights..][..width * depth];
            let mut rounded = vec![0.0; depth];
            for j in 0..width.min(shape.k - panel.first) {
                round::copy(mode, &w[(panel.first + j) * depth..][..depth], &mut rounded);
                rounded.iter().enumerate().for_each(|(i, &weight)| packed[i * width + j] = weight);
            }
        }
        let ranges = split(shape.n * shape.p() * shape.q(), range).collect();
        let zeros = vec![0.0; shape.c];
        Self {
            register_tiles,
            whole,
            shape: *shape,
            pitch,
            mode,
            relu,
            panels,
            weights,
            bias: pad_bias(bias, lanes),
            zeros,
            ranges,
            pixels,
        }
    }

    /// Shapes: x `[n, h, w, c]`, residual and y `[n, p, q, k]`.
    pub(crate) fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        assert!(x.len() == self.whole.input_len() && y.len() == self.whole.output_len());
        assert!(residual.is_none_or(|residual| residual.len() == y.len()));
        round::with(self.mode, x, |x| match self.whole.s == self.shape.s {
            true => self.run_rounded(x, residual, y),
            false => scratch::with(self.shape.n * self.shape.h * self.pitch[1], |padded| {
                self.pad(x, padded);
                self.run_rounded(padded, residual, y);
            }),
        });
    }

    /// Copies x into a border of zeros.
    fn pad(&self, x: &[f32], padded: &mut [f32]) {
        let ConvShape { h, w, c, pad, .. } = self.whole;
        let [from, to] = [w * c, self.pitch[1]];
        padded.fill(0.0);
        for (image, padded) in x.chunks(h * from).zip(padded.chunks_mut(self.shape.h * to)) {
            let rows = padded.chunks_mut(to).skip(pad).zip(image.chunks(from));
            rows.for_each(|(padded, row)| padded[pad * c..][..from].copy_from_slice(row));
        }
    }

    fn run_rounded(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let (y, ranges) = (Shared::new(y), self.ranges.len());
        // Neighbouring tasks, which one core takes, share weights.
        team::for_each(ranges * self.panels.len(), |task| {
            let (range, panel) = (&self.ranges[task % ranges], &self.panels[task / ranges]);
            self.task(range, panel, x, residual, &y);
        });
    }

    fn task(
        &self,
        range: &Range<usize>,
        panel: &Panel,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &Shared,
    ) {
        assert!(range.end * self.shape.k <= y.len());
        let tiles: Vec<Range<usize>> = split(range.len(), self.pixels)
            .map(|part| range.start + part.start..range.start + part.end)
            .collect();
        let width = panel.vectors * self.register_tiles.lanes();
        let count = self.shape.r * self.shape.s;
        // Weights of so many taps stay in the second-level cache while the tiles pass over them, and each of the first
        // tiles fetches a share of those that follow, be they the next panel's.
        let together = (BLOCK / (width * self.shape.c).max(1)).clamp(1, count.max(1));
        let mut taps = Vec::with_capacity(together);
        for first in (0..count).step_by(together) {
            let block = first..(first + together).min(count);
            let last = block.end == count;
            let steps = block.len() * self.shape.c;
            for (i, pixels) in tiles.iter().enumerate() {
                let mut places = [0; PIXELS];
                for (place, pixel) in places.iter_mut().zip(pixels.clone()) {
                    *place = pixel * self.shape.k + panel.first;
                }
                self.taps(pixels.clone(), block.clone(), width, x, &mut taps);
                if taps.is_empty() && !last && first > 0 {
                    continue;
                }
                let tile = NhwcTile {
                    taps: &taps,
                    channels: self.shape.c,
                    w: self.weights[panel.weights..].as_ptr(),
                    fetch: match tiles.len() < panel.vectors {
                        true => Fetch::Ahead,
                        false => {
                            let share = steps * self.register_tiles.lanes() * i.min(panel.vectors);
                            Fetch::Next(block.end * self.shape.c * width + share)
                        }
                    },
                    bias: self.bias[panel.first..].as_ptr(),
                    residual: residual.filter(|_| last).map(<[f32]>::as_ptr),
                    y: y.ptr(),
                    places: &places[..pixels.len()],
                    vectors: panel.vectors,
                    filters: self.shape.k - panel.first,
                    resume: first > 0,
                    relu: self.relu && last,
                };
                // SAFETY: `taps` has found `channels` floats of x, or the zeros, for each pixel and tap; places are the
                // panel's filters at pixels before `range.end`, so inside y (checked) and the residual, which is as long, and
                // no other task has both these pixels and these filters. Weights and bias are padded to whole vectors.
                unsafe { self.register_tiles.tile(&tile) };
            }
        }
    }

    /// What the pixels read through each tap that is inside the image for one of them.
    fn taps(
        &self,
        pixels: Range<usize>,
        block: Range<usize>,
        width: usize,
        x: &[f32],
        taps: &mut Vec<NhwcTap>,
    ) {
        let ConvShape { h, w, c, s, stride, pad, .. } = self.shape;
        let (p, q) = (self.shape.p(), self.shape.q());
        taps.clear();
        let at = |pixel: usize| (pixel / (p * q), pixel / q % p, pixel % q);
        let (image, row, column) = at(pixels.start);
        let last = column + pixels.len() - 1;
        for index in block {
            let (dy, dx) = (index / s, index % s);
            let mut tap = NhwcTap { w: index * c * width, x: [self.zeros.as_ptr(); PIXELS] };
            // What starts outside wraps around and is then too large.
            let [pixel_pitch, row_pitch] = self.pitch;
            let place = |row: usize, column: usize| {
                let (row, column) = (
                    (row * stride + dy).wrapping_sub(pad),
                    (column * stride + dx).wrapping_sub(pad),
                );
                (row < h && column < w).then(|| row * row_pitch + column * pixel_pitch)
            };
            let mut inside = false;
            let ends = (last < q).then(|| place(row, column).zip(place(row, last))).flatten();
            if let Some((from, to)) = ends {
                let from = x[image * h * row_pitch..][from..to + c].as_ptr();
                // The last of the pixels reads the last c floats of `from`, the others before.
                for (i, to) in tap.x.iter_mut().enumerate().take(pixels.len()) {
                    *to = from.wrapping_add(i * stride * pixel_pitch);
                }
                inside = true;
            } else {
                for (from, pixel) in tap.x.iter_mut().zip(pixels.clone()) {
                    let (image, row, column) = at(pixel);
                    if let Some(place) = place(row, column) {
                        *from = x[image * h * row_pitch + place..][..c].as_ptr();
                        inside = true;
                    }
                }
            }
            if inside {
                taps.push(tap);
            }
        }
    }
}
