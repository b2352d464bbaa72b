//! Data sets: images in [0, 1] with labels, read from the files their authors publish.
//!
//! One file a data set and one line in [`DATASETS`]; `--data SPEC`, the help and `rewire data list` follow from it.
//! Images lie here as in the files, NCHW and u8 where the file has u8; [`Loader`] hands out NHWC batches of f32.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

pub mod augment;
mod cifar;
#[cfg(feature = "download")]
pub mod fetch;
mod idx;
mod image_folder;
mod imagenette;
mod loader;
mod mnist;
pub mod normalize;
mod npy;
mod pickle;
mod remote;
mod resize;
mod synthetic;
mod tiny_imagenet;

pub use augment::{AUGMENTATIONS, Augmentation};
pub use image_folder::read_image;
pub use loader::{Batch, Loader};
pub use normalize::{NORMALIZATIONS, Normalization};
pub use remote::{RemoteFile, default_folder};

/// Every data set that `--data` knows.
pub const DATASETS: &[DatasetEntry] = &[
    mnist::FASHION_MNIST_MINI,
    mnist::FASHION_MNIST,
    mnist::MNIST,
    cifar::CIFAR10,
    cifar::CIFAR100,
    tiny_imagenet::TINY_IMAGENET,
    imagenette::IMAGENETTE,
    image_folder::IMAGE_FOLDER,
    npy::NPY,
    synthetic::SYNTHETIC,
];

/// How errors name the specification of a data set: the recipe's key and the flag.
pub(crate) const KEY: &str = "data.set (--data)";

/// A line of [`DATASETS`].
#[derive(Debug, Clone, Copy)]
pub struct DatasetEntry {
    /// What `--data` calls it.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// The whole specification, e.g. `mnist[:DIR]`.
    pub form: &'static str,
    /// What `rewire data fetch` downloads; nothing where there is nothing to download.
    pub files: &'static [RemoteFile],
    /// Reads it; the text is what follows the first colon.
    load: fn(Option<&str>, Need) -> Result<Dataset>,
}

/// What the caller will use of a data set. What is not there is an error only if it is needed; what is there is
/// checked either way (of folders of images that are not needed, only the headers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The training images.
    pub train: bool,
    /// The test images.
    pub test: bool,
    /// The labels of the images that are needed.
    pub labels: bool,
}

impl Need {
    /// Both splits, with labels.
    pub const TRAIN: Self = Self { train: true, test: true, labels: true };
    /// The test images, with labels.
    pub const EVAL: Self = Self { train: false, test: true, labels: true };
    /// The test images alone.
    pub const PREDICT: Self = Self { train: false, test: true, labels: false };
    /// Whatever is there.
    pub const ANY: Self = Self { train: false, test: false, labels: false };
}

/// Images and labels, split as their authors split them.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The name in [`DATASETS`].
    pub name: &'static str,
    /// Channels of every image.
    pub channels: usize,
    /// Rows of every image.
    pub height: usize,
    /// Columns of every image.
    pub width: usize,
    /// The number of classes; `None` where nothing tells (`npy` without labels).
    pub classes: Option<usize>,
    /// One name a class; empty where there are none.
    pub class_names: Vec<String>,
    /// The training images.
    pub train: Option<Split>,
    /// The test images.
    pub test: Option<Split>,
}

impl Dataset {
    /// Reads the data set that `spec` names, e.g. `cifar10:data`, with both splits and labels.
    ///
    /// Errors: `Param` for an unknown name or argument; `Io` or `File` for a file that is missing or not as it must be.
    pub fn load(spec: &str) -> Result<Self> {
        Self::load_for(spec, Need::TRAIN)
    }

    /// As [`Dataset::load`], where only what `need` says has to be there.
    pub fn load_for(spec: &str, need: Need) -> Result<Self> {
        let (name, argument) = match spec.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (spec, None),
        };
        let entry = DATASETS.iter().find(|entry| entry.name == name).ok_or_else(|| {
            let forms: Vec<_> = DATASETS.iter().map(|entry| entry.form).collect();
            Error::param(KEY, spec, format!("one of {}", forms.join(", ")))
        })?;
        (entry.load)(argument, need)
    }

    /// The training images.
    ///
    /// Errors: `Param` when the data set was read without them.
    pub fn train(&self) -> Result<&Split> {
        self.train
            .as_ref()
            .ok_or_else(|| Error::param(KEY, self.name, "a data set with training images"))
    }

    /// The test images.
    ///
    /// Errors: as [`Dataset::train`].
    pub fn test(&self) -> Result<&Split> {
        self.test
            .as_ref()
            .ok_or_else(|| Error::param(KEY, self.name, "a data set with test images"))
    }

    /// Joins two splits; the sizes of their images must agree.
    fn join(
        name: &'static str,
        classes: Option<usize>,
        class_names: Vec<String>,
        train: Option<Split>,
        test: Option<Split>,
    ) -> Result<Self> {
        if let (Some(train), Some(test)) = (&train, &test)
            && train.shape[1..] != test.shape[1..]
        {
            return Err(Error::file(
                &test.source,
                format!(
                    "its images are {}, those of {} are {}; they must agree",
                    by(&test.shape[1..]),
                    train.source.display(),
                    by(&train.shape[1..])
                ),
            ));
        }
        let [_, channels, height, width] = match train.as_ref().or(test.as_ref()) {
            Some(split) => split.shape,
            None => return Err(Error::param(KEY, name, "a data set with images")),
        };
        Ok(Self { name, channels, height, width, classes, class_names, train, test })
    }
}

/// `3×32×32`.
fn by(shape: &[usize]) -> String {
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
fn unit(v: u8) -> f32 {
    f32::from(v) / 255.0
}

fn check_labels(
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

/// The folder of a specification `NAME:DIR`; of `NAME` alone, where what can be fetched is looked for.
fn folder(entry: &DatasetEntry, argument: Option<&str>) -> Result<PathBuf> {
    match argument {
        Some(dir) if !dir.is_empty() => {
            let path = PathBuf::from(dir);
            match std::fs::metadata(&path) {
                Ok(_) => Ok(path),
                Err(e) => Err(Error::io(path, e)),
            }
        }
        None if !entry.files.is_empty() => {
            let places = remote::places(entry.name);
            let there = places.iter().find(|place| place.is_dir());
            there.cloned().ok_or_else(|| not_fetched(entry, &places, ""))
        }
        _ => Err(Error::param(KEY, entry.name, format!("{} with a folder", entry.form))),
    }
}

/// The error for a name without a folder where none of `places` holds the data.
fn not_fetched(entry: &DatasetEntry, places: &[PathBuf], more: &str) -> Error {
    let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
    let DatasetEntry { name, form, .. } = entry;
    let (places, fetch) = (places.join(", "), format!("`rewire data fetch {name}`"));
    Error::param(KEY, name, format!("{form}; its files are not in {places} ({fetch}{more})"))
}

/// The error for a file that is not there and is needed.
fn missing(path: &Path, what: &str) -> Error {
    Error::file(path, format!("is missing; must hold {what}"))
}
