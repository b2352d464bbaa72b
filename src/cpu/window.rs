//! The geometry of a pooling.

use serde::{Deserialize, Serialize};

/// The windows of a pooling, as in PyTorch's `MaxPool2d(size, stride, padding)`.
///
/// Fields stand in alphabetical order of their names in files, which hold them as JSON of sorted keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Pixels around the image that windows may reach, at most half the size: no maximum is one of them, and in means they
    /// count as 0.
    pub padding: usize,
    /// Step of both directions, 1 or more.
    pub stride: usize,
    /// Height and width, 1 to 15.
    #[serde(rename = "window")]
    pub size: usize,
}

impl Window {
    /// 2×2 pixels, side by side: each edge is halved, an odd last row or column is left out.
    pub const HALVES: Self = Self { padding: 0, stride: 2, size: 2 };

    /// How many windows stand along `input` pixels; `None` where none does or the window is none.
    pub fn count(&self, input: usize) -> Option<usize> {
        let Self { size, stride, padding } = *self;
        let sane = (1..=15).contains(&size) && stride > 0 && padding <= size / 2;
        if !sane || input == 0 {
            return None;
        }
        let room = (input + 2 * padding).checked_sub(size)?;
        Some(room / stride + 1)
    }
}
