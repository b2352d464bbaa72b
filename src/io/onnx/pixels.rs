//! Which pixels a file expects: 0 to 1, or 0 to 255.

use super::constant::Refusal;
use crate::nn::Normalization;

/// The pixels that a network was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pixels {
    /// From 0 to 1.
    Unit,
    /// From 0 to 255.
    Bytes,
}

/// The pixels that the file was made for, by the mean and the standard deviation that its first nodes use: those of pixels from 0 to
/// 1 are at most 1; a division by 255 or a Caffe mean (104, 117, 123) belongs to pixels from 0 to 255.
///
/// Fails where they could belong to either.
pub(super) fn expected(normalization: &Normalization) -> Result<Pixels, Refusal> {
    let largest = |values: &[f32]| values.iter().map(|value| value.abs()).fold(0.0, f32::max);
    let (mean, std) = (largest(&normalization.mean), largest(&normalization.std));
    if mean >= 16.0 || std >= 16.0 {
        return Ok(Pixels::Bytes);
    }
    if mean <= 2.0 && std <= 4.0 {
        return Ok(Pixels::Unit);
    }
    Err(format!(
        "its first nodes {}, which does not tell whether the network expects pixels from 0 to 1 or from 0 to 255; say so with \
         --pixels 1 or --pixels 255",
        described(normalization)
    ))
}

/// The normalisation in words.
pub(super) fn described(Normalization { mean, std }: &Normalization) -> String {
    let list = |values: &[f32]| {
        let same = values.iter().all(|value| *value == values[0]);
        let shown = if same { &values[..values.len().min(1)] } else { values };
        let rounded = |value: &f32| ((f64::from(*value) * 1e4).round() / 1e4).to_string();
        shown.iter().map(rounded).collect::<Vec<_>>().join(", ")
    };
    match (mean.iter().all(|mean| *mean == 0.0), std.iter().all(|std| *std == 1.0)) {
        (true, _) => format!("divide pixels by {}", list(std)),
        (false, true) => format!("subtract a mean of {}", list(mean)),
        _ => format!("subtract a mean of {} and divide by {}", list(mean), list(std)),
    }
}
