//! Filters in panels of some vectors, for the convolutions of few images.

use super::split::split;

/// Filters of some vectors.
pub(super) struct Panel {
    /// The first filter.
    pub(super) first: usize,
    pub(super) vectors: usize,
    /// Where its weights start, among those of all panels.
    pub(super) weights: usize,
}

impl Panel {
    /// `k` filters of `depth` weights in panels of at most `most` vectors of `lanes` filters.
    pub(super) fn cut(k: usize, depth: usize, lanes: usize, most: usize) -> Vec<Self> {
        let panel = |part: std::ops::Range<usize>| {
            let first = part.start * lanes;
            Self { first, vectors: part.len(), weights: first * depth }
        };
        split(k.div_ceil(lanes), most).map(panel).collect()
    }
}

/// The bias of whole vectors of filters: zeros behind the last one.
pub(super) fn pad_bias(bias: &[f32], lanes: usize) -> Vec<f32> {
    let mut padded = bias.to_vec();
    padded.resize(bias.len().next_multiple_of(lanes), 0.0);
    padded
}
