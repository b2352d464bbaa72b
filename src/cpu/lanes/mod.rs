//! Inference of batches with one image in each lane of a vector: `[block][h][w][c][lane]`, a block being as many
//! images as a vector has lanes.
//!
//! A weight is then one broadcast and an activation one aligned load, whatever the number of channels: no
//! columns are gathered, no channel count is rounded up, and padding is left out exactly.

mod convert;
mod kernel;

pub(crate) use convert::{from_nhwc, max_pool2, mean, pick, to_nhwc};
pub(super) use kernel::{Isa, PIXELS, Place, Tap, Tile};

use super::aligned::Aligned;
use super::conv2d::split;
use super::round;
use super::scratch::Shared;
use super::taps::{Axis, Group};
use super::team;
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use rayon::prelude::*;
use std::ops::Range;

/// Floats of the input that a task's pixels read, roughly: they stay in the second-level cache while the filters
/// pass over them.
const READ: usize = 1 << 16;
/// Pixels of a task at least: what a panel of weights, loaded once, is used for.
const FEWEST: usize = 24;
/// Tasks wanted, so that many cores have work; filters are split for it.
const TASKS: usize = 16;

/// Lanes of this machine's vectors.
pub(crate) fn lanes() -> usize {
    Isa::detect().lanes()
}

/// Floats of `n` images of `[h, w, c]`; images that fill up the last block are computed and not read.
pub(crate) fn len(n: usize, [h, w, c]: [usize; 3]) -> usize {
    n.next_multiple_of(lanes()) * h * w * c
}

/// `y = relu?(x ∗ w + bias + residual?)` for one geometry.
pub(crate) struct LaneConv {
    isa: &'static Isa,
    shape: ConvShape,
    mode: Mode,
    relu: bool,
    /// `[k / O][r · s][c][O]`, O the filters of a tile.
    weights: Aligned,
    bias: Vec<f32>,
    classes: Vec<Class>,
    units: Vec<Unit>,
    /// Panels of filters, as tasks take them.
    panels: Vec<Range<usize>>,
}

/// Pixels that the same taps reach.
struct Class {
    rows: Group,
    cols: Group,
    taps: Vec<Tap>,
}

/// The pixels of a task: some blocks of images, and for each class some of its rows.
struct Unit {
    blocks: Range<usize>,
    rows: Vec<Range<usize>>,
}

impl LaneConv {
    /// Shapes: w `[k, r, s, c]`, bias `[k]`.
    pub(crate) fn new(shape: &ConvShape, w: &[f32], bias: &[f32], relu: bool, mode: Mode) -> Self {
        Self::new_on(Isa::detect(), shape, w, bias, relu, mode)
    }

    /// [`Self::new`] with the instructions of `isa`.
    pub(super) fn new_on(
        isa: &'static Isa,
        shape: &ConvShape,
        w: &[f32],
        bias: &[f32],
        relu: bool,
        mode: Mode,
    ) -> Self {
        assert!(w.len() == shape.filter_len() && bias.len() == shape.k);
        let (width, count) = (isa.filters(), shape.k.div_ceil(isa.filters()));
        let mut padded = vec![0.0; count * width];
        padded[..shape.k].copy_from_slice(bias);
        let classes = classes(isa, shape);
        let units = units(isa, shape, &classes);
        let parts = TASKS.div_ceil(units.len().max(1)).min(count.max(1));
        let panels = split(count, count.div_ceil(parts)).collect();
        let weights = pack(width, shape, w, mode);
        Self { isa, shape: *shape, mode, relu, weights, bias: padded, classes, units, panels }
    }

    /// Shapes: x `[block, h, w, c, lane]`, residual and y `[block, p, q, k, lane]`.
    pub(crate) fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let ConvShape { h, w, c, k, .. } = self.shape;
        let images = self.shape.n.next_multiple_of(self.isa.lanes());
        let written = images * self.shape.p() * self.shape.q() * k;
        assert!(x.len() == images * h * w * c && y.len() == written);
        assert!(residual.is_none_or(|residual| residual.len() == written));
        round::with(self.mode, x, |x| self.run_rounded(x, residual, y));
    }

    fn run_rounded(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let y = Shared::new(y);
        let parts = self.panels.len();
        team::for_each(self.units.len() * parts, |task| {
            let (unit, panels) = (&self.units[task / parts], &self.panels[task % parts]);
            self.task(unit, panels.clone(), x, residual, &y);
        });
    }

    fn task(
        &self,
        unit: &Unit,
        panels: Range<usize>,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &Shared,
    ) {
        let width = self.isa.filters();
        let depth = self.shape.r * self.shape.s * self.shape.c;
        let places: Vec<Vec<Place>> = self
            .classes
            .iter()
            .zip(&unit.rows)
            .map(|(class, rows)| self.places(class, &unit.blocks, rows.clone()))
            .collect();
        for panel in panels {
            let filter = panel * width;
            let at = filter * self.isa.lanes();
            for (class, places) in self.classes.iter().zip(&places) {
                for part in split(places.len(), PIXELS) {
                    let tile = Tile {
                        x: x.as_ptr(),
                        w: self.weights[panel * depth * width..].as_ptr(),
                        bias: self.bias[filter..].as_ptr(),
                        residual: residual.map(|residual| residual.as_ptr().wrapping_add(at)),
                        y: y.ptr().wrapping_add(at),
                        places: &places[part],
                        taps: &class.taps,
                        channels: self.shape.c,
                        filters: (self.shape.k - filter).min(width),
                        relu: self.relu,
                    };
                    // SAFETY: the taps of a class reach pixels of the image from every place of it; places are
                    // pixels of the result, and no other task has both these and these filters.
                    unsafe { self.isa.tile(&tile) };
                }
            }
        }
    }

    /// The pixels of `rows` of a class in `blocks`.
    fn places(&self, class: &Class, blocks: &Range<usize>, rows: Range<usize>) -> Vec<Place> {
        let ConvShape { h, w, c, k, stride, pad, .. } = self.shape;
        let (p, q, lanes) = (self.shape.p(), self.shape.q(), self.isa.lanes());
        let mut places = Vec::new();
        for block in blocks.clone() {
            for &row in &class.rows.pixels[rows.clone()] {
                for &col in &class.cols.pixels {
                    let from = |pixel: usize| (pixel * stride) as isize - pad as isize;
                    let x = ((block * h) as isize + from(row)) * w as isize + from(col);
                    let y = (block * p + row) * q + col;
                    places.push(Place { x: x * (c * lanes) as isize, y: y * k * lanes });
                }
            }
        }
        places
    }
}

fn classes(isa: &Isa, shape: &ConvShape) -> Vec<Class> {
    let &ConvShape { h, w, c, r, s, stride, pad, .. } = shape;
    let rows = Axis::forward(h, shape.p(), r, stride, pad).groups();
    let cols = Axis::forward(w, shape.q(), s, stride, pad).groups();
    let mut classes = Vec::new();
    for rows in &rows {
        for cols in &cols {
            let pairs = rows.taps.iter().flat_map(|&r| cols.taps.iter().map(move |&s| (r, s)));
            let taps = pairs.map(|(dy, dx)| Tap {
                x: ((dy * w + dx) * c * isa.lanes()) as isize,
                w: (dy * s + dx) * c * isa.filters(),
            });
            classes.push(Class { rows: rows.clone(), cols: cols.clone(), taps: taps.collect() });
        }
    }
    classes
}

/// Cuts the pixels into strips of rows, or into several blocks of images where these have few.
fn units(isa: &Isa, shape: &ConvShape, classes: &[Class]) -> Vec<Unit> {
    let (p, q) = (shape.p(), shape.q());
    let blocks = shape.n.div_ceil(isa.lanes());
    if blocks == 0 || p * q == 0 || shape.k == 0 {
        return Vec::new();
    }
    let row = shape.stride * shape.w * shape.c * isa.lanes();
    let height = (READ / row.max(1)).max(FEWEST.div_ceil(q)).clamp(1, p);
    let together = if height == p { FEWEST.div_ceil(p * q) } else { 1 };
    let mut units = Vec::new();
    for blocks in split(blocks, together) {
        for strip in split(p, height) {
            let within = |class: &Class| {
                let rows = &class.rows.pixels;
                let before = |end: usize| rows.partition_point(|&row| row < end);
                before(strip.start)..before(strip.end)
            };
            let rows = classes.iter().map(within).collect();
            units.push(Unit { blocks: blocks.clone(), rows });
        }
    }
    units
}

/// Weights in panels of `width` filters, zeros after the last.
fn pack(width: usize, shape: &ConvShape, w: &[f32], mode: Mode) -> Aligned {
    let depth = shape.r * shape.s * shape.c;
    let mut packed = Aligned::zeros(shape.k.div_ceil(width) * width * depth);
    if depth > 0 {
        let panels = packed.par_chunks_mut(width * depth).zip(w.par_chunks(width * depth));
        panels.for_each(|(packed, filters)| {
            let mut rounded = vec![0.0; depth];
            for (o, filter) in filters.chunks_exact(depth).enumerate() {
                round::copy(mode, filter, &mut rounded);
                rounded.iter().enumerate().for_each(|(i, &weight)| packed[i * width + o] = weight);
            }
        });
    }
    packed
}
