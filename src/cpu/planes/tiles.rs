//! The loops over kept weights by instruction set.

use super::loops;
use super::spread::{self, Spread};
use super::tile::{ChannelSlice, Columns, ListTile, PERIODS};
use crate::cpu::isa::{InstructionSet, Isa};
use crate::cpu::vector::Vector;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

type Run = unsafe fn(&ListTile);

/// How many exponents of tile edges there are: 1, 2 and 4 pixels.
const EDGES: usize = 3;
/// The same of vectors side by side: 1 to 16.
const ROWS: usize = 5;

/// The tiles for one instruction set.
pub(super) struct ListTiles {
    lanes: usize,
    /// Exponent of the most vectors of a tile.
    most: usize,
    /// By exponents of rows and columns, and by [`Columns`].
    squares: [[[Run; 1 + EDGES]; EDGES]; EDGES],
    /// 3×3 over a whole plane: 4×4 of one block, 2×2 of 1, 2 and 4 blocks.
    exact: [Run; 1 + EDGES],
    /// By period and `i`: `2^i` vectors side by side, whole periods.
    flat: [[Run; ROWS]; PERIODS.len()],
    /// As `flat`, where every lane counts.
    whole: [Run; ROWS],
    /// 8 pixels or fewer.
    narrow: Run,
    spread: unsafe fn(&Spread),
}

/// Exponent of the most columns of a tile of `2^most` vectors: square tiles share the most of what they read.
pub(super) const fn widest(most: usize) -> usize {
    most.div_ceil(2)
}

/// Exponent of the most image blocks of a tile, of 2 × 2 pixels then.
pub(super) const fn most_blocks(most: usize) -> usize {
    most - 2
}

/// Exponents of a tile's rows, columns and blocks where there is such a tile; those of a smaller one that stands in its place
/// where it is never asked for.
const fn square_of(most: usize, [rows, columns, blocks]: [usize; 3]) -> [usize; 3] {
    let blocks = min(blocks, most_blocks(most));
    let columns = min(columns, widest(most - blocks));
    [min(rows, most - blocks - columns), columns, blocks]
}

/// Exponent of some vectors side by side, likewise, which are whole periods of `2^period`.
const fn flat_of(most: usize, vectors: usize, period: usize) -> usize {
    let vectors = min(vectors, most);
    if vectors < period { period } else { vectors }
}

/// Sums in turn for each of `2^vectors` vectors.
const fn chains(vectors: usize) -> usize {
    [4, 4, 2, 1, 1][vectors]
}

const fn min(a: usize, b: usize) -> usize {
    if a < b { a } else { b }
}

impl ListTiles {
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

    /// Exponent of the most vectors of a tile.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Whether there is a tile of these exponents of rows, columns and blocks.
    pub(super) fn has(&self, exponents: [usize; 3]) -> bool {
        square_of(self.most, exponents) == exponents
    }

    /// A tile of `2^rows` × `2^columns` pixels.
    ///
    /// # Safety
    /// No other task touches the results of the tile and its kept sums.
    pub(super) unsafe fn square(
        &self,
        [rows, columns]: [usize; 2],
        kind: Columns,
        tile: &ListTile,
    ) {
        let (kind, blocks) = match kind {
            Columns::Any => (0, 0),
            Columns::Blocks(blocks) => (1 + blocks, blocks),
        };
        assert!(self.has([rows, columns, blocks]) && tile.lists.each() == 1);
        let width = self.lanes << blocks;
        tile.check([1 << rows, 1 << columns], width, if kind == 0 { tile.column } else { width });
        // SAFETY: the machine has the instructions (as there is an `Isa`); the tile was checked.
        unsafe { self.squares[rows][columns][kind](tile) }
    }

    /// A whole plane of `edge` × `edge` pixels, 4 or 2, of `2^blocks` image blocks and without zeros around it; each filter has
    /// nine lists, one a tap.
    ///
    /// # Safety
    /// As [`Self::square`].
    pub(super) unsafe fn exact(&self, edge: usize, blocks: usize, tile: &ListTile) {
        assert!(tile.lists.each() == 9 && matches!(tile.slice, ChannelSlice::All));
        assert!(
            edge == 2 && blocks <= most_blocks(self.most) || (edge, blocks, self.most) == (4, 0, 4)
        );
        let width = self.lanes << blocks;
        assert!(tile.row == edge * width);
        tile.check([edge; 2], width, width);
        // SAFETY: as in `square`.
        unsafe { self.exact[if edge == 4 { 0 } else { 1 + blocks }](tile) }
    }

    /// `2^vectors` vectors side by side, of which only `pixels` are wanted; they start with a period and are whole ones.
    ///
    /// # Safety
    /// As [`Self::square`].
    pub(super) unsafe fn flat(&self, vectors: usize, pixels: usize, tile: &ListTile) {
        let lists = tile.lists.each();
        let period = tile.masks.len() / lists;
        assert!(tile.masks.is_empty() && lists == 1 || tile.masks.len() == lists * period);
        assert!(vectors <= self.most && !tile.pool);
        tile.check([1, 1 << vectors], self.lanes, self.lanes);
        let run = match PERIODS.iter().position(|&known| known == period) {
            None => {
                assert!(period == 0, "no loops for masks of period {period}");
                self.whole[vectors]
            }
            Some(0) if pixels <= 8 => self.narrow,
            Some(i) => {
                assert!((1usize << vectors).is_multiple_of(period));
                self.flat[i][vectors]
            }
        };
        // SAFETY: as in `square`.
        unsafe { run(tile) }
    }

    /// Writes the shifted copies of a plane.
    ///
    /// # Safety
    /// No other task touches the lanes of the masks.
    pub(super) unsafe fn spread(&self, spread: &Spread) {
        let &Spread { plane, out, copy, copies, masks } = spread;
        assert!(masks.len() * self.lanes == plane.len() * copies);
        // Copy `i` starts at `out[i · (copy − 1)]`.
        let last = copies.checked_sub(1).expect("a plane has a copy");
        assert!(last == 0 || copy > 0);
        assert!(last * copy + plane.len() - last <= out.len(), "a copy lies beside its output");
        // SAFETY: as in `square`.
        unsafe { (self.spread)(spread) }
    }
}

macro_rules! tiles {
    ($name:ident, $vector:ty, $narrow:ty, $most:expr $(, #[$feature:meta])?) => {
        static $name: ListTiles = {
            const MOST: usize = $most;
            $(#[$feature])?
            unsafe fn square<const R: usize, const C: usize, const B: usize, const NEAR: bool>(tile: &ListTile) {
                // SAFETY: by the caller's word.
                unsafe { loops::square::<$vector, R, C, B, NEAR>(tile) }
            }
            $(#[$feature])?
            unsafe fn exact<const T: usize, const B: usize>(tile: &ListTile) {
                // SAFETY: by the caller's word.
                unsafe { loops::exact::<$vector, T, B>(tile) }
            }
            $(#[$feature])?
            unsafe fn flat<V: Vector, const C: usize, const CHAINS: usize, const PERIOD: usize>(tile: &ListTile) {
                // SAFETY: by the caller's word.
                unsafe { loops::flat::<V, C, CHAINS, PERIOD>(tile) }
            }
            $(#[$feature])?
            unsafe fn spread(spread: &Spread) {
                // SAFETY: by the caller's word.
                unsafe { spread::spread::<$vector>(spread) }
            }
            macro_rules! square {
                ($r:literal, $c:literal, $b:literal, $apart:literal) => {{
                    const SIZE: [usize; 3] = square_of(MOST, [$r, $c, $b]);
                    square::<
                        { 1 << SIZE[0] },
                        { 1 << SIZE[1] },
                        { 1 << SIZE[2] },
                        // One column of one block is the same either way.
                        { !$apart && SIZE[1] + SIZE[2] > 0 },
                    >
                }};
                ($r:literal, $c:literal) => {
                    [square!($r, $c, 0, true), square!($r, $c, 0, false), square!($r, $c, 1, false), square!($r, $c, 2, false)]
                };
                ($r:literal) => {
                    [square!($r, 0), square!($r, 1), square!($r, 2)]
                };
            }
            macro_rules! exact {
                ($b:literal) => {
                    exact::<2, { 1 << min($b, most_blocks(MOST)) }>
                };
            }
            macro_rules! flat {
                ($v:literal, $period:literal, $length:expr) => {{
                    const SIZE: usize = flat_of(MOST, $v, $period);
                    flat::<$vector, { 1 << SIZE }, { chains(SIZE) }, { $length }>
                }};
                ($period:literal, $length:expr) => {
                    [
                        flat!(0, $period, $length),
                        flat!(1, $period, $length),
                        flat!(2, $period, $length),
                        flat!(3, $period, $length),
                        flat!(4, $period, $length),
                    ]
                };
            }
            ListTiles {
                lanes: <$vector>::LANES,
                most: MOST,
                squares: [square!(0), square!(1), square!(2)],
                exact: [exact::<{ if MOST < 4 { 2 } else { 4 } }, 1>, exact!(0), exact!(1), exact!(2)],
                flat: [flat!(0, PERIODS[0]), flat!(1, PERIODS[1]), flat!(2, PERIODS[2])],
                whole: flat!(0, 0),
                // A vector twice as wide would straddle two cache lines more often than not.
                narrow: flat::<$narrow, 1, 4, 1>,
                spread,
            }
        };
    };
}

// Sums, one broadcast and, where a product takes no memory operand, one input fill the registers.
#[cfg(target_arch = "x86_64")]
tiles!(AVX512, __m512, __m256, 4, #[target_feature(enable = "avx512f")]);
#[cfg(target_arch = "x86_64")]
tiles!(AVX2, __m256, __m256, 3, #[target_feature(enable = "avx2,fma")]);
tiles!(PORTABLE, [f32; 8], [f32; 8], 2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::conv_shape::ConvShape;
    use crate::cpu::planes::lists::{KeptLists, ListOrder, Offsets};
    use crate::cpu::planes::tile::KeptSums;
    use crate::cpu::scratch::Shared;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Two filters of one weight each, which reads four floats behind its pixel, for two vectors of pixels: buffers that end
    /// where the tile does, and ones that are a float shorter.
    #[test]
    fn a_tile_stays_in_its_buffers() {
        let shape = ConvShape { n: 1, h: 1, w: 1, c: 1, k: 2, r: 1, s: 1, stride: 1, pad: 0 };
        let order = ListOrder { filters: 2, groups: 1, slices: 1, lists: 1, turns: false };
        let offsets = Offsets { taps: vec![4], channel: 0 };
        let lists = KeptLists::new(&shape, &[2.0, 0.5], 2, &offsets, order);
        for isa in Isa::available() {
            let (tiles, lanes) = (ListTiles::of(isa), isa.lanes());
            let run = |[read, written, added, kept]: [usize; 4], middle: bool| {
                let (input, residual) = (vec![3.0; read], vec![1.0; added]);
                let (mut out, mut sums) = (vec![0.0; written], vec![10.0; kept]);
                let sums = KeptSums { sums: Shared::new(&mut sums), channel: 2 * lanes };
                let tile = ListTile {
                    masks: &[],
                    lists: lists.of(0, 0),
                    bias: &[0.25, 0.0],
                    floor: 0.0,
                    pool: false,
                    input: &input,
                    row: 0,
                    column: 0,
                    residual: Some(&residual),
                    out: Shared::new(&mut out),
                    out_row: 0,
                    out_column: lanes,
                    out_channel: 2 * lanes,
                    residual_channel: 2 * lanes,
                    slice: if middle { ChannelSlice::Last(sums) } else { ChannelSlice::All },
                };
                // SAFETY: nobody else has these buffers.
                let run = || unsafe { tiles.flat(1, 2 * lanes, &tile) };
                catch_unwind(AssertUnwindSafe(run)).is_ok().then_some(out)
            };
            let whole = [4 + 2 * lanes, 4 * lanes, 4 * lanes, 4 * lanes];
            let want = |first: f32, second: f32| {
                Some([vec![first; 2 * lanes], vec![second; 2 * lanes]].concat())
            };
            assert_eq!(run(whole, false), want(7.25, 2.5));
            assert_eq!(run(whole, true), want(17.0, 12.5));
            for short in 0..whole.len() {
                let mut lens = whole;
                lens[short] -= 1;
                assert_eq!(run(lens, true), None, "buffer {short}, {lanes} lanes");
            }
        }
    }
}
