//! What the instructions for bf16 read and write.

use crate::cpu::bf16::layout::{ROW, ROWS};
use half::bf16;

/// Filters of a half of a panel, the columns of a tile.
pub(in crate::cpu::bf16) const COLUMNS: usize = 16;
/// Sums of one unit and half.
pub(in crate::cpu::bf16) const SUMS: usize = ROWS * COLUMNS;
/// bf16 weights of 32 channels for a panel of 32 filters: `[half][channel / 2][filter][2]`.
pub(in crate::cpu::bf16) const STEP: usize = 2 * COLUMNS * ROW;

/// 32 channels of one tap, as distances in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cpu::bf16) struct TapStep {
    /// From the row that a unit reads through its class's first step.
    pub(in crate::cpu::bf16) x: usize,
    /// From the panel's first weight.
    pub(in crate::cpu::bf16) w: usize,
}

/// Sums whose rows are cache lines.
#[repr(align(64))]
pub(in crate::cpu::bf16) struct AlignedSums(pub(in crate::cpu::bf16) [f32; 4 * SUMS]);

/// `sums[unit][half][row][filter] = Σ_steps Σ_channels x · w` for one or two units of 16 rows and one or two halves of a panel.
pub(in crate::cpu::bf16) struct Bf16Tile<'a> {
    /// First row of each unit that the first step reads.
    pub(in crate::cpu::bf16) x: &'a [*const bf16],
    /// Bytes from row to row.
    pub(in crate::cpu::bf16) stride: usize,
    pub(in crate::cpu::bf16) steps: &'a [TapStep],
    pub(in crate::cpu::bf16) w: *const bf16,
    pub(in crate::cpu::bf16) halves: usize,
    /// Where to prefetch, and how many cache lines each step prefetches.
    pub(in crate::cpu::bf16) fetch: *const bf16,
    pub(in crate::cpu::bf16) lines: usize,
    /// Room for two units.
    pub(in crate::cpu::bf16) sums: &'a mut [f32; 4 * SUMS],
}

/// What is done with sums before they are written.
pub(in crate::cpu::bf16) struct UnitRows<'a> {
    /// Of one unit: `[half][row][filter]`.
    pub(in crate::cpu::bf16) sums: &'a [f32; 2 * SUMS],
    /// Of the panel; behind them are zeros.
    pub(in crate::cpu::bf16) filters: usize,
    /// The first row, and how many.
    pub(in crate::cpu::bf16) first: usize,
    pub(in crate::cpu::bf16) count: usize,
    /// For 32 filters.
    pub(in crate::cpu::bf16) bias: *const f32,
    /// The rows that are added, behind each other.
    pub(in crate::cpu::bf16) residual: Option<*const bf16>,
    pub(in crate::cpu::bf16) relu: bool,
    pub(in crate::cpu::bf16) y: RowTarget,
}

/// Where rows go.
#[derive(Clone, Copy)]
pub(in crate::cpu::bf16) enum RowTarget {
    /// To rows behind each other; the larger of them and what is there, where that is said.
    Blocked(*mut bf16, bool),
    /// As floats, so far apart.
    Floats(*mut f32, usize),
}

/// Words of a line that are joined.
pub(in crate::cpu::bf16) const JOINED: usize = 16;

/// `y[column][i] = lines[i / each][column · step + i % each]` for the first `filled` words of a row, zeros behind them.
pub(in crate::cpu::bf16) struct Join {
    /// Each may be read to 16 words behind its last column's first.
    pub(in crate::cpu::bf16) lines: [*const bf16; 4],
    pub(in crate::cpu::bf16) step: usize,
    /// At most 16.
    pub(in crate::cpu::bf16) each: usize,
    /// At most 32, of as many lines as there are.
    pub(in crate::cpu::bf16) filled: usize,
    pub(in crate::cpu::bf16) columns: usize,
    /// The first row, and words from row to row.
    pub(in crate::cpu::bf16) y: *mut bf16,
    pub(in crate::cpu::bf16) pitch: usize,
}
