//! A data set in memory.

use super::split::{Split, by};
use crate::{Error, Result};

/// How errors name the specification of a data set: the recipe's key and the flag.
pub(crate) const KEY: &str = "data.set (--data)";

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
    /// The name in [`super::DATASETS`].
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
    pub(super) fn join(
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
