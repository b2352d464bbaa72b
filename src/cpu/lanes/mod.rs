//! Inference of batches with one image in each lane of a vector: `[block][h][w][c][lane]`. A block is as many images as a
//! vector has lanes.
//!
//! A weight is then one broadcast and an activation one aligned load, whatever the number of channels. So no columns are
//! gathered, no channel count is rounded up, and padding is left out exactly.

mod convert;
mod kernel;

pub(crate) use convert::{from_nhwc, max_pool, mean, pick, to_nhwc};
pub(super) use kernel::{LaneTap, LaneTile, LaneTiles, PIXELS, PixelPlace};

use super::aligned::Aligned;
use super::isa::Isa;
use super::round;
use super::scratch::Shared;
use super::split::split;
use super::taps::{Axis, Group};
use super::team;
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use rayon::prelude::*;
use std::ops::Range;

/// Floats of the input that a task's pixels read, roughly: they stay in the second-level cache while the filters
/// pass over them.
const READ: usize = 1 << 16;
/// Fewest pixels of a task. A panel of weights is loaded once and used for all of them.
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
    tiles: &'static LaneTiles,
    shape: ConvShape,
    mode: Mode,
    relu: bool,
    /// `[k / O][r · s][c][O]`, O the filters of a tile.
    weights: Aligned,
    bias: Vec<f32>,
    classes: Vec<LaneClass>,
    strips: Vec<Strip>,
    /// Panels of filters, as tasks take them.
    panels: Vec<Range<usize>>,
}

/// Pixels that the same taps reach.
struct LaneClass {
    rows: Group,
    cols: Group,
    taps: Vec<LaneTap>,
}

/// The pixels of a task: some blocks of images, and for each class some of its rows.
struct Strip {
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
        isa: Isa,
        shape: &ConvShape,
        w: &[f32],
        bias: &[f32],
        relu: bool,
        mode: Mode,
    ) -> Self {
        assert!(w.len() == shape.filter_len() && bias.len() == shape.k);
        let tiles = LaneTiles::of(isa);
        let (width, count) = (tiles.filters(), shape.k.div_ceil(tiles.filters()));
        let mut padded = vec![0.0; count * width];
        padded[..shape.k].copy_from_slice(bias);
        let classes = classes(tiles, shape);
        let strips = strips(tiles, shape, &classes);
        let parts = TASKS.div_ceil(strips.len().max(1)).min(count.max(1));
        let panels = split(count, count.div_ceil(parts)).collect();
        let weights = pack(width, shape, w, mode);
        Self { tiles, shape: *shape, mode, relu, weights, bias: padded, classes, strips, panels }
    }

    /// Shapes: x `[block, h, w, c, lane]`, residual and y `[block, p, q, k, lane]`.
    pub(crate) fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let ConvShape { h, w, c, k, .. } = self.shape;
        let images = self.shape.n.next_multiple_of(self.tiles.lanes());
        let written = images * self.shape.p() * self.shape.q() * k;
        assert!(x.len() == images * h * w * c && y.len() == written);
        assert!(residual.is_none_or(|residual| residual.len() == written));
        round::with(self.mode, x, |x| self.run_rounded(x, residual, y));
    }

    fn run_rounded(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let y = Shared::new(y);
        let parts = self.panels.len();
        team::for_each(self.strips.len() * parts, |task| {
            let (strip, panels) = (&self.strips[task / parts], &self.panels[task % parts]);
            self.task(strip, panels.clone(), x, residual, &y);
        });
    }

    fn task(
        &self,
        strip: &Strip,
        panels: Range<usize>,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &Shared,
    ) {
        let width = self.tiles.filters();
        let depth = self.shape.r * self.shape.s * self.shape.c;
        let places: Vec<Vec<PixelPlace>> = self
            .classes
            .iter()
            .zip(&strip.rows)
            .map(|(class, rows)| self.places(class, &strip.blocks, rows.clone()))
            .collect();
        let (lanes, c) = (self.tiles.lanes(), self.shape.c);
        for (class, places) in self.classes.iter().zip(&places) {
            let read = class.taps.last().map_or(0, |tap| tap.x + c * lanes);
            let written = self.shape.k * lanes;
            let inside = |p: &PixelPlace| p.x + read <= x.len() && p.y + written <= y.len();
            assert!(places.iter().all(inside), "a pixel lies beside its image");
        }
        for panel in panels {
            let filter = panel * width;
            let at = filter * self.tiles.lanes();
            for (class, places) in self.classes.iter().zip(&places) {
                for part in split(places.len(), PIXELS) {
                    let tile = LaneTile {
                        x: x.as_ptr(),
                        w: self.weights[panel * depth * width..].as_ptr(),
                        bias: self.bias[filter..].as_ptr(),
                        residual: residual.map(|residual| residual[at..].as_ptr()),
                        y: y.rest(at).ptr(),
                        places: &places[part],
                        taps: &class.taps,
                        channels: self.shape.c,
                        filters: (self.shape.k - filter).min(width),
                        relu: self.relu,
                    };
                    // SAFETY: from every place the last tap, which reads furthest, stays inside x, and all filters inside y
                    // (checked) and the residual, which is as long; no other task has both these pixels and these filters.
                    // `pack` has placed the weights of all taps, and those of a panel and its bias fill it up.
                    unsafe { self.tiles.tile(&tile) };
                }
            }
        }
    }

    /// The pixels of `rows` of a class in `blocks`.
    fn places(
        &self,
        class: &LaneClass,
        blocks: &Range<usize>,
        rows: Range<usize>,
    ) -> Vec<PixelPlace> {
        let ConvShape { h, w, c, k, stride, pad, .. } = self.shape;
        let (p, q, lanes) = (self.shape.p(), self.shape.q(), self.tiles.lanes());
        // Pixels that no tap reaches read nothing.
        let first = class.rows.taps.first().zip(class.cols.taps.first());
        let mut places = Vec::new();
        for block in blocks.clone() {
            for &row in &class.rows.pixels[rows.clone()] {
                for &col in &class.cols.pixels {
                    let x = first.map_or(0, |(dy, dx)| {
                        (block * h + row * stride + dy - pad) * w + col * stride + dx - pad
                    });
                    let y = (block * p + row) * q + col;
                    places.push(PixelPlace { x: x * c * lanes, y: y * k * lanes });
                }
            }
        }
        places
    }
}

fn classes(tiles: &LaneTiles, shape: &ConvShape) -> Vec<LaneClass> {
    let &ConvShape { h, w, c, r, s, stride, pad, .. } = shape;
    let rows = Axis::forward(h, shape.p(), r, stride, pad).groups();
    let cols = Axis::forward(w, shape.q(), s, stride, pad).groups();
    let mut classes = Vec::new();
    for rows in &rows {
        for cols in &cols {
            let pairs = rows.taps.iter().flat_map(|&r| cols.taps.iter().map(move |&s| (r, s)));
            // Taps are in order: none reads before the first one.
            let taps = pairs.map(|(dy, dx)| LaneTap {
                x: ((dy - rows.taps[0]) * w + dx - cols.taps[0]) * c * tiles.lanes(),
                w: (dy * s + dx) * c * tiles.filters(),
            });
            classes.push(LaneClass {
                rows: rows.clone(),
                cols: cols.clone(),
                taps: taps.collect(),
            });
        }
    }
    classes
}

/// Cuts the pixels into strips of rows, or into several blocks of images where these have few.
fn strips(tiles: &LaneTiles, shape: &ConvShape, classes: &[LaneClass]) -> Vec<Strip> {
    let (p, q) = (shape.p(), shape.q());
    let blocks = shape.n.div_ceil(tiles.lanes());
    if blocks == 0 || p * q == 0 || shape.k == 0 {
        return Vec::new();
    }
    let row = shape.stride * shape.w * shape.c * tiles.lanes();
    let height = (READ / row.max(1)).max(FEWEST.div_ceil(q)).clamp(1, p);
    let together = if height == p { FEWEST.div_ceil(p * q) } else { 1 };
    let mut strips = Vec::new();
    for blocks in split(blocks, together) {
        for lines in split(p, height) {
            let within = |class: &LaneClass| {
                let rows = &class.rows.pixels;
                let before = |end: usize| rows.partition_point(|&row| row < end);
                before(lines.start)..before(lines.end)
            };
            let rows = classes.iter().map(within).collect();
            strips.push(Strip { blocks: blocks.clone(), rows });
        }
    }
    strips
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
