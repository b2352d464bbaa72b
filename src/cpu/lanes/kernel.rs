//! The register tile: some output channels of some pixels, one image a lane.

use crate::cpu::isa::{InstructionSet, Isa};
use crate::cpu::vector::Vector;

/// Most pixels of a tile.
pub(in crate::cpu) const PIXELS: usize = 3;

/// Floats between the weights that are multiplied and those that are asked for, with AVX-512. Where each is used for few images,
/// 512 → 512 filters took 6.0 ms without and 5.3 with at 4 × 4 pixels, 2.1 and 1.5 at 2 × 2.
const AHEAD: usize = 512;

/// What a pixel reads through the first tap, and where its sums are written.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct PixelPlace {
    pub(in crate::cpu) x: usize,
    pub(in crate::cpu) y: usize,
}

/// A filter tap: how far behind the first tap it reads, and where its weights start.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct LaneTap {
    pub(in crate::cpu) x: usize,
    pub(in crate::cpu) w: usize,
}

/// `y[place, o] = relu?(bias[o] + Σ_{tap, c} w[tap.w + c · O + o] · x[place.x + tap.x + c] + residual?[place.y + o])` for
/// vectors of images x and y; O is [`LaneTiles::filters`].
pub(in crate::cpu) struct LaneTile<'a> {
    pub(in crate::cpu) x: *const f32,
    pub(in crate::cpu) w: *const f32,
    pub(in crate::cpu) bias: *const f32,
    pub(in crate::cpu) residual: Option<*const f32>,
    pub(in crate::cpu) y: *mut f32,
    /// At most [`PIXELS`].
    pub(in crate::cpu) places: &'a [PixelPlace],
    pub(in crate::cpu) taps: &'a [LaneTap],
    pub(in crate::cpu) channels: usize,
    /// Filters to write, at most O.
    pub(in crate::cpu) filters: usize,
    pub(in crate::cpu) relu: bool,
}

type Run = unsafe fn(&LaneTile);

/// The tiles for one instruction set.
pub(in crate::cpu) struct LaneTiles {
    lanes: usize,
    filters: usize,
    runs: [Run; PIXELS],
}

impl LaneTiles {
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

    /// Images of a vector.
    pub(in crate::cpu) fn lanes(&self) -> usize {
        self.lanes
    }

    /// Filters of a tile, the width of the panels of weights.
    pub(in crate::cpu) fn filters(&self) -> usize {
        self.filters
    }

    /// Computes one tile.
    ///
    /// # Safety
    /// All elements named in [`LaneTile`] lie in the caller's buffers, weights and bias for whole panels, and nobody
    /// else touches the results.
    pub(in crate::cpu) unsafe fn tile(&self, tile: &LaneTile) {
        assert!((1..=PIXELS).contains(&tile.places.len()) && tile.filters <= self.filters);
        // SAFETY: the machine has the instructions (as there is an `Isa`); memory by the caller's word.
        unsafe { self.runs[tile.places.len() - 1](tile) }
    }
}

macro_rules! tiles {
    ($name:ident, $vector:ty, $filters:expr $(, #[$feature:meta])?) => {
        static $name: LaneTiles = {
            $(#[$feature])?
            unsafe fn run<const P: usize>(tile: &LaneTile) {
                // SAFETY: by the caller's word.
                unsafe { body::<$vector, P, { $filters }>(tile) }
            }
            LaneTiles {
                lanes: <$vector>::LANES,
                filters: $filters,
                runs: [run::<1>, run::<2>, run::<3>],
            }
        };
    };
}

// 24 sums, three pixels and a broadcast of 32 registers; 12, three and one of 16.
#[cfg(target_arch = "x86_64")]
tiles!(AVX512, std::arch::x86_64::__m512, 8, #[target_feature(enable = "avx512f")]);
#[cfg(target_arch = "x86_64")]
tiles!(AVX2, std::arch::x86_64::__m256, 4, #[target_feature(enable = "avx2,fma")]);
tiles!(PORTABLE, [f32; 8], 4);

/// # Safety
/// As [`LaneTiles::tile`], and the machine has the instructions of `V`.
#[inline(always)]
unsafe fn body<V: Vector, const P: usize, const O: usize>(tile: &LaneTile) {
    // SAFETY: all addresses are elements of the tile, by the caller's word; `places` holds P of them.
    unsafe {
        let mut sums = [[V::zero(); O]; P];
        for o in 0..O {
            let bias = V::splat(*tile.bias.add(o));
            sums.iter_mut().for_each(|sums| sums[o] = bias);
        }
        let starts: [*const f32; P] =
            std::array::from_fn(|p| tile.x.add(tile.places.get_unchecked(p).x));
        for tap in tile.taps {
            let mut x: [*const f32; P] = starts.map(|start| start.add(tap.x));
            let mut w = tile.w.add(tap.w);
            for _ in 0..tile.channels {
                V::prefetch(w.wrapping_add(AHEAD));
                let mut pixels = [V::zero(); P];
                for p in 0..P {
                    pixels[p] = V::load(x[p]);
                    x[p] = x[p].add(V::LANES);
                }
                for o in 0..O {
                    let weight = V::splat(*w.add(o));
                    for p in 0..P {
                        sums[p][o] = V::multiply_add(pixels[p], weight, sums[p][o]);
                    }
                }
                w = w.add(O);
            }
        }
        for p in 0..P {
            let place = tile.places.get_unchecked(p).y;
            for o in 0..tile.filters.min(O) {
                let at = place + o * V::LANES;
                let mut sum = sums[p][o];
                if let Some(residual) = tile.residual {
                    sum = V::add(sum, V::load(residual.add(at)));
                }
                if tile.relu {
                    sum = V::larger(V::zero(), sum);
                }
                sum.store_first(tile.y.add(at), V::LANES);
            }
        }
    }
}
