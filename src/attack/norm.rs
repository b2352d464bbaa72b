//! What distances between images are measured in.

/// How far an image is from another: over all pixels of all channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// The largest difference.
    Linf,
    /// The root of the summed squares.
    L2,
    /// The number of values that differ.
    L0,
}

impl Norm {
    /// As lists print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linf => "L∞",
            Self::L2 => "L2",
            Self::L0 => "L0",
        }
    }
    /// The distance between two images.
    pub(super) fn distance(self, a: &[f32], b: &[f32]) -> f32 {
        let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        match self {
            Self::Linf => differences.fold(0.0, f32::max),
            Self::L2 => differences.map(|d| f64::from(d).powi(2)).sum::<f64>().sqrt() as f32,
            Self::L0 => differences.filter(|&d| d > 0.0).count() as f32,
        }
    }
}
