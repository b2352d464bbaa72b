//! Sums over the lanes: for outputs of so few channels that a vector of them would stay mostly empty.

use crate::cpu::vector::Vector;

/// Most channels of [`PixelDots`].
pub(crate) const MAX_CHANNELS: usize = 4;

/// `out[x, c] = Σ_{row, tap of x, k} input[row + tap.input + k] · weights[row' + tap.weights + c · padded + k]`, where a row of
/// `rows` is the pair of offsets `(row, row')`.
pub(crate) struct PixelDots<'a> {
    pub(crate) input: &'a [f32],
    /// Values of an input pixel.
    pub(crate) depth: usize,
    pub(crate) weights: &'a [f32],
    /// `depth` rounded up to whole vectors; the weights there are 0.
    pub(crate) padded: usize,
    pub(crate) rows: &'a [(usize, usize)],
    /// The taps of pixel `x` are `taps[starts[x]..starts[x + 1]]`.
    pub(crate) starts: &'a [usize],
    pub(crate) taps: &'a [(usize, usize)],
    pub(crate) out: &'a mut [f32],
}

/// # Safety
/// All offsets lie in `input` and `weights`, `out` has `starts.len() − 1` pixels of `C` channels, and the machine has
/// the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn body<V: Vector, const C: usize>(dots: &mut PixelDots) {
    let whole = dots.depth / V::LANES * V::LANES;
    for (x, out) in dots.out.chunks_exact_mut(C).enumerate() {
        // SAFETY: by the caller's word.
        unsafe {
            let mut sums = [V::zero(); C];
            for &(input, weights) in dots.rows {
                for tap in dots.taps.get_unchecked(dots.starts[x]..dots.starts[x + 1]) {
                    let input = dots.input.as_ptr().add(input + tap.0);
                    let weights = dots.weights.as_ptr().add(weights + tap.1);
                    for k in (0..whole).step_by(V::LANES) {
                        let value = V::load(input.add(k));
                        for (c, sum) in sums.iter_mut().enumerate() {
                            let weight = V::load(weights.add(c * dots.padded + k));
                            *sum = V::multiply_add(value, weight, *sum);
                        }
                    }
                    if whole < dots.depth {
                        let value = V::load_first(input.add(whole), dots.depth - whole);
                        for (c, sum) in sums.iter_mut().enumerate() {
                            let weight = V::load(weights.add(c * dots.padded + whole));
                            *sum = V::multiply_add(value, weight, *sum);
                        }
                    }
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = total(sum);
            }
        }
    }
}

/// # Safety
/// The machine has the instructions of `V`.
#[inline(always)]
unsafe fn total<V: Vector>(sum: V) -> f32 {
    let mut lanes = [0.0f32; 16];
    // SAFETY: `lanes` holds every vector.
    unsafe { sum.store_first(lanes.as_mut_ptr(), V::LANES) };
    let mut half = 8;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}
