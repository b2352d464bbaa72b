//! Many images, `[block][h][w][c][lane]`: one in each lane.

use super::{Products, WinogradTiles, filter, given, of_image};
use crate::Mode;
use crate::cpu::aligned::Aligned;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::finish::Finish;
use crate::cpu::isa::Isa;
use crate::cpu::lanes::{LaneTap, LaneTile, LaneTiles, PIXELS, PixelPlace};
use crate::cpu::scratch::{self, Shared};
use crate::cpu::split::split;
use crate::cpu::team;
use rayon::prelude::*;
use std::ops::Range;

/// Winograd tiles of a task: as many as a register tile takes of a position. Up to 128 channels, what they are transformed to then
/// stays in the second-level cache. 64 → 64 filters at 32 × 32 pixels took 10.4 ms for 64 images, and 12.7 ms with 12 tiles.
const TILES: usize = PIXELS;
/// From this number of weights on, a task has more tiles, which share the weights. At 4 × 4 pixels 64 images have 4 tiles: 512 → 512
/// filters took 9.1 ms in two tasks of 2 tiles, and 8.1 ms in one task of 4.
const LARGE: usize = 1 << 22;
const MORE_TILES: usize = 6;
/// Tasks for each thread that shares the work.
const TASKS: usize = 2;

/// `y = relu?(x ∗ w + bias + residual?)`, or the maxima of 2 × 2 of these, for one geometry.
pub(crate) struct LaneWinogradConv {
    register_tiles: &'static LaneTiles,
    /// Of blocks of images, a lane of each channel and filter.
    tiles: WinogradTiles,
    channels: usize,
    filters: usize,
    /// `[position][k / O][c][O]`, O the filters of a register tile.
    weights: Aligned,
    /// A vector for each filter.
    bias: Vec<f32>,
    /// Tiles, as tasks take them.
    strips: Vec<Range<usize>>,
}

impl LaneWinogradConv {
    /// Shapes: w `[k, r, s, c]`, bias `[k]`. `None` where the sum itself is faster or tiles do not give it.
    pub(crate) fn new(
        shape: &ConvShape,
        w: &[f32],
        bias: &[f32],
        finish: Finish,
        mode: Mode,
    ) -> Option<Self> {
        let m = tile(shape).filter(|_| given(shape, w, mode))?;
        Some(Self::new_on(Isa::detect(), m, shape, w, bias, finish))
    }

    /// [`Self::new`] with tiles of m × m results and the instructions of `isa`.
    pub(in crate::cpu) fn new_on(
        isa: Isa,
        m: usize,
        shape: &ConvShape,
        w: &[f32],
        bias: &[f32],
        finish: Finish,
    ) -> Self {
        assert!(w.len() == shape.filter_len() && bias.len() == shape.k);
        assert!((shape.r, shape.s, shape.stride) == (3, 3, 1));
        let register_tiles = LaneTiles::of(isa);
        let (lanes, width, c) = (isa.lanes(), register_tiles.filters(), shape.c);
        let (n, count) = (shape.n.div_ceil(lanes), shape.k.div_ceil(width));
        let of_vectors = ConvShape { n, c: c * lanes, k: shape.k * lanes, ..*shape };
        let tiles = WinogradTiles::new(isa, m, of_vectors, finish);
        let mut weights = Aligned::zeros(tiles.positions() * count * c * width);
        let positions = weights.par_chunks_mut((count * c * width).max(1));
        let u: Vec<Vec<f32>> = w
            .par_chunks((9 * c).max(1))
            .map(|g| {
                let mut u = vec![0.0; tiles.positions() * c];
                filter(m + 2, g, |channel, position, value| u[position * c + channel] = value);
                u
            })
            .collect();
        positions.enumerate().for_each(|(position, packed)| {
            for (k, u) in u.iter().enumerate() {
                let packed = &mut packed[k / width * c * width + k % width..];
                for channel in 0..c {
                    packed[channel * width] = u[position * c + channel];
                }
            }
        });
        let most = if weights.len() < LARGE { TILES } else { MORE_TILES };
        let strips = split(tiles.count(), most).collect();
        let bias = bias.iter().flat_map(|&bias| std::iter::repeat_n(bias, lanes)).collect();
        Self { register_tiles, tiles, channels: c, filters: shape.k, weights, bias, strips }
    }

    /// Shapes: x `[block, h, w, c, lane]`, residual and y `[block, p, q, k, lane]`; the residual excludes maxima,
    /// which halve p and q.
    pub(crate) fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let shape = &self.tiles.shape;
        assert!(x.len() == shape.input_len() && y.len() == self.tiles.output_len());
        assert!(residual.is_none_or(|r| r.len() == y.len() && !self.tiles.finish.pool));
        let (y, strips) = (Shared::new(y), self.strips.len());
        let panels = self.filters.div_ceil(self.register_tiles.filters());
        // Where there are few tiles threads share the filters too: every group of panels transforms the tiles for itself.
        let threads = team::threads();
        let parts = if threads > 1 { (TASKS * threads).div_ceil(strips.max(1)) } else { 1 };
        let groups: Vec<_> = split(panels, panels.div_ceil(parts)).collect();
        team::for_each(strips * groups.len(), |task| {
            let (strip, panels) = (&self.strips[task % strips], &groups[task / strips]);
            self.task(strip, panels, x, residual, &y);
        });
    }

    fn task(
        &self,
        strip: &Range<usize>,
        panels: &Range<usize>,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &Shared,
    ) {
        let (lanes, width) = (self.register_tiles.lanes(), self.register_tiles.filters());
        let positions = self.tiles.positions();
        // Positions a line more than their tiles apart, so that those of a tile lie in different sets of the cache.
        let (deep, wide) = (self.channels * lanes, panels.len() * width * lanes);
        let (from, to) = (strip.len() * deep + 16, strip.len() * wide + 16);
        scratch::with(positions * (from + to), |memory| {
            let (v, m) = memory.split_at_mut(positions * from);
            for (i, tile) in strip.clone().enumerate() {
                self.tiles.transform(tile, x, &mut v[i * deep..], from);
            }
            for position in 0..positions {
                let (v, m) = (&v[position * from..], &mut m[position * to..]);
                self.multiply(strip.len(), panels, position, v, m);
            }
            let filters = panels.start * width..(panels.end * width).min(self.filters);
            for (i, tile) in strip.clone().enumerate() {
                let products = Products {
                    sums: &m[i * wide..],
                    stride: to,
                    first: filters.start * lanes,
                    filters: filters.len() * lanes,
                    bias: &self.bias[filters.start * lanes..],
                };
                // SAFETY: no other task has both this tile and these filters; `run` has checked the lengths.
                unsafe { self.tiles.finish(tile, &products, residual, y) };
            }
        });
    }

    /// `m = u · v` at a position; v is `[tile][c][lane]`, m `[tile][filters of the panels][lane]`.
    fn multiply(
        &self,
        tiles: usize,
        panels: &Range<usize>,
        position: usize,
        v: &[f32],
        m: &mut [f32],
    ) {
        let (lanes, width, c) =
            (self.register_tiles.lanes(), self.register_tiles.filters(), self.channels);
        let (deep, wide) = (c * lanes, panels.len() * width * lanes);
        assert!(v.len() >= tiles * deep && m.len() >= tiles * wide);
        let (zeros, count) = ([0.0; 16], self.filters.div_ceil(width));
        let mut places = [PixelPlace { x: 0, y: 0 }; PIXELS];
        for (i, panel) in panels.clone().enumerate() {
            let w = &self.weights[(position * count + panel) * c * width..][..c * width];
            for part in split(tiles, PIXELS) {
                let places = &mut places[..part.len()];
                for (place, tile) in places.iter_mut().zip(part) {
                    *place = PixelPlace { x: tile * deep, y: tile * wide };
                }
                let tile = LaneTile {
                    x: v.as_ptr(),
                    w: w.as_ptr(),
                    bias: zeros.as_ptr(),
                    residual: None,
                    y: m[i * width * lanes..].as_mut_ptr(),
                    places,
                    taps: &[LaneTap { x: 0, w: 0 }],
                    channels: c,
                    filters: width,
                    relu: false,
                };
                // SAFETY: v and m are long enough for all tiles and panels (checked), w is that of the panel.
                unsafe { self.register_tiles.tile(&tile) };
            }
        }
    }
}

/// Results of a tile along each side where tiles take the least time, `None` where the sum itself does.
fn tile(shape: &ConvShape) -> Option<usize> {
    let &ConvShape { h, w, c, k, pad, .. } = shape;
    // Products of a channel and filter where padding is left out.
    let reached = |len: usize, out: usize| -> usize {
        (0..out).map(|at| (0..3).filter(|tap| (at + tap).wrapping_sub(pad) < len).count()).sum()
    };
    let sum = reached(h, shape.p()) * reached(w, shape.q()) * c * k;
    // A channel of a tile is transformed in the time of so many products, and a filter back.
    let cost = |m: usize, transform: usize| {
        of_image(m, shape) * ((m + 2) * (m + 2) * c * k + transform * (c + k))
    };
    let (m, least) = [(2, cost(2, 280)), (4, cost(4, 600))].into_iter().min_by_key(|t| t.1)?;
    (5 * least < 4 * sum).then_some(m)
}
