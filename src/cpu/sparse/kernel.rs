//! The register tile of the sparse convolution: some vectors of one output channel, over its kept weights.

use crate::cpu::isa::{InstructionSet, Isa};
use crate::cpu::split::powers;
use crate::cpu::term::Term;
use crate::cpu::vector::Vector;

/// `out[i, j] = start + Σ_terms weight · input[offset + i · input_row + j]`.
pub(super) struct SparseTile<'a> {
    pub(super) terms: &'a [Term],
    pub(super) input: &'a [f32],
    pub(super) input_row: usize,
    pub(super) start: f32,
    pub(super) out: &'a mut [f32],
    pub(super) out_row: usize,
}

/// Weights whose gradients are summed together.
pub(super) const TOGETHER: usize = 8;

/// `sums[g] = Σ_{i < rows, j < output_row} output[i · output_row + j] · input[offsets[g] + i · input_row + j]`.
pub(super) struct WeightDots<'a> {
    pub(super) input: &'a [f32],
    pub(super) input_row: usize,
    pub(super) output: &'a [f32],
    /// Whole vectors.
    pub(super) output_row: usize,
    pub(super) rows: usize,
    pub(super) offsets: [u32; TOGETHER],
}

/// Sizes of a tile: `2^.0` rows of `2^.1` vectors.
pub(super) type TileShape = (usize, usize);

/// Exponents up to 4: at most 16 vectors.
const SIZES: usize = 5;

type Run = unsafe fn(SparseTile);
type RunDots = unsafe fn(&WeightDots) -> [f32; TOGETHER];

/// The tiles for one instruction set.
pub(in crate::cpu) struct SparseTiles {
    lanes: usize,
    /// Exponent of the most vectors of a tile.
    most: usize,
    runs: [[Run; SIZES]; SIZES],
    dots: RunDots,
}

impl SparseTiles {
    /// Those of an instruction set.
    pub(in crate::cpu) fn of(isa: Isa) -> &'static Self {
        match isa.set() {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => &AVX512,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => &AVX2,
            InstructionSet::Portable => &PORTABLE,
        }
    }

    /// Covers `rows` rows of `row` floats (whole vectors) with tiles: calls `f(shape, row, float)` for each.
    pub(super) fn for_each_tile(
        &self,
        rows: usize,
        row: usize,
        mut f: impl FnMut(TileShape, usize, usize),
    ) {
        let vectors = row / self.lanes;
        // Square tiles share the most of what neighbouring taps read.
        let tall = rows.checked_ilog2().unwrap_or(0) as usize;
        let wide = (self.most - (self.most / 2).min(tall)).min(self.most);
        for (column, wide) in powers(vectors, wide) {
            for (first, tall) in powers(rows, self.most - wide) {
                f((tall, wide), first, column * self.lanes);
            }
        }
    }

    /// Computes one tile.
    ///
    /// # Safety
    /// `out` holds the tile's vectors; so does `input` from every offset of the terms on.
    pub(super) unsafe fn tile(&self, (tall, wide): TileShape, tile: SparseTile) {
        debug_assert!({
            let end = |stride: usize| ((1 << tall) - 1) * stride + (self.lanes << wide);
            let last = tile.terms.iter().map(|term| term.offset as usize).max();
            last.is_none_or(|last| last + end(tile.input_row) <= tile.input.len())
                && end(tile.out_row) <= tile.out.len()
        });
        // SAFETY: the machine has the instructions (as there is an `Isa`); memory by the caller's word.
        unsafe { self.runs[tall][wide](tile) }
    }

    /// Computes the sums.
    ///
    /// # Safety
    /// `output` holds the rows; so does `input` from every offset on.
    pub(super) unsafe fn dots(&self, dots: &WeightDots) -> [f32; TOGETHER] {
        debug_assert!(dots.offsets.iter().all(|&offset| {
            let end = |stride: usize| (dots.rows - 1) * stride + dots.output_row;
            offset as usize + end(dots.input_row) <= dots.input.len()
                && end(dots.output_row) <= dots.output.len()
        }));
        // SAFETY: as in `tile`.
        unsafe { (self.dots)(dots) }
    }
}

macro_rules! tiles {
    ($name:ident, $vector:ty, $most:expr, [$($tall:literal),*] $(, #[$feature:meta])?) => {
        static $name: SparseTiles = {
            $(#[$feature])?
            unsafe fn run<const ROWS: usize, const COLUMNS: usize>(tile: SparseTile) {
                // SAFETY: by the caller's word.
                unsafe { body::<$vector, ROWS, COLUMNS>(tile) }
            }
            $(#[$feature])?
            unsafe fn dots(dots: &WeightDots) -> [f32; TOGETHER] {
                // SAFETY: by the caller's word.
                unsafe { dots_body::<$vector>(dots) }
            }
            const MOST: usize = $most;
            SparseTiles {
                lanes: <$vector>::LANES,
                most: MOST,
                runs: [$([
                    run::<{ size($tall, MOST) }, { size(0, MOST - size_exponent($tall, MOST)) }>,
                    run::<{ size($tall, MOST) }, { size(1, MOST - size_exponent($tall, MOST)) }>,
                    run::<{ size($tall, MOST) }, { size(2, MOST - size_exponent($tall, MOST)) }>,
                    run::<{ size($tall, MOST) }, { size(3, MOST - size_exponent($tall, MOST)) }>,
                    run::<{ size($tall, MOST) }, { size(4, MOST - size_exponent($tall, MOST)) }>,
                ]),*],
                dots,
            }
        };
    };
}

/// Tiles that do not fit are never asked for; the smaller one stands in their place.
const fn size_exponent(exponent: usize, most: usize) -> usize {
    if exponent < most { exponent } else { most }
}

const fn size(exponent: usize, most: usize) -> usize {
    1 << size_exponent(exponent, most)
}

#[cfg(target_arch = "x86_64")]
tiles!(AVX512, std::arch::x86_64::__m512, 4, [0, 1, 2, 3, 4], #[target_feature(enable = "avx512f")]);
#[cfg(target_arch = "x86_64")]
tiles!(AVX2, std::arch::x86_64::__m256, 3, [0, 1, 2, 3, 4], #[target_feature(enable = "avx2,fma")]);
tiles!(PORTABLE, [f32; 8], 2, [0, 1, 2, 3, 4]);

/// # Safety
/// As [`SparseTiles::tile`], and the machine has the instructions of `V`.
#[inline(always)]
unsafe fn body<V: Vector, const ROWS: usize, const COLUMNS: usize>(tile: SparseTile) {
    // SAFETY: addresses lie in `input` and `out` by the caller's word.
    unsafe {
        let mut sums = [[V::splat(tile.start); COLUMNS]; ROWS];
        for term in tile.terms {
            let weight = V::splat(term.weight);
            let input = tile.input.as_ptr().add(term.offset as usize);
            for i in 0..ROWS {
                for j in 0..COLUMNS {
                    let x = V::load(input.add(i * tile.input_row + j * V::LANES));
                    sums[i][j] = V::multiply_add(weight, x, sums[i][j]);
                }
            }
        }
        let out = tile.out.as_mut_ptr();
        for i in 0..ROWS {
            for j in 0..COLUMNS {
                sums[i][j].store_first(out.add(i * tile.out_row + j * V::LANES), V::LANES);
            }
        }
    }
}

/// # Safety
/// As [`SparseTiles::dots`], and the machine has the instructions of `V`.
#[inline(always)]
unsafe fn dots_body<V: Vector>(dots: &WeightDots) -> [f32; TOGETHER] {
    // SAFETY: addresses lie in `input` and `output` by the caller's word; `lanes` holds a vector.
    unsafe {
        let mut sums = [V::zero(); TOGETHER];
        for i in 0..dots.rows {
            let output = dots.output.as_ptr().add(i * dots.output_row);
            let input = dots.input.as_ptr().add(i * dots.input_row);
            for j in (0..dots.output_row).step_by(V::LANES) {
                let dy = V::load(output.add(j));
                for g in 0..TOGETHER {
                    let x = V::load(input.add(dots.offsets[g] as usize + j));
                    sums[g] = V::multiply_add(dy, x, sums[g]);
                }
            }
        }
        sums.map(|sum| {
            let mut lanes = [0.0f32; 16];
            sum.store_first(lanes.as_mut_ptr(), V::LANES);
            lanes.iter().sum()
        })
    }
}
