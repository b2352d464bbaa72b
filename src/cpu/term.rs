//! What the loops over kept weights go through.

/// One kept weight.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Term {
    pub(super) weight: f32,
    /// Floats from a tile's place in the input to what the weight multiplies.
    pub(super) offset: u32,
}
