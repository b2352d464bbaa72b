//! The register tile: some output channels of some pixels, one image a lane.

use crate::cpu::kernel::{InstructionSet, Vector};
use std::sync::OnceLock;

/// Most pixels of a tile.
pub(in crate::cpu) const PIXELS: usize = 3;

/// Floats between the weights that are multiplied and those that are asked for, with AVX-512. Where each is used for few images,
/// 512 → 512 filters took 6.0 ms without and 5.3 with at 4 × 4 pixels, 2.1 and 1.5 at 2 × 2.
const AHEAD: usize = 512;

/// Where a pixel's sums start to read, and where they are written. A tap outside the image is never read, so
/// the start itself may lie before the input.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Place {
    pub(in crate::cpu) x: isize,
    pub(in crate::cpu) y: usize,
}

/// A filter tap: its distance in the input, and where its weights start.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Tap {
    pub(in crate::cpu) x: isize,
    pub(in crate::cpu) w: usize,
}

/// `y[place, o] = relu?(bias[o] + Σ_{tap, c} w[tap.w + c · O + o] · x[place.x + tap.x + c] + residual?[place.y + o])` for
/// vectors of images x and y; O is [`Isa::filters`].
pub(in crate::cpu) struct Tile<'a> {
    pub(in crate::cpu) x: *const f32,
    pub(in crate::cpu) w: *const f32,
    pub(in crate::cpu) bias: *const f32,
    pub(in crate::cpu) residual: Option<*const f32>,
    pub(in crate::cpu) y: *mut f32,
    /// At most [`PIXELS`].
    pub(in crate::cpu) places: &'a [Place],
    pub(in crate::cpu) taps: &'a [Tap],
    pub(in crate::cpu) channels: usize,
    /// Filters to write, at most O.
    pub(in crate::cpu) filters: usize,
    pub(in crate::cpu) relu: bool,
}

type Run = unsafe fn(&Tile);

/// The tile for one instruction set.
pub(in crate::cpu) struct Isa {
    set: InstructionSet,
    lanes: usize,
    filters: usize,
    runs: [Run; PIXELS],
}

impl Isa {
    /// The best that this machine has; chosen once.
    pub(crate) fn detect() -> &'static Self {
        static BEST: OnceLock<&'static Isa> = OnceLock::new();
        BEST.get_or_init(|| Self::available()[0])
    }

    /// All that this machine can run, the best first.
    pub(in crate::cpu) fn available() -> Vec<&'static Self> {
        let tiles = |set| match set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => &AVX512,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => &AVX2,
            InstructionSet::Portable => &PORTABLE,
        };
        InstructionSet::available().into_iter().map(tiles).collect()
    }

    /// What it is compiled for.
    pub(in crate::cpu) fn set(&self) -> InstructionSet {
        self.set
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
    /// All elements named in [`Tile`] lie in the caller's buffers, weights and bias for whole panels, and nobody
    /// else touches the results.
    pub(in crate::cpu) unsafe fn tile(&self, tile: &Tile) {
        assert!((1..=PIXELS).contains(&tile.places.len()) && tile.filters <= self.filters);
        // SAFETY: the machine has the instructions (`available`); memory by the caller's word.
        unsafe { self.runs[tile.places.len() - 1](tile) }
    }
}

macro_rules! isa {
    ($name:ident, $set:ident, $vector:ty, $filters:expr $(, #[$feature:meta])?) => {
        static $name: Isa = {
            $(#[$feature])?
            unsafe fn run<const P: usize>(tile: &Tile) {
                // SAFETY: by the caller's word.
                unsafe { body::<$vector, P, { $filters }>(tile) }
            }
            Isa {
                set: InstructionSet::$set,
                lanes: <$vector>::LANES,
                filters: $filters,
                runs: [run::<1>, run::<2>, run::<3>],
            }
        };
    };
}

// 24 sums, three pixels and a broadcast of 32 registers; 12, three and one of 16.
#[cfg(target_arch = "x86_64")]
isa!(AVX512, Avx512, std::arch::x86_64::__m512, 8, #[target_feature(enable = "avx512f")]);
#[cfg(target_arch = "x86_64")]
isa!(AVX2, Avx2, std::arch::x86_64::__m256, 4, #[target_feature(enable = "avx2,fma")]);
isa!(PORTABLE, Portable, [f32; 8], 4);

/// # Safety
/// As [`Isa::tile`], and the machine has the instructions of `V`.
#[inline(always)]
unsafe fn body<V: Vector, const P: usize, const O: usize>(tile: &Tile) {
    // SAFETY: all addresses are elements of the tile, by the caller's word; `places` holds P of them.
    unsafe {
        let mut sums = [[V::zero(); O]; P];
        for o in 0..O {
            let bias = V::splat(*tile.bias.add(o));
            sums.iter_mut().for_each(|sums| sums[o] = bias);
        }
        let starts: [*const f32; P] =
            std::array::from_fn(|p| tile.x.wrapping_offset(tile.places.get_unchecked(p).x));
        for tap in tile.taps {
            let mut x: [*const f32; P] = starts.map(|start| start.wrapping_offset(tap.x));
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
