//! What happens to one plane of one image.

use super::layout::Layout;
use super::spread::Spread;
use super::tiles::ListTiles;
use crate::cpu::pool2d::larger;
use crate::cpu::scratch::Shared;

/// Writes a plane of whole vectors to the copies whose middle one has pixel (0, 0) at `place`.
///
/// # Safety
/// The copies are no other task's, and `masks` are those of the layout, whose memory `y` is.
pub(super) unsafe fn spread(
    tiles: &ListTiles,
    output: &Layout,
    masks: &[u32],
    plane: &[f32],
    y: Shared,
    place: usize,
) {
    let &Layout { copy, copies, .. } = output;
    let middle = copies / 2;
    let out = y.rest(place + middle - middle * copy);
    // SAFETY: by the caller's word.
    unsafe { tiles.spread(&Spread { plane, out, copy, copies, masks }) }
}

/// Maximum over 2×2 windows of rows of `q`; a NaN is a maximum.
pub(super) fn max_pool_plane(plane: &[f32], q: usize, [h, w]: [usize; 2], out: &mut [f32]) {
    for i in 0..h {
        let (above, below) = (&plane[2 * i * q..][..q], &plane[(2 * i + 1) * q..][..q]);
        let out = &mut out[i * w..][..w];
        let pairs = above.as_chunks::<2>().0.iter().zip(below.as_chunks::<2>().0);
        for (out, (above, below)) in out.iter_mut().zip(pairs) {
            *out = larger(larger(above[0], above[1]), larger(below[0], below[1]));
        }
    }
}
