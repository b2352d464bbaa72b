//! Data sets: images in [0, 1] with labels, read from the files their authors publish.
//!
//! One file a data set and one line in [`DATASETS`]; `--data SPEC`, the help and `rewire data list` follow from it.
//! Images lie here as in the files, NCHW and u8 where the file has u8; [`Loader`] hands out NHWC batches of f32.

pub mod augment;
mod cifar;
mod dataset;
mod entry;
#[cfg(feature = "download")]
pub mod fetch;
mod idx;
mod image_file;
mod image_folder;
mod imagenette;
mod loader;
mod mnist;
mod npy;
mod pickle;
mod remote;
mod resize;
mod split;
mod synthetic;
mod tiny_imagenet;
mod validation;

pub use augment::{AUGMENTATIONS, Augmentation};
pub(crate) use dataset::KEY;
pub use dataset::{Dataset, Need};
pub use entry::DatasetEntry;
pub use image_file::read_image;
pub use loader::{Batch, Loader};
pub use remote::{RemoteFile, default_folder};
pub use split::{Pixels, Split};

use crate::{Error, Result};

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
}
