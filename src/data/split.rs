//! Images of one split.

use crate::{Error, Result};
use rayon::prelude::*;
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

    /// Images of each class; `None` without labels. Labels outside the classes are not counted.
    pub fn class_counts(&self, classes: usize) -> Option<Vec<usize>> {
        let mut counts = vec![0; classes];
        for &label in self.labels.as_ref()? {
            if let Some(count) = usize::try_from(label).ok().and_then(|class| counts.get_mut(class))
            {
                *count += 1;
            }
        }
        Some(counts)
    }

    /// Checks the labels against the number of classes of a model.
    ///
    /// Errors: `File` that names the first label outside.
    pub fn check_labels(&self, classes: usize) -> Result<()> {
        let labels = self.labels.iter().flatten();
        check_labels(&self.label_source(), labels.map(|&label| i128::from(label)), classes)
    }

    /// Where the labels came from: of a pair of NumPy files the second one.
    fn label_source(&self) -> PathBuf {
        let name = self.source.file_name().and_then(|name| name.to_str());
        match name.and_then(|name| name.strip_suffix("_images.npy")) {
            Some(stem) => self.source.with_file_name(format!("{stem}_labels.npy")),
            None => self.source.clone(),
        }
    }

    /// Mean and standard deviation of each channel over the pixels of all images, in [0, 1].
    pub fn mean_std(&self) -> Vec<[f64; 2]> {
        let [images, channels, height, width] = self.shape;
        let (plane, count) = (height * width, (images * height * width) as f64);
        let value = |at: usize| match &self.pixels {
            Pixels::U8(pixels) => f64::from(pixels[at]) / 255.0,
            Pixels::F32(pixels) => f64::from(pixels[at]),
        };
        let of = |channel: usize| {
            let start = |image: usize| (image * channels + channel) * plane;
            let values =
                (0..images).flat_map(|image| (start(image)..start(image) + plane).map(value));
            let (sum, squares) =
                values.fold((0.0, 0.0), |(sum, squares), v| (sum + v, squares + v * v));
            let mean = sum / count;
            [mean, (squares / count - mean * mean).max(0.0).sqrt()]
        };
        (0..channels).into_par_iter().map(of).collect()
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
