//! A data set in memory.

use super::split::{Split, by};
use crate::{Error, Result};
use std::path::PathBuf;

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
    /// Training images that were held out to choose the best epoch by ([`Dataset::hold_out`]).
    pub validation: Option<Split>,
    /// The test images.
    pub test: Option<Split>,
    /// The file of each test image, in order; empty where images have no files of their own.
    pub test_files: Vec<PathBuf>,
    /// What a reader left out, a sentence each.
    pub notes: Vec<String>,
}

/// How many names a message shows.
const SHOWN: usize = 5;

/// The first names, and how many there are beside them: `cat, dog and 3 more`.
pub(super) fn some_of(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown.join(", "),
        Some(more) => format!("{} and {more} more", shown.join(", ")),
    }
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
        Ok(Self {
            name,
            channels,
            height,
            width,
            classes,
            class_names,
            train,
            validation: None,
            test,
            test_files: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// What its user should know before results are read, a sentence each: files that were left out; and of the splits
    /// whose labels `need` names (of all for [`Need::ANY`]) those that have no image of some class. To be asked for after
    /// a split was limited to its first images.
    pub fn warnings(&self, need: Need) -> Vec<String> {
        let any = !need.train && !need.test;
        let splits = [
            ("training", &self.train, need.train),
            ("validation", &self.validation, need.train),
            ("test", &self.test, need.test),
        ];
        let wanted = splits.into_iter().filter(|(.., needed)| (*needed && need.labels) || any);
        let lacking = wanted.filter_map(|(what, split, _)| self.lacking(what, split.as_ref()?));
        self.notes.iter().cloned().chain(lacking).collect()
    }

    /// The classes that no image of `split` is of.
    fn lacking(&self, what: &str, split: &Split) -> Option<String> {
        let counts = split.class_counts(self.classes?)?;
        let name = |class: usize| self.class_name(class);
        let images = |(class, &count): (usize, &usize)| {
            (count > 0).then(|| format!("{} {count}", name(class)))
        };
        let there: Vec<String> = counts.iter().enumerate().filter_map(images).collect();
        let absent = (0..counts.len()).filter(|&class| counts[class] == 0);
        let absent: Vec<String> = absent.map(name).collect();
        (!absent.is_empty()).then(|| {
            format!(
                "{}: the {} {what} images are of {} of the {} classes: {}; no image of {}",
                split.source.display(),
                split.len(),
                there.len(),
                counts.len(),
                some_of(&there),
                some_of(&absent)
            )
        })
    }

    /// The name of a class, or `class 7` where it has none.
    pub fn class_name(&self, class: usize) -> String {
        self.class_names.get(class).cloned().unwrap_or_else(|| format!("class {class}"))
    }
}
