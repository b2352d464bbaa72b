//! The loops that run over filters' kept weights while a tile of sums stays in registers.

use super::tile::{ChannelSlice, ListTile};
use crate::cpu::term::Term;
use crate::cpu::vector::Vector;

/// Floats between the terms that are multiplied and those that are asked for.
const AHEAD: usize = 512;
/// The same for a tap's list, of which some lines are asked for: 512 → 512 filters at 2 × 2 pixels took 195 µs without
/// and 155 with, 5 % of the weights, 16 images.
const AHEAD_OF_TAP: usize = 256;
const LINES_OF_TAP: usize = 4;

/// Residual, ReLU, 2×2 maximum and store of `R` × `C` pixels of `B` blocks.
///
/// # Safety
/// As [`super::tiles::ListTiles::square`], which has checked the tile; `filter` is one of the tile's, counted from its first; the
/// machine has the instructions of `V`.
#[inline(always)]
unsafe fn finish<V: Vector, const R: usize, const C: usize, const B: usize>(
    tile: &ListTile,
    filter: usize,
    mut sums: [[[V; B]; C]; R],
) {
    let place =
        |i: usize, j: usize, b: usize| i * tile.out_row + j * tile.out_column + b * V::LANES;
    // SAFETY: `ListTile::check` has found these pixels of every filter in `residual` and `out`.
    unsafe {
        let out = tile.out.ptr().add(filter * tile.out_channel);
        if let Some(residual) = tile.residual {
            let residual = residual.as_ptr().add(filter * tile.residual_channel);
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

/// `R` × `C` pixels of `B` blocks. `NEAR`: columns lie side by side.
///
/// # Safety
/// As [`finish`].
#[inline(always)]
pub(super) unsafe fn square<
    V: Vector,
    const R: usize,
    const C: usize,
    const B: usize,
    const NEAR: bool,
>(
    tile: &ListTile,
) {
    let column = if NEAR { B * V::LANES } else { tile.column };
    // SAFETY: `ListTile::check` has found what the furthest weight reads in `input`, and the sums in memory; lists are those of
    // the tile's filters.
    unsafe {
        for filter in 0..tile.lists.filters() {
            let mut sums = [[[V::splat(bias(tile, filter)); B]; C]; R];
            if let ChannelSlice::Middle(from) | ChannelSlice::Last(from) = tile.slice {
                let from = from.of(filter);
                for (i, sum) in sums.as_flattened_mut().as_flattened_mut().iter_mut().enumerate() {
                    *sum = V::load(from.add(i * V::LANES));
                }
            }
            for term in tile.lists.list(filter) {
                let weight = V::splat(term.weight);
                let input = tile.input.as_ptr().add(term.offset as usize);
                for i in 0..R {
                    for j in 0..C {
                        for b in 0..B {
                            let x = V::load(input.add(i * tile.row + j * column + b * V::LANES));
                            sums[i][j][b] = V::multiply_add(weight, x, sums[i][j][b]);
                        }
                    }
                }
            }
            if let ChannelSlice::First(to) | ChannelSlice::Middle(to) = tile.slice {
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

/// The bias of a filter.
///
/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn bias(tile: &ListTile, filter: usize) -> f32 {
    // SAFETY: there is one for each filter (`ListTile::check`).
    unsafe { *tile.bias.get_unchecked(filter) }
}

/// A whole plane of `T` × `T` pixels of `B` blocks. Products with the zeros around a small plane are a third to a half of all:
/// here each tap has a list and meets only the pixels that it reaches.
///
/// # Safety
/// As [`finish`].
#[inline(always)]
pub(super) unsafe fn exact<V: Vector, const T: usize, const B: usize>(tile: &ListTile) {
    // SAFETY: by the caller's word.
    unsafe {
        for filter in 0..tile.lists.filters() {
            let mut sums = [[[V::splat(bias(tile, filter)); B]; T]; T];
            tap::<V, T, B, 0, 0>(tile, filter, &mut sums);
            tap::<V, T, B, 0, 1>(tile, filter, &mut sums);
            tap::<V, T, B, 0, 2>(tile, filter, &mut sums);
            tap::<V, T, B, 1, 0>(tile, filter, &mut sums);
            tap::<V, T, B, 1, 1>(tile, filter, &mut sums);
            tap::<V, T, B, 1, 2>(tile, filter, &mut sums);
            tap::<V, T, B, 2, 0>(tile, filter, &mut sums);
            tap::<V, T, B, 2, 1>(tile, filter, &mut sums);
            tap::<V, T, B, 2, 2>(tile, filter, &mut sums);
            finish::<V, T, T, B>(tile, filter, sums);
        }
    }
}

/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn tap<V: Vector, const T: usize, const B: usize, const DR: usize, const DS: usize>(
    tile: &ListTile,
    filter: usize,
    sums: &mut [[[V; B]; T]; T],
) {
    // SAFETY: the pixels read are those of the plane, which `ListTile::check` has found in `input` for every weight.
    unsafe {
        let terms = tile.lists.list(filter * 9 + DR * 3 + DS);
        for line in 0..LINES_OF_TAP {
            let ahead = AHEAD_OF_TAP + line * (64 / size_of::<f32>());
            V::prefetch(terms.as_ptr().cast::<f32>().wrapping_add(ahead));
        }
        for term in terms {
            let weight = V::splat(term.weight);
            let input = tile.input.as_ptr().add(term.offset as usize);
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

/// `C` vectors side by side, with `CHAINS` sums in turn for each: one alone would wait for itself. Without a period every lane
/// counts; with one, lanes are masked where a product is added, or, of few vectors, where the sum of a list is.
///
/// # Safety
/// As [`finish`].
#[inline(always)]
pub(super) unsafe fn flat<V: Vector, const C: usize, const CHAINS: usize, const PERIOD: usize>(
    tile: &ListTile,
) {
    // SAFETY: `ListTile::check` has found what the furthest weight reads in `input`, and the sums in memory; lists are those of
    // the tile's filters.
    unsafe {
        let late = masked_late(C, PERIOD);
        let lists = tile.lists.each();
        for filter in 0..tile.lists.filters() {
            let mut sums = [[V::zero(); C]; CHAINS];
            let mut total = [V::splat(bias(tile, filter)); C];
            if let ChannelSlice::Middle(from) | ChannelSlice::Last(from) = tile.slice {
                let from = from.of(filter);
                for (i, sum) in total.iter_mut().enumerate() {
                    *sum = V::load(from.add(i * V::LANES));
                }
            }
            for i in 0..lists {
                let mut masks = [0; 4];
                masks[..PERIOD].copy_from_slice(&tile.masks[i * PERIOD..(i + 1) * PERIOD]);
                let (whole, rest) = tile.lists.list(filter * lists + i).as_chunks::<CHAINS>();
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
            if let ChannelSlice::First(to) | ChannelSlice::Middle(to) = tile.slice {
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
    tile: &ListTile,
    term: &Term,
    masks: &[u32; 4],
    sums: &mut [V; C],
) {
    // SAFETY: `ListTile::check` has found what the furthest weight reads in `input`.
    unsafe {
        let weight = V::splat(term.weight);
        let input = tile.input.as_ptr().add(term.offset as usize);
        for j in 0..C {
            let x = V::load(input.add(j * V::LANES));
            sums[j] = match PERIOD > 0 && !masked_late(C, PERIOD) {
                true => V::multiply_add_masked(weight, x, sums[j], masks[j % PERIOD.max(1)]),
                false => V::multiply_add(weight, x, sums[j]),
            };
        }
    }
}
