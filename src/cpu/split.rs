//! Ways to cut a range.

use std::ops::Range;

/// `0..len` in the fewest parts of at most `most`, as equal as they can be.
pub(super) fn split(len: usize, most: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let parts = len.div_ceil(most.max(1));
    (0..parts).map(move |part| len * part / parts..len * (part + 1) / parts)
}

/// `0..len` in powers of two up to `2^most`, the larger ones first: (start, exponent).
pub(super) fn powers(len: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let exponent = ((len - start).checked_ilog2()? as usize).min(most);
        let found = (start, exponent);
        start += 1 << exponent;
        Some(found)
    })
}
