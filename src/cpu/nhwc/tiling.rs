//! How a convolution of few images is cut into tiles and tasks.

use super::kernel::NhwcTiles;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::split::split;

/// Tasks wanted, so that many cores have work and none waits long.
const TASKS: usize = 32;
/// Floats of a panel's weights from which one task takes all pixels: what it fetches serves them all.
const LARGE: usize = 1 << 17;
/// Halves of a cycle that a tap of a tile takes to set up; as all that no count gives, set by measuring VGG16 and ResNet18 at a
/// batch of 1, whole and narrow.
const TAP: usize = 30;

/// A cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiling {
    /// Most vectors of filters of a tile.
    pub(super) vectors: usize,
    /// Most pixels of a tile.
    pub(super) pixels: usize,
    /// Pixels of a task.
    pub(super) range: usize,
}

impl Tiling {
    /// The tiles of least cost; of equal ones the largest.
    pub(super) fn of(register_tiles: &NhwcTiles, shape: &ConvShape) -> Self {
        let panels = |vectors: usize| split(shape.k.div_ceil(register_tiles.lanes()), vectors);
        let most =
            (1..=register_tiles.vectors()).map(|v| register_tiles.pixels(v)).max().unwrap_or(1);
        let (mut least, mut best) = (usize::MAX, (1, 1));
        for pixels in (1..=most).rev() {
            let tiles = tiles(shape, pixels);
            for vectors in
                (1..=register_tiles.vectors()).rev().filter(|&v| pixels <= register_tiles.pixels(v))
            {
                let cost = panels(vectors).map(|panel| cost(shape.c, panel.len(), &tiles)).sum();
                if cost < least {
                    (least, best) = (cost, (vectors, pixels));
                }
            }
        }
        let (vectors, pixels) = best;
        let all = shape.n * shape.p() * shape.q();
        let weights = vectors * register_tiles.lanes() * shape.r * shape.s * shape.c;
        let parts = match weights > LARGE {
            true => 1,
            false => TASKS.div_ceil(panels(vectors).count().max(1)),
        };
        let range = all.div_ceil(parts).next_multiple_of(pixels).max(1);
        Self { vectors, pixels, range }
    }
}

/// Halves of a cycle that some vectors of filters take: a core does one multiply-add or one load of a vector in each, and
/// gets weights from its second-level cache at half a vector a cycle. `tiles` holds pixels and taps of each.
pub(in crate::cpu) fn cost(channels: usize, vectors: usize, tiles: &[(usize, usize)]) -> usize {
    let step = |pixels: usize| (vectors * pixels).max(2 * vectors + pixels).max(4 * vectors) + 1;
    tiles.iter().map(|&(pixels, taps)| taps * (channels * step(pixels) + TAP)).sum()
}

/// Of every tile of `pixels` pixels: its pixels, and the filter taps that are inside the image for one of them.
fn tiles(shape: &ConvShape, pixels: usize) -> Vec<(usize, usize)> {
    let &ConvShape { h, w, r, s, stride, pad, .. } = shape;
    let (p, q) = (shape.p(), shape.q());
    let inside = |at: usize, tap: usize, len: usize| (at * stride + tap).wrapping_sub(pad) < len;
    let tile = |tile: std::ops::Range<usize>| {
        let reached = |&(dy, dx): &(usize, usize)| {
            let one = |pixel: usize| inside(pixel / q % p, dy, h) && inside(pixel % q, dx, w);
            tile.clone().any(one)
        };
        let taps = (0..r).flat_map(|dy| (0..s).map(move |dx| (dy, dx))).filter(reached).count();
        (tile.len(), taps)
    };
    split(shape.n * p * q, pixels).map(tile).collect()
}
