//! Inference of few images, `[n][h][w][c]`, with 3 × 3 filters of stride 1 by Winograd's minimal filtering:
//! `y = Aᵀ [Σ_c (G g Gᵀ) ⊙ (Bᵀ d B)] A` for tiles of 2 × 2 or 4 × 4 results, which takes 4 or 2.25 products for a result
//! and channel where the sum itself takes 9.
//!
//! Source: Lavin and Gray 2016, arXiv 1509.09308.

mod transform;

use super::aligned::Aligned;
use super::conv2d::split;
use super::nhwc::{Fetch, Isa, PIXELS, Tap, Tile, cost};
use super::panel::{Panel, pad_bias};
use super::scratch::{self, Shared};
use super::team;
use crate::Mode;
use crate::ops::conv_shape::ConvShape;
use std::ops::Range;
use transform::{POSITIONS, Patch, RESULTS, Sums, Transforms};

/// Most tiles of a task: what they are transformed to fills a share of a second-level cache.
const TILES: usize = 32;
/// Fewest, however many threads there are: they share the weights that a task reads.
const FEW_TILES: usize = 8;
/// Fewest channels: the transforms of a pixel serve all filters, but each channel only its own products.
const CHANNELS: usize = 8;

/// `y = relu?(x ∗ w + bias + residual?)` for one geometry.
pub(crate) struct WinogradConv {
    isa: &'static Isa,
    transforms: &'static Transforms,
    shape: ConvShape,
    relu: bool,
    /// Results of a tile along each side; with them it takes two pixels more.
    m: usize,
    panels: Vec<Panel>,
    /// `[panel][position][c][filters of the panel]`.
    weights: Aligned,
    bias: Vec<f32>,
    /// What lies outside the image.
    zeros: Vec<f32>,
    /// Tiles and panels, as tasks take them: one of each. Every group of panels transforms the tiles for itself.
    ranges: Vec<Range<usize>>,
    groups: Vec<Range<usize>>,
    /// Most tiles that are multiplied at once.
    together: usize,
}

impl WinogradConv {
    /// Shapes: w `[k, r, s, c]`, bias `[k]`. `None` where the sum itself is faster, or where tiles do not give it: other
    /// filters, rounded operands, and weights that are not finite, which would reach the neighbours of their results.
    pub(crate) fn new(
        shape: &ConvShape,
        w: &[f32],
        bias: &[f32],
        relu: bool,
        mode: Mode,
    ) -> Option<Self> {
        let isa = Isa::detect();
        let given = (shape.r, shape.s, shape.stride) == (3, 3, 1) && mode == Mode::F32;
        let m = tile(isa, shape).filter(|_| given && w.iter().all(|w| w.is_finite()))?;
        Some(Self::new_on(isa, m, shape, w, bias, relu))
    }

    /// [`Self::new`] with tiles of m × m results and the instructions of `isa`.
    pub(super) fn new_on(
        isa: &'static Isa,
        m: usize,
        shape: &ConvShape,
        w: &[f32],
        bias: &[f32],
        relu: bool,
    ) -> Self {
        assert!(w.len() == shape.filter_len() && bias.len() == shape.k);
        assert!((shape.r, shape.s, shape.stride) == (3, 3, 1));
        let (lanes, n, c) = (isa.lanes(), m + 2, shape.c);
        let vectors = shape.k.div_ceil(lanes);
        let tiles = shape.n * shape.p().div_ceil(m) * shape.q().div_ceil(m);
        let (most, together) = cut(isa, shape, tiles.min(TILES));
        let panels = Panel::cut(shape.k, n * n * c, lanes, most);
        // Threads share the panels first, so that each reads few weights, and then the tiles.
        let threads = rayon::current_num_threads();
        let groups: Vec<_> = split(panels.len(), panels.len().div_ceil(threads)).collect();
        let range = (tiles * groups.len()).div_ceil(threads).clamp(FEW_TILES, TILES);
        let ranges = split(tiles, range).collect();
        let mut weights = Aligned::zeros(vectors * lanes * n * n * c);
        for panel in &panels {
            let width = panel.vectors * lanes;
            let packed = &mut weights[panel.weights..][..width * n * n * c];
            for j in 0..width.min(shape.k - panel.first) {
                let of = &w[(panel.first + j) * 9 * c..][..9 * c];
                for channel in 0..c {
                    let tap = |r: usize, s: usize| f64::from(of[(3 * r + s) * c + channel]);
                    let g = [0, 1, 2].map(|r| [0, 1, 2].map(|s| tap(r, s)));
                    let u = transform::filter(n, g);
                    for (position, &value) in u[..n * n].iter().enumerate() {
                        packed[(position * c + channel) * width + j] = value as f32;
                    }
                }
            }
        }
        Self {
            isa,
            transforms: Transforms::of(isa.set()),
            shape: *shape,
            relu,
            m,
            panels,
            weights,
            bias: pad_bias(bias, lanes),
            zeros: vec![0.0; c],
            ranges,
            groups,
            together,
        }
    }

    /// Shapes: x `[n, h, w, c]`, residual and y `[n, p, q, k]`.
    pub(crate) fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        assert!(x.len() == self.shape.input_len() && y.len() == self.shape.output_len());
        assert!(residual.is_none_or(|residual| residual.len() == y.len()));
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
        let (lanes, c) = (self.isa.lanes(), self.shape.c);
        let positions = (self.m + 2) * (self.m + 2);
        // Positions a line more than their tiles apart, so that those of a tile lie in different sets of the cache.
        let deep = c.next_multiple_of(lanes);
        let from = range.len() * deep + 16;
        let widest = panels.iter().map(|panel| panel.vectors * lanes).max().unwrap_or(0);
        let to = range.len() * widest + 16;
        scratch::with(positions * (from + to), |memory| {
            let (v, m) = memory.split_at_mut(positions * from);
            for (i, tile) in range.clone().enumerate() {
                self.transform(tile, x, &mut v[i * deep..], from);
            }
            for panel in panels {
                self.multiply(range.len(), panel, v, [deep, from], m, to);
                for (i, tile) in range.clone().enumerate() {
                    let width = panel.vectors * lanes;
                    self.finish(tile, panel, &m[i * width..], to, residual, y);
                }
            }
        });
    }

    /// Image, first row and first column of a tile's results.
    fn place(&self, tile: usize) -> [usize; 3] {
        let (down, along) = (self.shape.p().div_ceil(self.m), self.shape.q().div_ceil(self.m));
        [tile / (down * along), tile / along % down * self.m, tile % along * self.m]
    }

    fn transform(&self, tile: usize, x: &[f32], v: &mut [f32], stride: usize) {
        let ConvShape { h, w, c, pad, .. } = self.shape;
        let (n, [image, row, column]) = (self.m + 2, self.place(tile));
        let x = &x[image * h * w * c..][..h * w * c];
        let mut pixels = [self.zeros.as_ptr(); POSITIONS];
        for i in 0..n {
            for j in 0..n {
                // What starts outside wraps around and is then too large.
                let row = (row + i).wrapping_sub(pad);
                let column = (column + j).wrapping_sub(pad);
                if row < h && column < w {
                    pixels[i * n + j] = x[(row * w + column) * c..][..c].as_ptr();
                }
            }
        }
        assert!(v.len() >= (n * n - 1) * stride + c.next_multiple_of(self.isa.lanes()));
        let pixels = &pixels[..n * n];
        let patch = Patch { pixels, channels: c, v: v.as_mut_ptr(), stride };
        // SAFETY: pixels are c floats of x or the zeros, v is long enough.
        unsafe { self.transforms.input(&patch) };
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
        let (lanes, c) = (self.isa.lanes(), self.shape.c);
        let width = panel.vectors * lanes;
        let zeros = [0.0; 64];
        for position in 0..(self.m + 2) * (self.m + 2) {
            let (v, m) = (&v[position * from..], &mut m[position * to..]);
            let weights = &self.weights[panel.weights + position * c * width..];
            for (i, part) in split(tiles, self.together).enumerate() {
                let (mut places, mut tap) = ([0; PIXELS], Tap { w: 0, x: [v.as_ptr(); PIXELS] });
                for (j, tile) in part.clone().enumerate() {
                    places[j] = tile * width;
                    tap.x[j] = v[tile * deep..][..c].as_ptr();
                }
                assert!(m.len() >= part.end * width && weights.len() >= c * width);
                let tile = Tile {
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
                unsafe { self.isa.tile(&tile) };
            }
        }
    }

    fn finish(
        &self,
        tile: usize,
        panel: &Panel,
        m: &[f32],
        stride: usize,
        residual: Option<&[f32]>,
        y: &Shared,
    ) {
        let (p, q, k) = (self.shape.p(), self.shape.q(), self.shape.k);
        let [image, row, column] = self.place(tile);
        let mut places = [None; RESULTS];
        for i in 0..self.m.min(p - row) {
            for j in 0..self.m.min(q - column) {
                let pixel = (image * p + row + i) * q + column + j;
                places[i * self.m + j] = Some(pixel * k + panel.first);
            }
        }
        let n = self.m + 2;
        assert!(m.len() >= (n * n - 1) * stride + panel.vectors * self.isa.lanes());
        let sums = Sums {
            m: m.as_ptr(),
            stride,
            bias: self.bias[panel.first..].as_ptr(),
            residual: residual.map(<[f32]>::as_ptr),
            y: y.ptr(),
            places: &places[..self.m * self.m],
            filters: (k - panel.first).min(panel.vectors * self.isa.lanes()),
            relu: self.relu,
        };
        // SAFETY: m is long enough; places are pixels of the result and the panel's filters, which no other task
        // has both.
        unsafe { self.transforms.output(&sums) };
    }
}

/// Results of a tile along each side where tiles are faster than the sum itself.
///
/// A weight of a position is multiplied with a vector of tiles in half a cycle, and comes from the second-level cache, or
/// from beyond, at 4 bytes a cycle: set by measuring VGG16 and ResNet18, whole and narrow, on two cores with AVX-512. Tiles
/// of 4 × 4 results won at 32 × 32 pixels, of 2 × 2 at 16 × 16 and 8 × 8, the sum itself at 4 × 4.
fn tile(isa: &Isa, shape: &ConvShape) -> Option<usize> {
    let cycles = |positions: usize, m: usize| {
        // Those of one image, so that its result has the same bits among others.
        let tiles = shape.p().div_ceil(m) * shape.q().div_ceil(m);
        positions * (tiles + 2 * isa.lanes())
    };
    let tiled = [2, 4].into_iter().min_by_key(|m| cycles((m + 2) * (m + 2), *m))?;
    let faster = cycles((tiled + 2) * (tiled + 2), tiled) < cycles(9, 1);
    (faster && shape.c >= CHANNELS).then_some(tiled)
}

/// The most vectors of filters and the most of `tiles` tiles that are multiplied together: of least cost, and of equal
/// ones the largest.
fn cut(isa: &Isa, shape: &ConvShape, tiles: usize) -> (usize, usize) {
    let (mut least, mut best) = (usize::MAX, (1, 1));
    for vectors in (1..=isa.vectors()).rev() {
        for together in (1..=isa.pixels(vectors)).rev() {
            let parts: Vec<_> = split(tiles, together).map(|part| (part.len(), 1)).collect();
            let panels = split(shape.k.div_ceil(isa.lanes()), vectors);
            let cost = panels.map(|panel| cost(shape.c, panel.len(), &parts)).sum();
            if cost < least {
                (least, best) = (cost, (vectors, together));
            }
        }
    }
    best
}
