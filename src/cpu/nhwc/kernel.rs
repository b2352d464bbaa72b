//! The register tile: some vectors of filters for some pixels, each read where it lies.

use crate::cpu::isa::{InstructionSet, Isa};
use crate::cpu::vector::Vector;

/// Most pixels of a tile: their addresses stay in registers.
pub(in crate::cpu) const PIXELS: usize = 8;
/// Floats between the weights that are multiplied and those that are asked for.
const AHEAD: usize = 1024;
/// Most vectors of filters.
pub(in crate::cpu) const VECTORS: usize = 4;

/// A filter tap of a tile: where its weights start, and what each pixel reads through it.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct NhwcTap {
    pub(in crate::cpu) w: usize,
    pub(in crate::cpu) x: [*const f32; PIXELS],
}

/// What a step asks for while it multiplies.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) enum Fetch {
    /// The weights that the tile itself comes to soon.
    Ahead,
    /// One vector a step of the weights from this place on, for the tiles that follow.
    Next(usize),
}

/// `y[places[p] + j] = relu?(bias[j] + Σ_{tap, c} w[tap.w + c · width + j] · tap.x[p][c] + residual?[places[p] + j])` for the
/// `width` filters j of whole vectors.
pub(in crate::cpu) struct NhwcTile<'a> {
    pub(in crate::cpu) taps: &'a [NhwcTap],
    pub(in crate::cpu) channels: usize,
    pub(in crate::cpu) w: *const f32,
    pub(in crate::cpu) fetch: Fetch,
    /// Whole vectors.
    pub(in crate::cpu) bias: *const f32,
    pub(in crate::cpu) residual: Option<*const f32>,
    pub(in crate::cpu) y: *mut f32,
    pub(in crate::cpu) places: &'a [usize],
    /// Vectors of filters.
    pub(in crate::cpu) vectors: usize,
    /// Filters to write: at least one of the last vector.
    pub(in crate::cpu) filters: usize,
    /// Sums start from what y holds, not from the bias.
    pub(in crate::cpu) resume: bool,
    pub(in crate::cpu) relu: bool,
}

type Run = unsafe fn(&NhwcTile);

/// The tiles for one instruction set.
pub(in crate::cpu) struct NhwcTiles {
    lanes: usize,
    /// Pixels of a tile, by vectors of filters less one; 0 where there is no such tile.
    pixels: [usize; VECTORS],
    runs: [[Run; PIXELS]; VECTORS],
}

impl NhwcTiles {
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

    /// Floats of a vector.
    pub(in crate::cpu) fn lanes(&self) -> usize {
        self.lanes
    }

    /// Most vectors of filters of a tile.
    pub(in crate::cpu) fn vectors(&self) -> usize {
        self.pixels.iter().filter(|&&pixels| pixels > 0).count()
    }

    /// Most pixels of a tile with so many vectors.
    pub(in crate::cpu) fn pixels(&self, vectors: usize) -> usize {
        self.pixels[vectors - 1]
    }

    /// Computes one tile.
    ///
    /// # Safety
    /// All elements named in [`NhwcTile`] lie in the caller's buffers, weights and bias for whole vectors, and nobody
    /// else touches the results.
    pub(in crate::cpu) unsafe fn tile(&self, tile: &NhwcTile) {
        assert!((1..=self.vectors()).contains(&tile.vectors));
        assert!((1..=self.pixels(tile.vectors)).contains(&tile.places.len()));
        assert!(tile.filters > (tile.vectors - 1) * self.lanes);
        // SAFETY: the machine has the instructions (as there is an `Isa`); memory by the caller's word.
        unsafe { self.runs[tile.vectors - 1][tile.places.len() - 1](tile) }
    }
}

/// Tiles that a set does not have are never asked for; a smaller one stands in their place.
const fn at_most(a: usize, b: usize) -> usize {
    if b == 0 {
        1
    } else if a < b {
        a
    } else {
        b
    }
}

/// Likewise for the vectors of a tile where there is none of any number of pixels.
const fn there(vectors: usize, most: usize) -> usize {
    if most == 0 { 1 } else { vectors }
}

macro_rules! tiles {
    ($name:ident, $vector:ty, $pixels:expr $(, #[$feature:meta])?) => {
        static $name: NhwcTiles = {
            const MOST: [usize; VECTORS] = $pixels;
            $(#[$feature])?
            unsafe fn run<const P: usize, const V: usize>(tile: &NhwcTile) {
                // SAFETY: by the caller's word.
                unsafe { body::<$vector, P, V>(tile) }
            }
            macro_rules! row {
                ($v:literal) => {
                    [
                        run::<{ at_most(1, MOST[$v - 1]) }, { there($v, MOST[$v - 1]) }>,
                        run::<{ at_most(2, MOST[$v - 1]) }, { there($v, MOST[$v - 1]) }>,
                        run::<{ at_most(3, MOST[$v - 1]) }, { there($v, MOST[$v - 1]) }>,
                        run::<{ at_most(4, MOST[$v - 1]) }, { there($v, MOST[$v - 1]) }>,
                        run::<{ at_most(5, MOST[$v - 1]) }, { there($v, MOST[$v - 1]) }>,
                        run::<{ at_most(6, MOST[$v - 1]) }, { there($v, MOST[$v - 1]) }>,
                        run::<{ at_most(7, MOST[$v - 1]) }, { there($v, MOST[$v - 1]) }>,
                        run::<{ at_most(8, MOST[$v - 1]) }, { there($v, MOST[$v - 1]) }>,
                    ]
                };
            }
            NhwcTiles {
                lanes: <$vector>::LANES,
                pixels: MOST,
                runs: [row!(1), row!(2), row!(3), row!(4)],
            }
        };
    };
}

// Sums, vectors of weights and a broadcast: at most 29 of 32 registers, and 15 of 16.
#[cfg(target_arch = "x86_64")]
tiles!(AVX512, std::arch::x86_64::__m512, [8, 8, 8, 6], #[target_feature(enable = "avx512f")]);
#[cfg(target_arch = "x86_64")]
tiles!(AVX2, std::arch::x86_64::__m256, [8, 6, 0, 0], #[target_feature(enable = "avx2,fma")]);
tiles!(PORTABLE, [f32; 8], [4, 2, 0, 0]);

/// # Safety
/// As [`NhwcTiles::tile`], and the machine has the instructions of `W`.
#[inline(always)]
unsafe fn body<W: Vector, const P: usize, const V: usize>(tile: &NhwcTile) {
    let counts: [usize; V] =
        std::array::from_fn(|j| tile.filters.saturating_sub(j * W::LANES).min(W::LANES));
    // SAFETY: all addresses are elements of the tile, by the caller's word, as every vector has a filter to write; `places`
    // holds P of them.
    unsafe {
        let mut sums = [[W::zero(); V]; P];
        for j in 0..V {
            let bias = W::load(tile.bias.add(j * W::LANES));
            sums.iter_mut().for_each(|sums| sums[j] = bias);
        }
        if tile.resume {
            for p in 0..P {
                let place = *tile.places.get_unchecked(p);
                for j in 0..V {
                    sums[p][j] = W::load_first(tile.y.add(place + j * W::LANES), counts[j]);
                }
            }
        }
        match tile.fetch {
            Fetch::Ahead => steps::<W, P, V, true>(tile, tile.w, &mut sums),
            Fetch::Next(place) => {
                steps::<W, P, V, false>(tile, tile.w.wrapping_add(place), &mut sums)
            }
        }
        for p in 0..P {
            let place = *tile.places.get_unchecked(p);
            for j in 0..V {
                let at = place + j * W::LANES;
                let mut sum = sums[p][j];
                if let Some(residual) = tile.residual {
                    sum = W::add(sum, W::load_first(residual.add(at), counts[j]));
                }
                if tile.relu {
                    sum = W::larger(W::zero(), sum);
                }
                sum.store_first(tile.y.add(at), counts[j]);
            }
        }
    }
}

/// Multiplies and adds. Each step asks for all vectors of weights some steps ahead, or for one vector of those from `next` on.
///
/// # Safety
/// As [`body`].
#[inline(always)]
unsafe fn steps<W: Vector, const P: usize, const V: usize, const AHEAD_OF_ITSELF: bool>(
    tile: &NhwcTile,
    mut next: *const f32,
    sums: &mut [[W; V]; P],
) {
    // SAFETY: by the caller's word; what is only asked for may lie anywhere.
    unsafe {
        for tap in tile.taps {
            let mut x: [*const f32; P] = std::array::from_fn(|p| tap.x[p]);
            let mut w = tile.w.add(tap.w);
            for _ in 0..tile.channels {
                let mut weights = [W::zero(); V];
                for j in 0..V {
                    weights[j] = W::load(w.add(j * W::LANES));
                    if AHEAD_OF_ITSELF {
                        W::prefetch(w.wrapping_add(j * W::LANES + AHEAD));
                    }
                }
                if !AHEAD_OF_ITSELF {
                    W::prefetch(next);
                    next = next.wrapping_add(W::LANES);
                }
                w = w.add(V * W::LANES);
                for p in 0..P {
                    let pixel = W::splat(*x[p]);
                    x[p] = x[p].add(1);
                    for j in 0..V {
                        sums[p][j] = W::multiply_add(pixel, weights[j], sums[p][j]);
                    }
                }
            }
        }
    }
}
