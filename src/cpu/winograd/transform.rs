//! Winograd's transforms of a tile, a vector of channels at a time.
//!
//! F(2 × 2, 3 × 3) takes 4 × 4 pixels and interpolates at 0, 1, −1, ∞; F(4 × 4, 3 × 3) takes 6 × 6 and also 2, −2.

use crate::cpu::finish::Finish;
use crate::cpu::isa::{InstructionSet, Isa};
use crate::cpu::vector::Vector;

/// Most pixels of a tile, those of F(4 × 4, 3 × 3).
pub(super) const POSITIONS: usize = 36;
/// Most results of a tile.
pub(super) const RESULTS: usize = 16;

/// `v = Bᵀ d B`.
pub(super) struct InputTile<'a> {
    /// The channels of each pixel, row by row.
    pub(super) pixels: &'a [*const f32],
    pub(super) channels: usize,
    /// Whole vectors of channels for each position, `stride` apart.
    pub(super) v: *mut f32,
    pub(super) stride: usize,
}

/// `y = relu?(Aᵀ m A + bias + residual?)`, or the maxima of 2 × 2 of these.
pub(super) struct OutputTile<'a> {
    /// Whole vectors of filters for each position, `stride` apart.
    pub(super) m: *const f32,
    pub(super) stride: usize,
    /// Whole vectors.
    pub(super) bias: *const f32,
    pub(super) residual: Option<*const f32>,
    pub(super) y: *mut f32,
    /// Where the results of the tile are, or the maxima, row by row; `None` behind the edge.
    pub(super) places: &'a [Option<usize>],
    /// Filters to write.
    pub(super) filters: usize,
    pub(super) finish: Finish,
}

/// The filter `g` `[r, s]` of one channel as `G g Gᵀ`, of which the first n · n positions count.
pub(super) fn filter(n: usize, g: [[f64; 3]; 3]) -> [f64; POSITIONS] {
    let turned = |[a, b, c]: [f64; 3]| match n {
        4 => [a, (a + b + c) / 2.0, (a - b + c) / 2.0, c, 0.0, 0.0],
        _ => {
            let (even, wide) = (-(a + c) / 6.0, a / 24.0 + c / 6.0);
            [a / 4.0, even - b / 6.0, even + b / 6.0, wide + b / 12.0, wide - b / 12.0, c]
        }
    };
    let columns = [0, 1, 2].map(|s| turned([g[0][s], g[1][s], g[2][s]]));
    let mut u = [0.0; POSITIONS];
    for i in 0..n {
        let row = turned([columns[0][i], columns[1][i], columns[2][i]]);
        u[i * n..][..n].copy_from_slice(&row[..n]);
    }
    u
}

type RunInput = unsafe fn(&InputTile);
type RunOutput = unsafe fn(&OutputTile);

/// The transforms for one instruction set.
pub(super) struct Transforms {
    lanes: usize,
    input: [RunInput; 2],
    /// By tile, and whether maxima are written.
    output: [[RunOutput; 2]; 2],
}

impl Transforms {
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

    /// Floats of a vector.
    pub(super) fn lanes(&self) -> usize {
        self.lanes
    }

    /// # Safety
    /// All pixels are readable for the channels, `v` is writable for whole vectors of them at every position.
    pub(super) unsafe fn input(&self, tile: &InputTile) {
        let large = tile.pixels.len() == POSITIONS;
        assert!(large || tile.pixels.len() == 16);
        // SAFETY: the machine has the instructions (as there is an `Isa`); memory by the caller's word.
        unsafe { self.input[usize::from(large)](tile) }
    }

    /// # Safety
    /// `m` and the bias are readable for whole vectors; residual and y are the caller's for the filters at every place.
    pub(super) unsafe fn output(&self, tile: &OutputTile) {
        let pool = usize::from(tile.finish.pool);
        let large = tile.places.len() == RESULTS >> (2 * pool);
        assert!(large || tile.places.len() == 4 >> (2 * pool));
        assert!(pool == 0 || tile.residual.is_none());
        // SAFETY: as in `input`.
        unsafe { self.output[usize::from(large)][pool](tile) }
    }
}

macro_rules! transforms {
    ($name:ident, $vector:ty $(, #[$feature:meta])?) => {
        static $name: Transforms = {
            $(#[$feature])?
            unsafe fn input<const N: usize>(tile: &InputTile) {
                // SAFETY: by the caller's word.
                unsafe { input_of::<$vector, N>(tile) }
            }
            $(#[$feature])?
            unsafe fn output<const N: usize, const M: usize, const POOL: bool>(tile: &OutputTile) {
                // SAFETY: by the caller's word.
                unsafe { output_of::<$vector, N, M, POOL>(tile) }
            }
            Transforms {
                lanes: <$vector>::LANES,
                input: [input::<4>, input::<6>],
                output: [
                    [output::<4, 2, false>, output::<4, 2, true>],
                    [output::<6, 4, false>, output::<6, 4, true>],
                ],
            }
        };
    };
}

#[cfg(target_arch = "x86_64")]
transforms!(AVX512, std::arch::x86_64::__m512, #[target_feature(enable = "avx512f")]);
#[cfg(target_arch = "x86_64")]
transforms!(AVX2, std::arch::x86_64::__m256, #[target_feature(enable = "avx2,fma")]);
transforms!(PORTABLE, [f32; 8]);

/// `Bᵀ x`.
///
/// # Safety
/// The machine has the instructions of `W`; so for every function below.
#[inline(always)]
unsafe fn in_row<W: Vector, const N: usize>(x: [W; N]) -> [W; N] {
    const { assert!(N == 4 || N == 6) };
    let mut y = x;
    // SAFETY: by the caller's word.
    unsafe {
        let times = |factor: f32, x: W, plus: W| W::multiply_add(W::splat(factor), x, plus);
        if N == 4 {
            y[0] = times(-1.0, x[2], x[0]);
            y[1] = W::add(x[1], x[2]);
            y[2] = times(-1.0, x[1], x[2]);
            y[3] = times(-1.0, x[3], x[1]);
        } else {
            let (a, b) = (times(-4.0, x[2], x[4]), times(-4.0, x[1], x[3]));
            let (c, d) = (times(-1.0, x[2], x[4]), times(-1.0, x[1], x[3]));
            y[0] = times(4.0, x[0], times(-5.0, x[2], x[4]));
            y[1] = W::add(a, b);
            y[2] = times(-1.0, b, a);
            y[3] = times(2.0, d, c);
            y[4] = times(-2.0, d, c);
            y[5] = times(4.0, x[1], times(-5.0, x[3], x[5]));
        }
    }
    y
}

/// `Aᵀ m`.
///
/// # Safety
/// As [`in_row`].
#[inline(always)]
unsafe fn out_row<W: Vector, const N: usize, const M: usize>(m: [W; N]) -> [W; M] {
    const { assert!((N == 4 && M == 2) || (N == 6 && M == 4)) };
    // SAFETY: by the caller's word.
    unsafe {
        let mut y = [W::zero(); M];
        let times = |factor: f32, x: W, plus: W| W::multiply_add(W::splat(factor), x, plus);
        if N == 4 {
            y[0] = W::add(W::add(m[0], m[1]), m[2]);
            y[1] = times(-1.0, m[3], times(-1.0, m[2], m[1]));
        } else {
            let (a, b) = (W::add(m[1], m[2]), times(-1.0, m[2], m[1]));
            let (c, d) = (W::add(m[3], m[4]), times(-1.0, m[4], m[3]));
            y[0] = W::add(W::add(m[0], a), c);
            y[1] = times(2.0, d, b);
            y[2] = times(4.0, c, a);
            y[3] = W::add(times(8.0, d, b), m[5]);
        }
        y
    }
}

/// # Safety
/// As [`Transforms::input`], and the machine has the instructions of `W`.
#[inline(always)]
unsafe fn input_of<W: Vector, const N: usize>(tile: &InputTile) {
    // SAFETY: pixels and positions for the channels, by the caller's word.
    unsafe {
        for c in (0..tile.channels).step_by(W::LANES) {
            let count = (tile.channels - c).min(W::LANES);
            let mut columns = [[W::zero(); N]; N];
            for (j, column) in columns.iter_mut().enumerate() {
                for (i, x) in column.iter_mut().enumerate() {
                    *x = W::load_first(tile.pixels.get_unchecked(i * N + j).add(c), count);
                }
                *column = in_row::<W, N>(*column);
            }
            for i in 0..N {
                let mut row = [W::zero(); N];
                for j in 0..N {
                    row[j] = columns[j][i];
                }
                let row = in_row::<W, N>(row);
                for (j, v) in row.into_iter().enumerate() {
                    v.store_first(tile.v.add((i * N + j) * tile.stride + c), W::LANES);
                }
            }
        }
    }
}

/// # Safety
/// As [`Transforms::output`], and the machine has the instructions of `W`.
#[inline(always)]
unsafe fn output_of<W: Vector, const N: usize, const M: usize, const POOL: bool>(
    tile: &OutputTile,
) {
    // SAFETY: positions, bias and places for the filters, by the caller's word.
    unsafe {
        for k in (0..tile.filters).step_by(W::LANES) {
            let count = (tile.filters - k).min(W::LANES);
            let bias = W::load(tile.bias.add(k));
            let mut columns = [[W::zero(); M]; N];
            for (j, column) in columns.iter_mut().enumerate() {
                let mut m = [W::zero(); N];
                for (i, m) in m.iter_mut().enumerate() {
                    *m = W::load(tile.m.add((i * N + j) * tile.stride + k));
                }
                *column = out_row::<W, N, M>(m);
            }
            let mut above = [W::zero(); M];
            for i in 0..M {
                let mut row = [W::zero(); N];
                for j in 0..N {
                    row[j] = columns[j][i];
                }
                let mut row = out_row::<W, N, M>(row).map(|y| W::add(y, bias));
                if POOL {
                    if i % 2 == 0 {
                        above = row;
                        continue;
                    }
                    for j in 0..M / 2 {
                        let pair = |row: &[W; M]| W::max(row[2 * j], row[2 * j + 1]);
                        row[j] = W::max(pair(&above), pair(&row));
                    }
                }
                let (first, wide) = if POOL { (i / 2 * (M / 2), M / 2) } else { (i * M, M) };
                for (j, mut y) in row.into_iter().take(wide).enumerate() {
                    let Some(place) = *tile.places.get_unchecked(first + j) else { continue };
                    if let Some(residual) = tile.residual {
                        y = W::add(y, W::load_first(residual.add(place + k), count));
                    }
                    if tile.finish.relu {
                        y = W::larger(W::zero(), y);
                    }
                    y.store_first(tile.y.add(place + k), count);
                }
            }
        }
    }
}
