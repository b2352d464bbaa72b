//! Few images, `[n][h][w][c]`: filters along the lanes.

use super::{Products, WinogradTiles, filter, given, of_image};
use crate::Mode;
use crate::cpu::aligned::Aligned;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::finish::Finish;
use crate::cpu::isa::Isa;
use crate::cpu::nhwc::{Fetch, NhwcTap, NhwcTile, NhwcTiles, PIXELS, cost};
use crate::cpu::panel::{Panel, pad_bias};
use crate::cpu::scratch::{self, Shared};
use crate::cpu::split::split;
use crate::cpu::team;
use std::ops::Range;

/// Most Winograd tiles of a task: what they are transformed to fills a share of a second-level cache.
const TILES: usize = 32;
/// Fewest Winograd tiles of a task, however many threads there are, because tiles share the weights that a task reads.
const FEW_TILES: usize = 8;
/// Fewest channels for which Winograd's tiles are used.
///
/// The transforms of a pixel serve all filters, but each channel serves only its own products.
const CHANNELS: usize = 8;

/// `y = relu?(x ∗ w + bias + residual?)`, or the maxima of 2 × 2 of these, for one geometry.
pub(crate) struct WinogradConv {
    register_tiles: &'static NhwcTiles,
    tiles: WinogradTiles,
    panels: Vec<Panel>,
    /// `[panel][position][c][filters of the panel]`.
    weights: Aligned,
    bias: Vec<f32>,
    /// WinogradTiles and panels, as tasks take them: one of each. Every group of panels transforms the tiles for itself.
    ranges: Vec<Range<usize>>,
    groups: Vec<Range<usize>>,
    /// Most tiles that are multiplied at once.
    together: usize,
}

impl WinogradConv {
    /// Shapes: w `[k, r, s, c]`, bias `[k]`. `None` where the sum itself is faster or tiles do not give it.
    pub(crate) fn new(
        shape: &ConvShape,
        w: &[f32],
        bias: &[f32],
        finish: Finish,
        mode: Mode,
    ) -> Option<Self> {
        let isa = Isa::detect();
        let m = tile(isa.lanes(), shape).filter(|_| given(shape, w, mode))?;
        Some(Self::new_on(isa, m, shape, w, bias, finish))
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
        let (lanes, n, c) = (isa.lanes(), m + 2, shape.c);
        let vectors = shape.k.div_ceil(lanes);
        let tiles = WinogradTiles::new(isa, m, *shape, finish);
        let count = tiles.count();
        let register_tiles = NhwcTiles::of(isa);
        let (most, together) = cut(register_tiles, shape, count.min(TILES));
        let panels = Panel::cut(shape.k, n * n * c, lanes, most);
        // Threads share the panels first, so that each reads few weights, and then the tiles.
        let threads = team::threads();
        let groups: Vec<_> = split(panels.len(), panels.len().div_ceil(threads)).collect();
        let range = (count * groups.len()).div_ceil(threads).clamp(FEW_TILES, TILES);
        let ranges = split(count, range).collect();
        let mut weights = Aligned::zeros(vectors * lanes * n * n * c);
        for panel in &panels {
            let width = panel.vectors * lanes;
            let packed = &mut weights[panel.weights..][..width * n * n * c];
            for j in 0..width.min(shape.k - panel.first) {
                filter(n, &w[(panel.first + j) * 9 * c..][..9 * c], |channel, position, u| {
                    packed[(position * c + channel) * width + j] = u;
                });
            }
        }
        let bias = pad_bias(bias, lanes);
        Self { register_tiles, tiles, panels, weights, bias, ranges, groups, together }
    }

    /// Shapes: x `[n, h, w, c]`, residual and y `[n, p, q, k]`; the residual excludes maxima, which halve p and q.
    pub(crate) fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let shape = &self.tiles.shape;
        assert!(x.len() == shape.input_len() && y.len() == self.tiles.output_len());
        assert!(residual.is_none_or(|r| r.len() == y.len() && !self.tiles.finish.pool));
        let (y, ranges) = (Shared::new(y), self.ranges.len());
        team::for_each(ranges * self.groups.len(), |task| {
            let (range, group) = (&self.ranges[task % ranges], &self.groups[task / ranges]);
            self.task(range, &self.panels[group.clone()], x, residual, &y);
        });
    }

    fn task(
        &self,
        range: &Range<usize>,
        panels: &[Panel],
        x: &[f32],
        residual: Option<&[f32]>,
        y: &Shared,
    ) {
        let (lanes, k, positions) =
            (self.register_tiles.lanes(), self.tiles.shape.k, self.tiles.positions());
        // Positions a line more than their tiles apart, so that those of a tile lie in different sets of the cache.
        let deep = self.tiles.shape.c.next_multiple_of(lanes);
        let from = range.len() * deep + 16;
        let widest = panels.iter().map(|panel| panel.vectors * lanes).max().unwrap_or(0);
        let to = range.len() * widest + 16;
        scratch::with(positions * (from + to), |memory| {
            let (v, m) = memory.split_at_mut(positions * from);
            for (i, tile) in range.clone().enumerate() {
                self.tiles.transform(tile, x, &mut v[i * deep..], from);
            }
            for panel in panels {
                self.multiply(range.len(), panel, v, [deep, from], m, to);
                let width = panel.vectors * lanes;
                let first = panel.first;
                let (filters, bias) = ((k - first).min(width), &self.bias[first..][..width]);
                for (i, tile) in range.clone().enumerate() {
                    let products =
                        Products { sums: &m[i * width..], stride: to, first, filters, bias };
                    // SAFETY: no other task has both this tile and this panel; `run` has checked the lengths.
                    unsafe { self.tiles.finish(tile, &products, residual, y) };
                }
            }
        });
    }

    /// `m = u · v` at every position.
    fn multiply(
        &self,
        tiles: usize,
        panel: &Panel,
        v: &[f32],
        [deep, from]: [usize; 2],
        m: &mut [f32],
        to: usize,
    ) {
        let (lanes, c) = (self.register_tiles.lanes(), self.tiles.shape.c);
        let width = panel.vectors * lanes;
        let zeros = [0.0; 64];
        for position in 0..self.tiles.positions() {
            let (v, m) = (&v[position * from..], &mut m[position * to..]);
            let weights = &self.weights[panel.weights + position * c * width..];
            for (i, part) in split(tiles, self.together).enumerate() {
                let (mut places, mut tap) =
                    ([0; PIXELS], NhwcTap { w: 0, x: [v.as_ptr(); PIXELS] });
                for (j, tile) in part.clone().enumerate() {
                    places[j] = tile * width;
                    tap.x[j] = v[tile * deep..][..c].as_ptr();
                }
                assert!(m.len() >= part.end * width && weights.len() >= c * width);
                let tile = NhwcTile {
                    taps: &[tap],
                    channels: c,
                    w: weights.as_ptr(),
                    fetch: Fetch::Next(c * (width + lanes * i.min(panel.vectors))),
                    bias: zeros.as_ptr(),
                    residual: None,
                    y: m.as_mut_ptr(),
                    places: &places[..part.len()],
                    vectors: panel.vectors,
                    filters: width,
                    resume: false,
                    relu: false,
                };
                // SAFETY: the tap reads c floats of each of the tiles' vectors, places are theirs in m; a tile has at
                // most 64 filters.
                unsafe { self.register_tiles.tile(&tile) };
            }
        }
    }
}

/// The number of results of a Winograd tile along each side; `None` where the direct sum is faster.
///
/// The rule counts half a cycle for the product of a weight with a vector of tiles. A weight comes from the second-level
/// cache, or from beyond, at 4 bytes a cycle. The rule was set by measuring VGG16 and ResNet18, whole and narrow, on two cores with
/// AVX-512: tiles of 4 × 4 results won at 32 × 32 pixels, tiles of 2 × 2 at 16 × 16 and 8 × 8, the direct sum at 4 × 4.
fn tile(lanes: usize, shape: &ConvShape) -> Option<usize> {
    // Those of one image, so that its result has the same bits among others.
    let cycles = |positions: usize, m: usize| positions * (of_image(m, shape) + 2 * lanes);
    let tiled = [2, 4].into_iter().min_by_key(|m| cycles((m + 2) * (m + 2), *m))?;
    let faster = cycles((tiled + 2) * (tiled + 2), tiled) < cycles(9, 1);
    (faster && shape.c >= CHANNELS).then_some(tiled)
}

/// The most vectors of filters and the most of `tiles` tiles that are multiplied together: of least cost, and of equal
/// ones the largest.
fn cut(register_tiles: &NhwcTiles, shape: &ConvShape, tiles: usize) -> (usize, usize) {
    let (mut least, mut best) = (usize::MAX, (1, 1));
    for vectors in (1..=register_tiles.vectors()).rev() {
        for together in (1..=register_tiles.pixels(vectors)).rev() {
            let parts: Vec<_> = split(tiles, together).map(|part| (part.len(), 1)).collect();
            let panels = split(shape.k.div_ceil(register_tiles.lanes()), vectors);
            let cost = panels.map(|panel| cost(shape.c, panel.len(), &parts)).sum();
            if cost < least {
                (least, best) = (cost, (vectors, together));
            }
        }
    }
    best
}
