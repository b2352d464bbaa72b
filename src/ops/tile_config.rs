//! How an inference convolution is cut into blocks, and a guess at which cut is quick.

use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Output pixels × output channels that one block computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tile {
    /// 128 × 128 by 4 warps; tensor cores only.
    M128N128,
    /// 128 × 128 by 8 warps; tensor cores only.
    M128N128Warps8,
    /// 128 × 64.
    M128N64,
    /// 64 × 64.
    M64N64,
    /// 128 × 32.
    M128N32,
    /// 128 × 16.
    M128N16,
}

impl Tile {
    /// Every tile.
    pub const ALL: [Self; 6] = [
        Self::M128N128,
        Self::M128N128Warps8,
        Self::M128N64,
        Self::M64N64,
        Self::M128N32,
        Self::M128N16,
    ];

    /// Output pixels.
    pub fn rows(self) -> usize {
        if self == Self::M64N64 { 64 } else { 128 }
    }

    /// Output channels.
    pub fn columns(self) -> usize {
        match self {
            Self::M128N128 | Self::M128N128Warps8 => 128,
            Self::M128N64 | Self::M64N64 => 64,
            Self::M128N32 => 32,
            Self::M128N16 => 16,
        }
    }

    pub(super) fn threads(self) -> u32 {
        if self == Self::M128N128Warps8 { 256 } else { 128 }
    }

    /// Dynamic shared memory: four stages of 64 bytes a row and a column.
    pub(super) fn shared(self) -> u32 {
        4 * 64 * (self.rows() + self.columns()) as u32
    }

    /// The entry point, if the mode has one.
    pub(super) fn kernel(self, mode: Mode) -> Option<&'static str> {
        let names: [Option<&str>; 3] = match self {
            Self::M128N128 => {
                [None, Some("infer_conv2d_tf32_128x128"), Some("infer_conv2d_bf16_128x128")]
            }
            Self::M128N128Warps8 => [
                None,
                Some("infer_conv2d_tf32_128x128_warps8"),
                Some("infer_conv2d_bf16_128x128_warps8"),
            ],
            Self::M128N64 => {
                ["infer_conv2d_f32_128x64", "infer_conv2d_tf32_128x64", "infer_conv2d_bf16_128x64"]
                    .map(Some)
            }
            Self::M64N64 => {
                ["infer_conv2d_f32_64x64", "infer_conv2d_tf32_64x64", "infer_conv2d_bf16_64x64"]
                    .map(Some)
            }
            Self::M128N32 => {
                ["infer_conv2d_f32_128x32", "infer_conv2d_tf32_128x32", "infer_conv2d_bf16_128x32"]
                    .map(Some)
            }
            Self::M128N16 => {
                ["infer_conv2d_f32_128x16", "infer_conv2d_tf32_128x16", "infer_conv2d_bf16_128x16"]
                    .map(Some)
            }
        };
        names[mode as usize]
    }

    /// Bytes of shared memory that a step of 64 bytes of the sum moves: fragments to the warps, and the copy of the
    /// operands.
    fn traffic(self) -> usize {
        let [high, wide] = match self {
            Self::M128N128Warps8 => [2, 4],
            Self::M128N128 | Self::M128N64 | Self::M64N64 => [2, 2],
            Self::M128N32 | Self::M128N16 => [4, 1],
        };
        64 * (self.rows() * (wide + 1) + self.columns() * (high + 1))
    }
}

/// The order of the output pixels in the tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Order {
    /// Image after image; 2 × 2 windows together where the maximum is fused.
    Images,
    /// Position after position, each with all images. Taps that are padding for a whole tile are skipped.
    Positions,
}

/// How a convolution is cut. Every configuration gives the same result up to the order of sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TileConfig {
    /// What a block computes.
    pub tile: Tile,
    /// Which pixels share a tile.
    pub order: Order,
    /// Number of parts of the sum, each added by its own thread block; at least 1, and more than 1 where tiles are few.
    pub splits: usize,
}

impl TileConfig {
    /// Whether a second kernel finishes the sums, which then pass through memory. This is so for sums in several parts, and for
    /// pooling windows whose pixels lie in different tiles.
    pub(super) fn in_parts(&self, pool: bool) -> bool {
        self.splits > 1 || (pool && self.order == Order::Positions)
    }
}

impl fmt::Display for TileConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tile, order, splits } = self;
        let warps = if *tile == Tile::M128N128Warps8 { ", 8 warps" } else { "" };
        let order = if *order == Order::Images { "images" } else { "positions" };
        write!(f, "{}x{}{warps}, by {order}, {splits} splits", tile.rows(), tile.columns())
    }
}

/// Multiprocessors and clocks of the machine that the guess is for.
const PROCESSORS: usize = 132;
/// Products a clock and multiprocessor, by mode: `fma`, and `mma.sync` at 63 % of the tensor cores' peak.
const PRODUCTS: [f64; 3] = [128.0, 644.0, 1288.0];
/// Bytes of shared memory a clock and multiprocessor.
const SHARED_BYTES: f64 = 128.0;
/// Clocks of a step that nothing overlaps, of a block's beginning and end, and of a second kernel.
const STEP_LATENCY: f64 = 300.0;
const BLOCK_LATENCY: f64 = 1500.0;
const SECOND_KERNEL: f64 = 2500.0;
/// Bytes a clock that all multiprocessors together exchange with L2, and the share of the pixels' bytes that taps of
/// one image find in L1.
const L2_BYTES: f64 = 3000.0;
const FOUND_IN_L1: f64 = 0.75;
/// Steps that a split has at least.
const LEAST_STEPS: usize = 4;
const MOST_SPLITS: usize = 32;
/// How many a plan has the time to measure.
const CANDIDATES: usize = 8;

/// Configurations worth measuring, the best guess first, for a convolution whose packed rows have `shape.c` channels.
///
/// The guess counts clocks of the slowest multiprocessor of an H200 from published rates; it is not measured.
pub(super) fn candidates(shape: &ConvShape, mode: Mode, pool: bool) -> Vec<TileConfig> {
    let mut found: Vec<(f64, TileConfig)> = Vec::new();
    for tile in Tile::ALL.into_iter().filter(|tile| tile.kernel(mode).is_some()) {
        // The narrowest tile is for the narrowest layers; else at most half of a tile is empty.
        if tile.columns() > 16 && tile.columns() >= 2 * shape.k.next_multiple_of(16) {
            continue;
        }
        for order in [Order::Images, Order::Positions] {
            if order == Order::Positions && !skips_taps(shape, tile) {
                continue;
            }
            for splits in splits(shape, mode, tile, order, pool) {
                let config = TileConfig { tile, order, splits };
                found.push((clocks(shape, mode, config, pool), config));
            }
        }
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    let guessed: Vec<TileConfig> = found.into_iter().map(|(_, config)| config).collect();
    // The best of each tile: where the guess errs, it errs for a tile. Then the best of the rest.
    let first = |i: usize| guessed[..i].iter().all(|config| config.tile != guessed[i].tile);
    let (best, rest): (Vec<_>, Vec<_>) = (0..guessed.len()).partition(|&i| first(i));
    let more = CANDIDATES.saturating_sub(best.len());
    let mut kept: Vec<usize> = best.into_iter().chain(rest.into_iter().take(more)).collect();
    kept.sort_unstable();
    kept.into_iter().map(|i| guessed[i]).collect()
}

/// Whether tiles by positions see padding that is padding for every image in them.
fn skips_taps(shape: &ConvShape, tile: Tile) -> bool {
    2 * shape.n >= tile.rows() && valid_taps(shape) < 0.95
}

/// The share of (pixel, tap) pairs that read the input and not the padding.
fn valid_taps(shape: &ConvShape) -> f64 {
    let axis = |extent: usize, taps: usize, out: usize| {
        let valid = |i: usize, tap: usize| {
            (i * shape.stride + tap).checked_sub(shape.pad).is_some_and(|at| at < extent)
        };
        let count: usize = (0..out).map(|i| (0..taps).filter(|&tap| valid(i, tap)).count()).sum();
        count as f64 / (out * taps).max(1) as f64
    };
    axis(shape.h, shape.r, shape.p()) * axis(shape.w, shape.s, shape.q())
}

fn blocks(shape: &ConvShape, tile: Tile, order: Order, pool: bool) -> usize {
    let windows = pool && order == Order::Images;
    let pixels = |extent: usize| if windows { extent / 2 * 2 } else { extent };
    let rows = shape.n * pixels(shape.p()) * pixels(shape.q());
    rows.div_ceil(tile.rows()) * shape.k.div_ceil(tile.columns())
}

/// Steps of 64 bytes in the sum of an average tile.
fn steps(shape: &ConvShape, mode: Mode, order: Order) -> usize {
    let bytes = shape.r * shape.s * shape.c * mode.storage().size();
    let share = if order == Order::Positions { valid_taps(shape) } else { 1.0 };
    (((bytes as f64 * share) / 64.0).ceil() as usize).max(1)
}

/// One, and the numbers that give each multiprocessor one and two blocks.
fn splits(shape: &ConvShape, mode: Mode, tile: Tile, order: Order, pool: bool) -> Vec<usize> {
    let blocks = blocks(shape, tile, order, pool).max(1);
    let most = (steps(shape, mode, order) / LEAST_STEPS).clamp(1, MOST_SPLITS);
    let mut splits = vec![1];
    splits.extend([1, 2].map(|each| (each * PROCESSORS).div_ceil(blocks).min(most)));
    splits.sort_unstable();
    splits.dedup();
    splits
}

fn clocks(shape: &ConvShape, mode: Mode, config: TileConfig, pool: bool) -> f64 {
    let TileConfig { tile, order, splits } = config;
    let elements = 64 / mode.storage().size();
    let products = (tile.rows() * tile.columns() * elements) as f64 / PRODUCTS[mode as usize];
    let pixels = match order {
        Order::Images if shape.r * shape.s > 1 => 64.0 * tile.rows() as f64 * (1.0 - FOUND_IN_L1),
        _ => 64.0 * tile.rows() as f64,
    };
    let copied = (pixels + 64.0 * tile.columns() as f64) * PROCESSORS as f64 / L2_BYTES;
    let busy = products.max(tile.traffic() as f64 / SHARED_BYTES).max(copied);
    let blocks = blocks(shape, tile, order, pool) * splits;
    let each = blocks.div_ceil(PROCESSORS) as f64;
    let steps = steps(shape, mode, order).div_ceil(splits) as f64;
    // Blocks of one multiprocessor hide each other's latency; a lone one waits.
    let mut clocks = (each * steps * busy).max(steps * STEP_LATENCY)
        + each * (tile.rows() * tile.columns()) as f64 / 16.0
        + BLOCK_LATENCY;
    if config.in_parts(pool) {
        let bytes = 8 * splits * shape.n * shape.p() * shape.q() * shape.k;
        clocks += SECOND_KERNEL + bytes as f64 / L2_BYTES;
    }
    clocks
}
