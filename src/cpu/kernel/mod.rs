//! The register tile that every dense product of this module is built from.
//!
//! `out[i, j] (+)= Σ_segments Σ_t a[i, t] · b[t, j]` for `i < rows ≤ 14` and up to two vectors of columns `j`: each
//! step loads these vectors of `b` and multiplies them with `rows` broadcast elements of `a`; the sums stay in
//! registers over all segments. `a` comes packed by rows ([`DenseTiles::by_row`]) or by steps ([`DenseTiles::by_step`]).

mod dot;

pub(super) use dot::{MAX_CHANNELS, PixelDots};

use super::isa::{InstructionSet, Isa};
use super::vector::Vector;

/// Steps that a row of a packed `a` may have.
pub(super) const STEPS: usize = 256;
/// Distance of the rows of a packed `a`: more than [`STEPS`], so that rows fall into different cache sets.
pub(super) const ROW_STRIDE: usize = STEPS + 16;
/// Distance of the steps where `a` is packed by steps.
pub(super) const STEP_STRIDE: usize = 16;
/// Most rows of any instruction set.
pub(super) const MAX_ROWS: usize = 14;

/// `len` consecutive steps, found at these offsets of `a` and `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) a: usize,
    pub(super) b: usize,
    pub(super) len: usize,
}

/// Operands of one tile.
pub(super) struct DenseTile<'a> {
    pub(super) segments: &'a [Segment],
    pub(super) a: *const f32,
    /// Steps of `columns()` floats, padded.
    pub(super) b: *const f32,
    pub(super) out: *mut f32,
    /// Where each row of the result starts in `out`; its length is the number of rows.
    pub(super) rows: &'a [usize],
    /// Columns to write, at most [`DenseTiles::columns`].
    pub(super) columns: usize,
    pub(super) init: InitialSums,
}

/// What the sums start from.
#[derive(Clone, Copy)]
pub(super) enum InitialSums {
    Zero,
    /// What `out` holds.
    Out,
    /// One value for each column.
    Bias(*const f32),
}

type Run = unsafe fn(&DenseTile);
type RunDots = unsafe fn(&mut PixelDots);

/// The tiles for one instruction set.
pub(super) struct DenseTiles {
    rows: usize,
    columns: usize,
    /// By vectors of columns (1 or 2), then by rows.
    by_row: [[Run; MAX_ROWS]; 2],
    by_step: [[Run; MAX_ROWS]; 2],
    /// By channels.
    dots: [RunDots; MAX_CHANNELS],
}

impl DenseTiles {
    /// Those of an instruction set.
    pub(super) fn of(isa: Isa) -> &'static Self {
        match isa.set() {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => &AVX512,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => &AVX2,
            InstructionSet::Portable => &PORTABLE,
        }
    }

    /// Most rows of a tile.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of a tile, the width of the panels of `b`.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// One tile with `a[i, t]` at `i · ROW_STRIDE + t`.
    ///
    /// # Safety
    /// For all segments, rows and columns, the elements named in [`DenseTile`] lie in the caller's buffers, those of
    /// `b` rounded up to whole panels, and nobody else writes to them.
    pub(super) unsafe fn by_row(&self, tile: &DenseTile) {
        assert!((1..=self.rows).contains(&tile.rows.len()) && tile.columns <= self.columns);
        // SAFETY: the machine has the instructions (as there is an `Isa`); memory by the caller's word.
        unsafe { self.by_row[self.wide(tile)][tile.rows.len() - 1](tile) }
    }

    /// One tile with `a[i, t]` at `t · STEP_STRIDE + i`.
    ///
    /// # Safety
    /// As [`Self::by_row`].
    pub(super) unsafe fn by_step(&self, tile: &DenseTile) {
        assert!((1..=self.rows).contains(&tile.rows.len()) && tile.columns <= self.columns);
        // SAFETY: as in `by_row`.
        unsafe { self.by_step[self.wide(tile)][tile.rows.len() - 1](tile) }
    }

    /// Sums over the lanes for `channels` outputs a pixel.
    ///
    /// # Safety
    /// All offsets lie in `input` and `weights`; `out` has a pixel for each entry of `starts` but the last.
    pub(super) unsafe fn dots(&self, channels: usize, mut dots: PixelDots) {
        // SAFETY: as in `by_row`.
        unsafe { self.dots[channels - 1](&mut dots) }
    }

    /// 0 where one vector holds the columns, else 1.
    fn wide(&self, tile: &DenseTile) -> usize {
        usize::from(tile.columns > self.columns / 2)
    }
}

/// `tiles!(name, vector, rows, feature)`: the tile instantiated for 1 to 14 rows; rows that the set does not use fall back to
/// its largest tile, which [`DenseTiles::rows`] keeps from being called.
macro_rules! tiles {
    ($name:ident, $vector:ty, [$($row:literal),*], $rows:expr $(, #[$feature:meta])?) => {
        static $name: DenseTiles = {
            $(#[$feature])?
            unsafe fn run<const ROWS: usize, const VECTORS: usize, const ROW: usize, const STEP: usize>(
                tile: &DenseTile,
            ) {
                // SAFETY: by the caller's word.
                unsafe { body::<$vector, ROWS, VECTORS, ROW, STEP>(tile) }
            }
            $(#[$feature])?
            unsafe fn dots<const CHANNELS: usize>(dots: &mut PixelDots) {
                // SAFETY: by the caller's word.
                unsafe { dot::body::<$vector, CHANNELS>(dots) }
            }
            DenseTiles {
                rows: $rows,
                columns: 2 * <$vector>::LANES,
                by_row: [
                    [$(run::<{ min($row, $rows) }, 1, ROW_STRIDE, 1>),*],
                    [$(run::<{ min($row, $rows) }, 2, ROW_STRIDE, 1>),*],
                ],
                by_step: [
                    [$(run::<{ min($row, $rows) }, 1, 1, STEP_STRIDE>),*],
                    [$(run::<{ min($row, $rows) }, 2, 1, STEP_STRIDE>),*],
                ],
                dots: [dots::<1>, dots::<2>, dots::<3>, dots::<4>],
            }
        };
    };
    ($name:ident, $vector:ty, $rows:expr $(, #[$feature:meta])?) => {
        tiles!($name, $vector, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], $rows $(, #[$feature])?);
    };
}

const fn min(a: usize, b: usize) -> usize {
    if a < b { a } else { b }
}

// Accumulators, two vectors of `b` and one broadcast: 31 of 32 registers, and 15 of 16.
#[cfg(target_arch = "x86_64")]
tiles!(AVX512, std::arch::x86_64::__m512, 14, #[target_feature(enable = "avx512f")]);
#[cfg(target_arch = "x86_64")]
tiles!(AVX2, std::arch::x86_64::__m256, 6, #[target_feature(enable = "avx2,fma")]);
tiles!(PORTABLE, [f32; 8], 4);

/// # Safety
/// As [`DenseTiles::by_row`], and the machine has the instructions of `V`.
#[inline(always)]
unsafe fn body<
    V: Vector,
    const ROWS: usize,
    const VECTORS: usize,
    const ROW: usize,
    const STEP: usize,
>(
    tile: &DenseTile,
) {
    let counts: [usize; VECTORS] =
        std::array::from_fn(|j| tile.columns.saturating_sub(j * V::LANES).min(V::LANES));
    // SAFETY: all addresses are elements of the tile, by the caller's word.
    unsafe {
        let mut sums = [[V::zero(); VECTORS]; ROWS];
        match tile.init {
            InitialSums::Zero => {}
            InitialSums::Bias(bias) => {
                for j in 0..VECTORS {
                    let bias = V::load_first(bias.add(j * V::LANES), counts[j]);
                    sums.iter_mut().for_each(|row| row[j] = bias);
                }
            }
            InitialSums::Out => {
                for i in 0..ROWS {
                    let row = tile.out.add(*tile.rows.get_unchecked(i));
                    for j in 0..VECTORS {
                        sums[i][j] = V::load_first(row.add(j * V::LANES), counts[j]);
                    }
                }
            }
        }
        for segment in tile.segments {
            let mut a = tile.a.add(segment.a);
            let mut b = tile.b.add(segment.b);
            for _ in 0..segment.len {
                let mut columns = [V::zero(); VECTORS];
                for j in 0..VECTORS {
                    columns[j] = V::load(b.add(j * V::LANES));
                }
                for i in 0..ROWS {
                    let factor = V::splat(*a.add(i * ROW));
                    for j in 0..VECTORS {
                        sums[i][j] = V::multiply_add(factor, columns[j], sums[i][j]);
                    }
                }
                a = a.add(STEP);
                b = b.add(2 * V::LANES);
            }
        }
        for i in 0..ROWS {
            let row = tile.out.add(*tile.rows.get_unchecked(i));
            for j in 0..VECTORS {
                sums[i][j].store_first(row.add(j * V::LANES), counts[j]);
            }
        }
    }
}
