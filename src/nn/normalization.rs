//! Normalisation of pixels, `(x − mean)/std`: the first operation of a network, whose input is in [0, 1].

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Every normalisation that `model.normalize` and `--normalize` know by name.
pub const NORMALIZATIONS: &[NormalizationEntry] = &[
    NormalizationEntry { name: "none", summary: "pixels as they are", mean: &[], std: &[] },
    NormalizationEntry {
        name: "cifar10",
        summary: "CIFAR-10, training set",
        mean: &[125.3 / 255.0, 123.0 / 255.0, 113.9 / 255.0],
        std: &[63.0 / 255.0, 62.1 / 255.0, 66.7 / 255.0],
    },
    NormalizationEntry {
        name: "cifar100",
        summary: "CIFAR-100, training set",
        mean: &[129.3 / 255.0, 124.1 / 255.0, 112.4 / 255.0],
        std: &[68.2 / 255.0, 65.4 / 255.0, 70.4 / 255.0],
    },
    NormalizationEntry {
        name: "fashion-mnist",
        summary: "Fashion-MNIST, training set, 28×28 (before the padding)",
        mean: &[0.286041],
        std: &[0.353024],
    },
    NormalizationEntry {
        name: "mnist",
        summary: "MNIST, training set, 28×28 (before the padding)",
        mean: &[0.1307],
        std: &[0.3081],
    },
    NormalizationEntry {
        name: "imagenet",
        summary: "ImageNet, as torchvision's weights want it",
        mean: &[0.485, 0.456, 0.406],
        std: &[0.229, 0.224, 0.225],
    },
];

/// A normalisation with a name: an entry of [`NORMALIZATIONS`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormalizationEntry {
    /// Its name.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// The mean of each channel, pixels in [0, 1].
    pub mean: &'static [f64],
    /// The standard deviation of each channel.
    pub std: &'static [f64],
}

/// A mean and a standard deviation for each channel: `(x − mean) / std` is the first operation of a network.
///
/// Units: pixels in [0, 1]. `Display` writes what [`Self::parse`] reads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Subtracted from each channel.
    pub mean: Vec<f32>,
    /// Divides each channel.
    pub std: Vec<f32>,
}

const KEY: &str = "model.normalize (--normalize)";

impl Normalization {
    /// Reads a name of [`NORMALIZATIONS`] or `mean=a:b:c,std=a:b:c`; `none` is no normalisation.
    ///
    /// Errors: [`crate::ErrorKind::Param`].
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let round = |values: &[f64]| values.iter().map(|&v| v as f32).collect();
        if let Some(entry) = NORMALIZATIONS.iter().find(|entry| entry.name == text) {
            let named = Self { mean: round(entry.mean), std: round(entry.std) };
            return Ok((!entry.mean.is_empty()).then_some(named));
        }
        let error = || {
            let names: Vec<_> = NORMALIZATIONS.iter().map(|entry| entry.name).collect();
            let want = format!(
                "one of {} or mean=a:b:c,std=a:b:c with one finite mean and one std > 0 a channel",
                names.join(", ")
            );
            Error::param(KEY, text, want)
        };
        let numbers = |list: &str| -> Option<Vec<f32>> {
            list.split(':').map(|v| v.trim().parse().ok().filter(|v: &f32| v.is_finite())).collect()
        };
        let (mean, std) = text.split_once(',').ok_or_else(error)?;
        let mean = mean.trim().strip_prefix("mean=").and_then(numbers).ok_or_else(error)?;
        let std = std.trim().strip_prefix("std=").and_then(numbers).ok_or_else(error)?;
        if mean.len() != std.len() || std.iter().any(|&v| v <= 0.0) {
            return Err(error());
        }
        Ok(Some(Self { mean, std }))
    }

    /// Checks that each of the `in_channels` channels has a finite mean and a finite standard deviation above 0.
    ///
    /// Errors: [`crate::ErrorKind::Param`].
    pub fn check(&self, in_channels: usize) -> Result<()> {
        if self.mean.len() != in_channels || self.std.len() != in_channels {
            let want = format!(
                "one mean and one std for each of the {in_channels} channels of the images"
            );
            return Err(Error::param(KEY, self, want));
        }
        let usable = self.mean.iter().all(|m| m.is_finite())
            && self.std.iter().all(|s| s.is_finite() && *s > 0.0);
        if !usable {
            return Err(Error::param(KEY, self, "finite numbers, every std above 0"));
        }
        Ok(())
    }
}

impl fmt::Display for Normalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>().join(":");
        write!(f, "mean={},std={}", join(&self.mean), join(&self.std))
    }
}
