//! 3 × 3 filters of stride 1 by Winograd's minimal filtering: `y = Aᵀ [Σ_c (G g Gᵀ) ⊙ (Bᵀ d B)] A` for tiles of 2 × 2 or
//! 4 × 4 results, which takes 4 or 2.25 products for a result and channel where the sum itself takes 9.
//!
//! Source: Lavin and Gray 2016, arXiv 1509.09308.

mod lanes;
mod nhwc;
mod transform;

pub(crate) use lanes::LaneWinogradConv;
pub(crate) use nhwc::WinogradConv;

use super::finish::Finish;
use super::isa::Isa;
use super::scratch::Shared;
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use transform::{InputTile, OutputTile, POSITIONS, RESULTS, Transforms};

/// Whether Winograd's tiles may compute the convolution. They may not for filters other than 3 × 3 of stride 1, for rounded
/// operands, and for weights whose transform is not finite, because such a weight would spoil neighbouring results. Activations
/// spoil neighbouring results too: one that is not finite makes NaN of all results of its tiles, and one that is 10⁶ times as
/// large as its neighbours leaves their results few digits.
fn given(shape: &ConvShape, w: &[f32], mode: Mode) -> bool {
    let filter = (shape.r, shape.s, shape.stride) == (3, 3, 1);
    // `G g Gᵀ` is at most 2.25 times as large.
    filter && mode == Mode::F32 && w.iter().all(|w| w.abs() <= f32::MAX / 4.0)
}

/// `f(channel, position, u)` for every element of `G g Gᵀ`; `g` is one filter `[3, 3, c]`, tiles have `n · n` positions.
fn filter(n: usize, g: &[f32], mut f: impl FnMut(usize, usize, f32)) {
    let c = g.len() / 9;
    for channel in 0..c {
        let tap = |r: usize, s: usize| f64::from(g[(3 * r + s) * c + channel]);
        let u = transform::filter(n, [0, 1, 2].map(|r| [0, 1, 2].map(|s| tap(r, s))));
        for (position, &value) in u[..n * n].iter().enumerate() {
            f(channel, position, value as f32);
        }
    }
}

/// How tiles of m × m results, which take two pixels more along each side, lie in the images.
struct WinogradTiles {
    transforms: &'static Transforms,
    shape: ConvShape,
    m: usize,
    finish: Finish,
    /// What lies outside the image.
    zeros: Vec<f32>,
}

/// Results of some tile before the output's transform: floats of filters from the first on, positions apart, their bias.
struct Products<'a> {
    sums: &'a [f32],
    stride: usize,
    first: usize,
    filters: usize,
    bias: &'a [f32],
}

impl WinogradTiles {
    /// `shape` counts floats of a pixel as channels.
    fn new(isa: Isa, m: usize, shape: ConvShape, finish: Finish) -> Self {
        let transforms = Transforms::of(isa);
        Self { transforms, shape, m, finish, zeros: vec![0.0; shape.c] }
    }

    fn count(&self) -> usize {
        self.shape.n * of_image(self.m, &self.shape)
    }

    /// Floats of all results.
    fn output_len(&self) -> usize {
        let ConvShape { n, k, .. } = self.shape;
        let edge = |edge: usize| if self.finish.pool { edge / 2 } else { edge };
        n * edge(self.shape.p()) * edge(self.shape.q()) * k
    }

    fn positions(&self) -> usize {
        (self.m + 2) * (self.m + 2)
    }

    /// Image, first row and first column of a tile's results.
    fn place(&self, tile: usize) -> [usize; 3] {
        let (down, along) = (self.shape.p().div_ceil(self.m), self.shape.q().div_ceil(self.m));
        [tile / (down * along), tile / along % down * self.m, tile % along * self.m]
    }

    /// Writes `Bᵀ d B` of a tile to whole vectors of `v`, `stride` apart.
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
        assert!(v.len() >= (n * n - 1) * stride + c.next_multiple_of(self.transforms.lanes()));
        let pixels = &pixels[..n * n];
        let tile = InputTile { pixels, channels: c, v: v.as_mut_ptr(), stride };
        // SAFETY: pixels are c floats of x or the zeros, v is long enough.
        unsafe { self.transforms.input(&tile) };
    }

    /// Writes the results of a tile.
    ///
    /// # Safety
    /// Nobody else touches these filters of the tile's results in `y`, which has [`Self::output_len`] floats, as the residual has.
    unsafe fn finish(
        &self,
        tile: usize,
        products: &Products,
        residual: Option<&[f32]>,
        y: &Shared,
    ) {
        // Windows of maxima begin where tiles do.
        let halves = usize::from(self.finish.pool);
        let halved = |edge: usize| edge >> halves;
        let [image, row, column] = self.place(tile);
        let (p, q, k) = (halved(self.shape.p()), halved(self.shape.q()), self.shape.k);
        let (row, column, m) = (halved(row), halved(column), halved(self.m));
        let mut places = [None; RESULTS];
        for i in 0..m.min(p - row) {
            for j in 0..m.min(q - column) {
                let pixel = (image * p + row + i) * q + column + j;
                places[i * m + j] = Some(pixel * k + products.first);
            }
        }
        let &Products { sums, stride, first, filters, bias } = products;
        let whole = filters.next_multiple_of(self.transforms.lanes());
        assert!(sums.len() >= (self.positions() - 1) * stride + whole && bias.len() >= whole);
        assert!(first + filters <= k);
        let tile = OutputTile {
            m: sums.as_ptr(),
            stride,
            bias: bias.as_ptr(),
            residual: residual.map(<[f32]>::as_ptr),
            y: y.ptr(),
            places: &places[..m * m],
            filters,
            finish: self.finish,
        };
        // SAFETY: sums and bias are long enough; places are pixels of the result.
        unsafe { self.transforms.output(&tile) };
    }
}

/// Tiles of one image.
fn of_image(m: usize, shape: &ConvShape) -> usize {
    shape.p().div_ceil(m) * shape.q().div_ceil(m)
}
