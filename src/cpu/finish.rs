//! What follows the sums of a convolution for inference.

/// In this order, after bias and residual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Finish {
    /// Negative results become 0.
    pub(crate) relu: bool,
    /// Maximum over 2×2 windows with stride 2; an odd last row or column is dropped.
    pub(crate) pool: bool,
}
