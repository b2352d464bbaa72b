//! Images of one split.

use crate::{Error, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// `3×32×32`.
pub(super) fn by(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("×")
}

/// Images of equal size and, where known, their labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// [N, C, H, W].
    pub shape: [usize; 4],
    /// N·C·H·W values in the order NCHW.
    pub pixels: Pixels,
    /// N class numbers.
    pub labels: Option<Vec<i32>>,
    /// Where they came from, for messages.
    pub source: PathBuf,
}

/// Pixel values as they were stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// 0..=255; a value v means v/255.
    U8(Vec<u8>),
    /// In [0, 1].
    F32(Vec<f32>),
}

impl Split {
    /// The number of images.
    pub fn len(&self) -> usize {
        self.shape[0]
    }

    /// True if there is no image; readers never return such a split.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the first `n` images.
    pub fn truncate(&mut self, n: usize) {
        let n = n.min(self.len());
        let image: usize = self.shape[1..].iter().product();
        match &mut self.pixels {
            Pixels::U8(pixels) => pixels.truncate(n * image),
            Pixels::F32(pixels) => pixels.truncate(n * image),
        }
        if let Some(labels) = &mut self.labels {
            labels.truncate(n);
        }
        self.shape[0] = n;
    }

    /// The labels.
    ///
    /// Errors: `File` when the split has none.
    pub fn labels(&self) -> Result<&[i32]> {
        self.labels.as_deref().ok_or_else(|| Error::file(&self.source, "has no labels"))
    }

    /// Checks the labels against the number of classes of a model.
    ///
    /// Errors: `File` that names the first label outside.
    pub fn check_labels(&self, classes: usize) -> Result<()> {
        let labels = self.labels.iter().flatten();
        check_labels(&self.source, labels.map(|&label| i128::from(label)), classes)
    }

    /// Images `range` in order: [n, C, H, W] in [0, 1].
    pub fn images_nchw(&self, range: Range<usize>) -> Vec<f32> {
        let image: usize = self.shape[1..].iter().product();
        let range = range.start * image..range.end * image;
        match &self.pixels {
            Pixels::U8(pixels) => pixels[range].iter().map(|&v| unit(v)).collect(),
            Pixels::F32(pixels) => pixels[range].to_vec(),
        }
    }
}

/// v/255, by division: the nearest f32.
pub(super) fn unit(v: u8) -> f32 {
    f32::from(v) / 255.0
}

pub(super) fn check_labels(
    source: &Path,
    mut labels: impl Iterator<Item = i128>,
    classes: usize,
) -> Result<()> {
    let outside = |label: &i128| !(0..classes as i128).contains(label);
    match labels.by_ref().enumerate().find(|(_, label)| outside(label)) {
        None => Ok(()),
        Some((i, label)) => Err(Error::file(
            source,
            format!("label {label} of image {i} is out of range; must be in 0..{classes}"),
        )),
    }
}
