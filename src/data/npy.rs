//! Pairs of NumPy files: `train_images.npy`, `train_labels.npy`, `test_images.npy`, `test_labels.npy`.
//!
//! Images: [N, C, H, W], `u1` in 0..=255 or `f4` in [0, 1]. Labels: [N], any integer type.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::npy;

use super::dataset::{Dataset, Need};
use super::entry::{DatasetEntry, folder, missing};
use super::split::{Pixels, Split, by, check_labels};

pub(super) const NPY: DatasetEntry = DatasetEntry {
    name: "npy",
    summary: "train_images.npy, train_labels.npy, test_images.npy, test_labels.npy; [N,C,H,W], u1 or f4 in [0,1]",
    form: "npy:DIR",
    files: &[],
    load,
};

/// Labels are what tells the number of classes, so one absurd label must not ask for an absurd network.
const MAX_CLASSES: usize = 1 << 16;

fn load(argument: Option<&str>, need: Need) -> Result<Dataset> {
    let dir = folder(&NPY, argument)?;
    let train = read_split(&dir, "train", need.train, need.labels)?;
    let test = read_split(&dir, "test", need.test, need.labels)?;
    if train.is_none() && test.is_none() {
        return Err(missing(&dir.join("test_images.npy"), "images"));
    }
    let labels =
        [&train, &test].into_iter().flatten().flat_map(|split| split.labels.iter().flatten());
    let classes = labels.max().map(|&label| label as usize + 1);
    Dataset::join(NPY.name, classes, Vec::new(), train, test)
}

fn read_split(dir: &Path, stem: &str, needed: bool, with_labels: bool) -> Result<Option<Split>> {
    let images = dir.join(format!("{stem}_images.npy"));
    let labels = dir.join(format!("{stem}_labels.npy"));
    if needed && !images.exists() {
        return Err(missing(&images, "images [N,C,H,W], u1 or f4"));
    }
    if needed && with_labels && !labels.exists() {
        return Err(missing(&labels, "labels [N] of an integer type"));
    }
    let labels = if labels.exists() { Some((read_labels(&labels)?, labels)) } else { None };
    if !images.exists() {
        return Ok(None);
    }
    let (shape, pixels) = read_images(&images)?;
    if let Some((values, path)) = &labels
        && values.len() != shape[0]
    {
        let (have, want) = (values.len(), shape[0]);
        return Err(Error::file(
            path,
            format!("{have} labels for the {want} images of {}", images.display()),
        ));
    }
    let labels = labels.map(|(values, _)| values);
    Ok(Some(Split { shape, pixels, labels, source: images }))
}

fn read_images(path: &PathBuf) -> Result<([usize; 4], Pixels)> {
    let array = npy::read(path)?;
    let want = "must be [N,C,H,W], none of them 0, u1 or f4";
    let shape = <[usize; 4]>::try_from(array.shape.as_slice());
    let shape = shape.ok().filter(|shape| !shape.contains(&0)).ok_or_else(|| {
        Error::file(path, format!("shape {:?} of {}; {want}", array.shape, array.dtype()))
    })?;
    if let Some(pixels) = array.to_f32() {
        return match pixels.iter().position(|v| !(0.0..=1.0).contains(v)) {
            None => Ok((shape, Pixels::F32(pixels))),
            Some(i) => {
                let image = i / (shape[1] * shape[2] * shape[3]);
                let message = format!(
                    "pixel {} of image {image} is outside [0, 1]; f4 images must be in it",
                    pixels[i]
                );
                Err(Error::file(path, message))
            }
        };
    }
    let dtype = array.dtype();
    let pixels = array
        .into_u8()
        .ok_or_else(|| Error::file(path, format!("images {} of {dtype}; {want}", by(&shape))))?;
    Ok((shape, Pixels::U8(pixels)))
}

fn read_labels(path: &Path) -> Result<Vec<i32>> {
    let array = npy::read(path)?;
    let wrong = || {
        let (shape, dtype) = (&array.shape, array.dtype());
        Error::file(path, format!("shape {shape:?} of {dtype}; must be [N] of an integer type"))
    };
    if array.shape.len() != 1 {
        return Err(wrong());
    }
    let labels: Vec<i128> = array.to_integers().ok_or_else(wrong)?.collect();
    check_labels(path, labels.iter().copied(), MAX_CLASSES)?;
    Ok(labels.into_iter().map(|label| label as i32).collect())
}
