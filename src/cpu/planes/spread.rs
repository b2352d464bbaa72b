//! Writes a plane into the shifted copies of a layout.

use crate::cpu::scratch::Shared;
use crate::cpu::vector::Vector;

/// Where a plane goes: copy `i` of it starts at `out[i · (copy − 1)]`, one column further left than the one before.
pub(super) struct Spread<'a> {
    /// Whole vectors.
    pub(super) plane: &'a [f32],
    pub(super) out: Shared,
    pub(super) copy: usize,
    pub(super) copies: usize,
    /// Lanes to store of each vector and copy.
    pub(super) masks: &'a [u32],
}

/// # Safety
/// As [`super::tiles::ListTiles::spread`], which has checked the lengths, and the machine has the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn spread<V: Vector>(spread: &Spread) {
    for (v, plane) in spread.plane.chunks_exact(V::LANES).enumerate() {
        // SAFETY: `plane` is a vector; there is a mask for each vector and copy, and the vector lies in `out` (checked).
        unsafe {
            let value = V::load(plane.as_ptr());
            for i in 0..spread.copies {
                let out = spread.out.ptr().add(i * spread.copy + v * V::LANES - i);
                value.store_masked(out, *spread.masks.get_unchecked(v * spread.copies + i));
            }
        }
    }
}
