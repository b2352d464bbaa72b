//! Rounding of the operands of matrix products, as the kernels round them.

use super::scratch;
use crate::Mode;
use rayon::prelude::*;

/// `x` as the operand that `mode` multiplies with.
///
/// [`Mode::Tf32`]: 10-bit mantissa, to nearest, ties away from zero (`cvt.rna.tf32.f32`).
/// [`Mode::Bf16`]: 7-bit mantissa, to nearest, ties to even. Infinities and NaNs stay what they are.
pub(crate) fn round(mode: Mode, x: f32) -> f32 {
    match mode {
        Mode::F32 => x,
        Mode::Tf32 => tf32(x),
        Mode::Bf16 => bf16(x),
    }
}

/// Runs `f` with `x` as the operands that `mode` multiplies with.
pub(crate) fn with<R>(mode: Mode, x: &[f32], f: impl FnOnce(&[f32]) -> R) -> R {
    if mode == Mode::F32 {
        return f(x);
    }
    scratch::with(x.len(), |rounded| {
        all(mode, x, rounded);
        f(rounded)
    })
}

/// [`copy`] by all threads.
pub(crate) fn all(mode: Mode, src: &[f32], dst: &mut [f32]) {
    const CHUNK: usize = 1 << 14;
    let chunks = dst.par_chunks_mut(CHUNK).zip(src.par_chunks(CHUNK));
    chunks.for_each(|(dst, src)| copy(mode, src, dst));
}

/// Copies `src` to `dst` through [`round`].
#[inline]
pub(crate) fn copy(mode: Mode, src: &[f32], dst: &mut [f32]) {
    match mode {
        Mode::F32 => dst.copy_from_slice(src),
        Mode::Tf32 => dst.iter_mut().zip(src).for_each(|(dst, &src)| *dst = tf32(src)),
        Mode::Bf16 => dst.iter_mut().zip(src).for_each(|(dst, &src)| *dst = bf16(src)),
    }
}

#[inline(always)]
fn tf32(x: f32) -> f32 {
    let rounded = f32::from_bits(x.to_bits().wrapping_add(1 << 12) & !0x1fff);
    if x.is_finite() { rounded } else { x }
}

#[inline(always)]
fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = f32::from_bits(bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & !0xffff);
    if x.is_nan() { x } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_away_from_zero_in_tf32_and_to_even_in_bf16() {
        let step = |bits: u32| f32::from_bits(0x3f80_0000 + bits);
        assert_eq!(round(Mode::Tf32, step(0x1000)), step(0x2000));
        assert_eq!(round(Mode::Tf32, -step(0x3000)), -step(0x4000));
        assert_eq!(round(Mode::Tf32, step(0x0fff)), step(0));
        assert_eq!(round(Mode::Bf16, step(0x8000)), step(0));
        assert_eq!(round(Mode::Bf16, step(0x1_8000)), step(0x2_0000));
        assert_eq!(round(Mode::Bf16, step(0x8001)), step(0x1_0000));
        assert_eq!(round(Mode::Bf16, f32::MAX), f32::INFINITY);
        for mode in Mode::ALL {
            assert!(round(mode, f32::NAN).is_nan());
            assert_eq!(round(mode, f32::NEG_INFINITY), f32::NEG_INFINITY);
            assert_eq!(round(mode, 1.25), 1.25);
        }
    }

    #[test]
    fn bf16_rounds_as_half() {
        for bits in (0..u32::MAX).step_by(65_521) {
            let x = f32::from_bits(bits);
            if !x.is_nan() {
                assert_eq!(round(Mode::Bf16, x), half::bf16::from_f32(x).to_f32(), "{bits:#x}");
            }
        }
    }
}
