//! The loops that run over filters' kept weights while a tile of sums stays in registers.

use crate::cpu::kernel::{InstructionSet, Vector};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64;
use std::ops::Range;
use std::sync::OnceLock;

/// One kept weight.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Term {
    pub(super) weight: f32,
    /// Floats from the tile's place in the input to what the weight multiplies.
    pub(super) offset: u32,
}

/// One tile of some filters: `out[i, j] = max(floor, bias + Σ weight · input[offset + i · row + j · column]
/// + residual[i, j])` for each, or the maxima of 2×2 of these.
pub(super) struct Tile<'a> {
    /// [`Isa::flat`]: of each list of a filter, the lanes whose pixel its taps reach in each vector of a period.
    pub(super) masks: &'a [u32],
    /// Of the whole layer.
    pub(super) terms: &'a [Term],
    /// List `i` is `terms[starts[i]..starts[i + 1]]`; every filter has as many.
    pub(super) starts: &'a [u32],
    pub(super) filters: Range<usize>,
    /// Of all filters.
    pub(super) bias: &'a [f32],
    /// 0 for ReLU, −∞ for none.
    pub(super) floor: f32,
    pub(super) pool: bool,
    pub(super) input: *const f32,
    pub(super) row: usize,
    /// Not used where columns lie side by side.
    pub(super) column: usize,
    /// Null for none; rows and columns lie as in `out`.
    pub(super) residual: *const f32,
    pub(super) out: *mut f32,
    pub(super) out_row: usize,
    pub(super) out_column: usize,
    /// Distances of the filters.
    pub(super) out_channel: usize,
    pub(super) residual_channel: usize,
    pub(super) slice: Slice,
}

/// Which channels the lists are of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Slice {
    /// All.
    All,
    /// Some. Between slices sums are kept.
    First(Sums),
    Middle(Sums),
    Last(Sums),
}

/// Where the sums of a filter, a tile of them, are kept: `start + filter · channel`, though not of every filter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    pub(super) start: *mut f32,
    pub(super) channel: usize,
}

impl Sums {
    fn of(self, filter: usize) -> *mut f32 {
        self.start.wrapping_add(filter * self.channel)
    }
}

impl Slice {
    /// One of so many.
    pub(super) fn of(slice: usize, slices: usize, sums: Sums) -> Self {
        match slice {
            _ if slices == 1 => Self::All,
            0 => Self::First(sums),
            _ if slice + 1 < slices => Self::Middle(sums),
            _ => Self::Last(sums),
        }
    }
}

/// Where a plane goes: copy `i` of it starts at `out + i · (copy − 1)`, one column further left than the one before.
pub(super) struct Spread<'a> {
    /// Whole vectors.
    pub(super) plane: &'a [f32],
    pub(super) out: *mut f32,
    pub(super) copy: usize,
    pub(super) copies: usize,
    /// Lanes to store of each vector and copy.
    pub(super) masks: &'a [u32],
}

type Run = unsafe fn(&Tile);

/// Floats between the terms that are multiplied and those that are asked for.
const AHEAD: usize = 512;
/// The same for a tap's list, of which some lines are asked for: 512 → 512 filters at 2 × 2 pixels took 195 µs without
/// and 155 with, 5 % of the weights, 16 images.
const AHEAD_OF_TAP: usize = 256;
const LINES_OF_TAP: usize = 4;

/// Lengths of a period that [`Isa::flat`] takes.
pub(super) const PERIODS: [usize; 3] = [1, 2, 4];

/// Exponents of tile edges: 1, 2, 4.
const EDGES: usize = 3;

/// How the columns of a tile lie in the input.
#[derive(Debug, Clone, Copy)]
pub(super) enum Columns {
    /// [`Tile::column`] apart.
    Any,
    /// Side by side, each `2^.0` vectors: that many image blocks in one tile.
    Blocks(usize),
}

/// The loops for one instruction set.
pub(crate) struct Isa {
    lanes: usize,
    /// Most vectors of a tile.
    most: usize,
    tiles: [[[Run; 1 + EDGES]; EDGES]; EDGES],
    /// 3×3 over a whole plane: 4×4 of one block, 2×2 of 1, 2 and 4 blocks.
    exact: [Run; 1 + EDGES],
    /// By period and `i`: `2^i` vectors side by side, whole periods.
    flat: [[Run; 5]; PERIODS.len()],
    /// As `flat`, where every lane counts.
    whole: [Run; 5],
    /// 8 pixels or fewer.
    narrow: Run,
    spread: unsafe fn(&Spread),
}

impl Isa {
    /// The best that this machine has; chosen once.
    pub(crate) fn detect() -> &'static Self {
        static BEST: OnceLock<&Isa> = OnceLock::new();
        BEST.get_or_init(|| Self::available().remove(0))
    }

    /// All that this machine can run, the best first.
    pub(crate) fn available() -> Vec<&'static Self> {
        let tiles = |set| match set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => &AVX512,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => &AVX2,
            InstructionSet::Portable => &PORTABLE,
        };
        InstructionSet::available().into_iter().map(tiles).collect()
    }

    /// Floats of a vector.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes
    }

    /// Most vectors of a tile.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// A tile of `2^rows` × `2^columns` pixels.
    ///
    /// # Safety
    /// What [`Tile`] names lies in the caller's buffers, and nobody else writes to it.
    pub(super) unsafe fn tile(&self, [rows, columns]: [usize; 2], kind: Columns, tile: &Tile) {
        let kind = match kind {
            Columns::Any => 0,
            Columns::Blocks(blocks) => 1 + blocks,
        };
        // SAFETY: the machine has the instructions (`available`); memory by the caller's word.
        unsafe { self.tiles[rows][columns][kind](tile) }
    }

    /// A whole plane of `edge` × `edge` pixels, 4 or 2, of `2^blocks` image blocks and without zeros around it; the
    /// starts are those of nine lists, one a tap.
    ///
    /// # Safety
    /// As [`Self::tile`].
    pub(super) unsafe fn exact(&self, edge: usize, blocks: usize, tile: &Tile) {
        assert!(tile.starts.len() == 9 * tile.filters.len() + 1);
        assert!(edge == 2 || (edge, blocks) == (4, 0));
        assert!(matches!(tile.slice, Slice::All));
        // SAFETY: as in `tile`.
        unsafe { self.exact[if edge == 4 { 0 } else { 1 + blocks }](tile) }
    }

    /// `2^vectors` vectors side by side, of which only `pixels` are wanted; they start with a period and are whole ones.
    ///
    /// # Safety
    /// As [`Self::tile`].
    pub(super) unsafe fn flat(&self, vectors: usize, pixels: usize, tile: &Tile) {
        let lists = (tile.starts.len() - 1) / tile.filters.len();
        let period = tile.masks.len() / lists;
        assert!(tile.masks.is_empty() && lists == 1 || tile.masks.len() == lists * period);
        let run = match PERIODS.iter().position(|&known| known == period) {
            None => self.whole[vectors],
            Some(0) if pixels <= 8 => self.narrow,
            Some(i) => {
                assert!((1usize << vectors).is_multiple_of(period));
                self.flat[i][vectors]
            }
        };
        // SAFETY: as in `tile`.
        unsafe { run(tile) }
    }

    /// Writes the shifted copies of a plane.
    ///
    /// # Safety
    /// All lanes of the masks lie in the caller's buffer, and nobody else writes to it.
    pub(super) unsafe fn spread(&self, spread: &Spread) {
        assert!(spread.masks.len() * self.lanes == spread.plane.len() * spread.copies);
        // SAFETY: as in `tile`.
        unsafe { (self.spread)(spread) }
    }
}

macro_rules! isa {
    ($isa:ident, $name:ident, $vector:ty, $narrow:ty, $most:expr $(, #[$feature:meta])?) => {
        mod $name {
            use super::*;
            $(#[$feature])?
            unsafe fn tile<const R: usize, const C: usize, const B: usize, const NEAR: bool>(tile: &Tile) {
                // SAFETY: by the caller's word.
                unsafe { tile_body::<$vector, R, C, B, NEAR>(tile) }
            }
            $(#[$feature])?
            unsafe fn exact<const T: usize, const B: usize>(tile: &Tile) {
                // SAFETY: by the caller's word.
                unsafe { exact_body::<$vector, T, B>(tile) }
            }
            $(#[$feature])?
            unsafe fn flat<const C: usize, const CHAINS: usize, const PERIOD: usize>(tile: &Tile) {
                // SAFETY: by the caller's word.
                unsafe { flat_body::<$vector, C, CHAINS, PERIOD>(tile) }
            }
            const fn flats<const PERIOD: usize>() -> [Run; 5] {
                [flat::<1, 4, PERIOD>, flat::<2, 4, PERIOD>, flat::<4, 2, PERIOD>, flat::<8, 1, PERIOD>, flat::<16, 1, PERIOD>]
            }
            $(#[$feature])?
            unsafe fn whole<const C: usize, const CHAINS: usize>(tile: &Tile) {
                // SAFETY: by the caller's word.
                unsafe { flat_body::<$vector, C, CHAINS, 0>(tile) }
            }
            // A vector twice as wide would straddle two cache lines more often than not.
            $(#[$feature])?
            unsafe fn narrow(tile: &Tile) {
                // SAFETY: by the caller's word.
                unsafe { flat_body::<$narrow, 1, 4, 1>(tile) }
            }
            $(#[$feature])?
            unsafe fn spread(spread: &Spread) {
                // SAFETY: by the caller's word.
                unsafe { spread_body::<$vector>(spread) }
            }
            // Tiles of more than 16 vectors are never asked for; a smaller one stands in their place.
            const fn large<const R: usize, const C: usize>() -> [Run; 1 + EDGES] {
                [tile::<R, C, 1, false>, tile::<R, C, 1, true>, tile::<R, 1, 2, true>, tile::<R, 1, 4, true>]
            }
            const fn middle<const R: usize, const C: usize>() -> [Run; 1 + EDGES] {
                [tile::<R, C, 1, false>, tile::<R, C, 1, true>, tile::<R, C, 2, true>, tile::<R, 1, 4, true>]
            }
            const fn small<const R: usize, const C: usize>() -> [Run; 1 + EDGES] {
                [tile::<R, C, 1, false>, tile::<R, C, 1, true>, tile::<R, C, 2, true>, tile::<R, C, 4, true>]
            }
            pub(super) static ISA: Isa = Isa {
                lanes: <$vector>::LANES,
                most: $most,
                tiles: [
                    [small::<1, 1>(), small::<1, 2>(), small::<1, 4>()],
                    [small::<2, 1>(), small::<2, 2>(), middle::<2, 4>()],
                    [small::<4, 1>(), middle::<4, 2>(), large::<4, 4>()],
                ],
                exact: [exact::<4, 1>, exact::<2, 1>, exact::<2, 2>, exact::<2, 4>],
                flat: [flats::<1>(), flats::<2>(), flats::<4>()],
                whole: [
                    whole::<1, 4>,
                    whole::<2, 4>,
                    whole::<4, 2>,
                    whole::<8, 1>,
                    whole::<16, 1>,
                ],
                narrow,
                spread,
            };
        }
        use $name::ISA as $isa;
    };
}

// Sums, one broadcast and, where a product takes no memory operand, one input fill the registers.
#[cfg(target_arch = "x86_64")]
isa!(AVX512, avx512, x86_64::__m512, x86_64::__m256, 16, #[target_feature(enable = "avx512f")]);
#[cfg(target_arch = "x86_64")]
isa!(AVX2, avx2, x86_64::__m256, x86_64::__m256, 8, #[target_feature(enable = "avx2,fma")]);
isa!(PORTABLE, portable, [f32; 8], [f32; 8], 4);

/// Residual, ReLU, 2×2 maximum and store of `R` × `C` pixels of `B` blocks.
///
/// # Safety
/// As [`Isa::tile`], and the machine has the instructions of `V`.
#[inline(always)]
unsafe fn finish<V: Vector, const R: usize, const C: usize, const B: usize>(
    tile: &Tile,
    filter: usize,
    mut sums: [[[V; B]; C]; R],
) {
    let place =
        |i: usize, j: usize, b: usize| i * tile.out_row + j * tile.out_column + b * V::LANES;
    let out = tile.out.wrapping_add(filter * tile.out_channel);
    // SAFETY: addresses lie in `residual` and `out` by the caller's word.
    unsafe {
        if !tile.residual.is_null() {
            let residual = tile.residual.wrapping_add(filter * tile.residual_channel);
            for i in 0..R {
                for j in 0..C {
                    for b in 0..B {
                        let residual = V::load(residual.add(place(i, j, b)));
                        sums[i][j][b] = V::add(sums[i][j][b], residual);
                    }
                }
            }
        }
        let floor = V::splat(tile.floor);
        if tile.pool {
            for i in 0..R / 2 {
                for j in 0..C / 2 {
                    for b in 0..B {
                        let above = V::max(sums[2 * i][2 * j][b], sums[2 * i][2 * j + 1][b]);
                        let below =
                            V::max(sums[2 * i + 1][2 * j][b], sums[2 * i + 1][2 * j + 1][b]);
                        let most = V::larger(floor, V::max(above, below));
                        most.store_first(out.add(place(i, j, b)), V::LANES);
                    }
                }
            }
        } else {
            for i in 0..R {
                for j in 0..C {
                    for b in 0..B {
                        let value = V::larger(floor, sums[i][j][b]);
                        value.store_first(out.add(place(i, j, b)), V::LANES);
                    }
                }
            }
        }
    }
}

/// `NEAR`: columns lie side by side.
///
/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn tile_body<V: Vector, const R: usize, const C: usize, const B: usize, const NEAR: bool>(
    tile: &Tile,
) {
    let column = if NEAR { B * V::LANES } else { tile.column };
    // SAFETY: addresses lie in `input` by the caller's word.
    unsafe {
        for (place, filter) in tile.filters.clone().enumerate() {
            let mut sums = [[[V::splat(bias(tile, filter)); B]; C]; R];
            if let Slice::Middle(from) | Slice::Last(from) = tile.slice {
                let from = from.of(filter);
                for (i, sum) in sums.as_flattened_mut().as_flattened_mut().iter_mut().enumerate() {
                    *sum = V::load(from.add(i * V::LANES));
                }
            }
            for term in list(tile, place) {
                let weight = V::splat(term.weight);
                let input = tile.input.add(term.offset as usize);
                for i in 0..R {
                    for j in 0..C {
                        for b in 0..B {
                            let x = V::load(input.add(i * tile.row + j * column + b * V::LANES));
                            sums[i][j][b] = V::multiply_add(weight, x, sums[i][j][b]);
                        }
                    }
                }
            }
            if let Slice::First(to) | Slice::Middle(to) = tile.slice {
                let to = to.of(filter);
                for (i, sum) in sums.as_flattened().as_flattened().iter().enumerate() {
                    sum.store_first(to.add(i * V::LANES), V::LANES);
                }
            } else {
                finish::<V, R, C, B>(tile, filter, sums);
            }
        }
    }
}

/// # Safety
/// The bias holds one for each filter.
#[inline(always)]
unsafe fn bias(tile: &Tile, filter: usize) -> f32 {
    // SAFETY: by the caller's word.
    unsafe { *tile.bias.get_unchecked(filter) }
}

/// # Safety
/// `starts` has entries `i` and `i + 1`, ascending and within `terms`.
#[inline(always)]
unsafe fn list<'a>(tile: &Tile<'a>, i: usize) -> &'a [Term] {
    // SAFETY: by the caller's word.
    unsafe {
        let (start, end) = (*tile.starts.get_unchecked(i), *tile.starts.get_unchecked(i + 1));
        tile.terms.get_unchecked(start as usize..end as usize)
    }
}

/// Products with the zeros around a small plane are a third to a half of all: here each tap has a list and meets
/// only the pixels that it reaches.
///
/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn exact_body<V: Vector, const T: usize, const B: usize>(tile: &Tile) {
    // SAFETY: by the caller's word.
    unsafe {
        for (place, filter) in tile.filters.clone().enumerate() {
            let mut sums = [[[V::splat(bias(tile, filter)); B]; T]; T];
            tap::<V, T, B, 0, 0>(tile, place, &mut sums);
            tap::<V, T, B, 0, 1>(tile, place, &mut sums);
            tap::<V, T, B, 0, 2>(tile, place, &mut sums);
            tap::<V, T, B, 1, 0>(tile, place, &mut sums);
            tap::<V, T, B, 1, 1>(tile, place, &mut sums);
            tap::<V, T, B, 1, 2>(tile, place, &mut sums);
            tap::<V, T, B, 2, 0>(tile, place, &mut sums);
            tap::<V, T, B, 2, 1>(tile, place, &mut sums);
            tap::<V, T, B, 2, 2>(tile, place, &mut sums);
            finish::<V, T, T, B>(tile, filter, sums);
        }
    }
}

/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn tap<V: Vector, const T: usize, const B: usize, const DR: usize, const DS: usize>(
    tile: &Tile,
    place: usize,
    sums: &mut [[[V; B]; T]; T],
) {
    // SAFETY: the pixels read are those of the plane, which lies in `input` by the caller's word.
    unsafe {
        let terms = list(tile, place * 9 + DR * 3 + DS);
        for line in 0..LINES_OF_TAP {
            let ahead = AHEAD_OF_TAP + line * (64 / size_of::<f32>());
            V::prefetch(terms.as_ptr().cast::<f32>().wrapping_add(ahead));
        }
        for term in terms {
            let weight = V::splat(term.weight);
            let input = tile.input.add(term.offset as usize);
            for i in 0..T {
                for j in 0..T {
                    let (y, x) = (i + DR, j + DS);
                    if y >= 1 && y <= T && x >= 1 && x <= T {
                        for b in 0..B {
                            let at = (((y - 1) * T + x - 1) * B + b) * V::LANES;
                            sums[i][j][b] =
                                V::multiply_add(weight, V::load(input.add(at)), sums[i][j][b]);
                        }
                    }
                }
            }
        }
    }
}

/// `CHAINS` sums in turn for each vector: one alone would wait for itself. Without a period every lane counts; with one, lanes are
/// masked where a product is added, or, of few vectors, where the sum of a list is.
///
/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn flat_body<V: Vector, const C: usize, const CHAINS: usize, const PERIOD: usize>(
    tile: &Tile,
) {
    // SAFETY: addresses lie in `input` by the caller's word.
    unsafe {
        let late = masked_late(C, PERIOD);
        let lists = (tile.starts.len() - 1) / tile.filters.len();
        for (place, filter) in tile.filters.clone().enumerate() {
            let mut sums = [[V::zero(); C]; CHAINS];
            let mut total = [V::splat(bias(tile, filter)); C];
            if let Slice::Middle(from) | Slice::Last(from) = tile.slice {
                let from = from.of(filter);
                for (i, sum) in total.iter_mut().enumerate() {
                    *sum = V::load(from.add(i * V::LANES));
                }
            }
            for i in 0..lists {
                let mut masks = [0; 4];
                masks[..PERIOD].copy_from_slice(&tile.masks[i * PERIOD..(i + 1) * PERIOD]);
                let (whole, rest) = list(tile, place * lists + i).as_chunks::<CHAINS>();
                for terms in whole {
                    V::prefetch(terms.as_ptr().cast::<f32>().wrapping_add(AHEAD));
                    for chain in 0..CHAINS {
                        flat_step::<V, C, PERIOD>(tile, &terms[chain], &masks, &mut sums[chain]);
                    }
                }
                for term in rest {
                    flat_step::<V, C, PERIOD>(tile, term, &masks, &mut sums[0]);
                }
                if late {
                    for chain in 0..CHAINS {
                        for j in 0..C {
                            let (own, mask) = (sums[chain][j], masks[j % PERIOD.max(1)]);
                            total[j] = V::multiply_add_masked(V::splat(1.0), own, total[j], mask);
                            sums[chain][j] = V::zero();
                        }
                    }
                }
            }
            if !late {
                for chain in 0..CHAINS {
                    for j in 0..C {
                        total[j] = V::add(total[j], sums[chain][j]);
                    }
                }
            }
            if let Slice::First(to) | Slice::Middle(to) = tile.slice {
                let to = to.of(filter);
                for (i, sum) in total.iter().enumerate() {
                    sum.store_first(to.add(i * V::LANES), V::LANES);
                }
            } else {
                finish::<V, 1, C, 1>(tile, filter, [total.map(|sum| [sum])]);
            }
        }
    }
}

/// Of few vectors there are registers for sums of a list and sums of all.
const fn masked_late(vectors: usize, period: usize) -> bool {
    period > 0 && vectors <= 2
}

/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn flat_step<V: Vector, const C: usize, const PERIOD: usize>(
    tile: &Tile,
    term: &Term,
    masks: &[u32; 4],
    sums: &mut [V; C],
) {
    // SAFETY: addresses lie in `input` by the caller's word.
    unsafe {
        let weight = V::splat(term.weight);
        let input = tile.input.add(term.offset as usize);
        for j in 0..C {
            let x = V::load(input.add(j * V::LANES));
            sums[j] = match PERIOD > 0 && !masked_late(C, PERIOD) {
                true => V::multiply_add_masked(weight, x, sums[j], masks[j % PERIOD.max(1)]),
                false => V::multiply_add(weight, x, sums[j]),
            };
        }
    }
}

/// # Safety
/// As [`Isa::spread`], and the machine has the instructions of `V`.
#[inline(always)]
unsafe fn spread_body<V: Vector>(spread: &Spread) {
    for (v, plane) in spread.plane.chunks_exact(V::LANES).enumerate() {
        // SAFETY: `plane` is a vector; stores by the caller's word, the address itself may lie outside.
        unsafe {
            let value = V::load(plane.as_ptr());
            for i in 0..spread.copies {
                let out = spread.out.wrapping_add(i * spread.copy + v * V::LANES).wrapping_sub(i);
                value.store_masked(out, *spread.masks.get_unchecked(v * spread.copies + i));
            }
        }
    }
}
