//! Tiny-ImageNet: 64×64 photographs, 200 classes; the validation images are the test images here.
//!
//! `wnids.txt`, `words.txt`, `train/WNID/images/*.JPEG`, `val/images/*.JPEG` with `val/val_annotations.txt`
//! (`test` has no labels and is not read). Classes are numbered by WordNet id in byte order.
//! Source: Le and Yang 2015, Stanford CS 231N.

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::file;

use super::dataset::{Dataset, Need};
use super::entry::{DatasetEntry, folder, missing};
use super::image_folder::{Images, LeftOut, list_images, read_needed};
use super::remote::RemoteFile;

pub(super) const TINY_IMAGENET: DatasetEntry = DatasetEntry {
    name: "tiny-imagenet",
    summary: "100,000 + 10,000 photographs 64×64, 200 classes of ImageNet: the unpacked folder",
    form: "tiny-imagenet[:DIR]",
    files: &[RemoteFile {
        name: "tiny-imagenet-200.zip",
        urls: &[
            "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        ],
        size: 248_100_043,
        sha256: "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
        unpacks_to: Some("tiny-imagenet-200"),
    }],
    load,
};

const SIZE: usize = 64;

fn load(argument: Option<&str>, need: Need) -> Result<Dataset> {
    let dir = folder(&TINY_IMAGENET, argument)?;
    let unpacked = dir.join("tiny-imagenet-200");
    let dir = if unpacked.is_dir() { unpacked } else { dir };
    let wnids = read_wnids(&dir.join("wnids.txt"))?;
    let mut left_out = LeftOut::default();
    let list = |root: &Path| list_train(root, &wnids, &mut left_out);
    let train = read_split(&dir.join("train"), need.train, list)?;
    let test = read_split(&dir.join("val"), need.test, |root| list_val(root, &wnids))?;
    let names = read_names(&dir.join("words.txt"), &wnids)?;
    let mut set = read_needed(TINY_IMAGENET.name, names, train, test, need)?;
    set.notes = left_out.notes(&dir);
    Ok(set)
}

fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(file::read(path)?).map_err(|_| Error::file(path, "is not text"))
}

fn read_wnids(path: &Path) -> Result<Vec<String>> {
    if !path.exists() {
        return Err(missing(path, "one WordNet id a line"));
    }
    let mut wnids: Vec<_> = read_text(path)?.split_whitespace().map(str::to_owned).collect();
    wnids.sort();
    match wnids.is_empty() {
        true => Err(Error::file(path, "is empty; must hold one WordNet id a line")),
        false => Ok(wnids),
    }
}

/// The first name of each class, or its id where `words.txt` has none.
fn read_names(path: &Path, wnids: &[String]) -> Result<Vec<String>> {
    let text = if path.exists() { read_text(path)? } else { String::new() };
    let words: HashMap<_, _> = text.lines().filter_map(|line| line.split_once('\t')).collect();
    let name = |wnid: &String| match words.get(wnid.as_str()) {
        Some(names) => names.split(',').next().unwrap_or(names).trim().to_owned(),
        None => wnid.clone(),
    };
    Ok(wnids.iter().map(name).collect())
}

type Files = Vec<(std::path::PathBuf, i32)>;

fn read_split(
    root: &Path,
    needed: bool,
    list: impl FnOnce(&Path) -> Result<Files>,
) -> Result<Option<Images>> {
    if !root.exists() {
        return if needed { Err(missing(root, "images")) } else { Ok(None) };
    }
    let (files, labels) = list(root)?.into_iter().unzip();
    let images = Images::scan(root.to_owned(), files, Some(labels), None)?;
    match images.sides() {
        (SIZE, SIZE) => Ok(Some(images)),
        (height, width) => Err(Error::file(
            root,
            format!("its images are {height}×{width}; must be {SIZE}×{SIZE}"),
        )),
    }
}

fn list_train(root: &Path, wnids: &[String], left_out: &mut LeftOut) -> Result<Files> {
    let mut files = Vec::new();
    for (class, wnid) in wnids.iter().enumerate() {
        let images = list_images(&root.join(wnid).join("images"), left_out)?;
        files.extend(images.into_iter().map(|path| (path, class as i32)));
    }
    Ok(files)
}

/// Lines `FILE<tab>WNID<tab>…`, in the order of the file.
fn list_val(root: &Path, wnids: &[String]) -> Result<Files> {
    let path = root.join("val_annotations.txt");
    if !path.exists() {
        return Err(missing(&path, "a file name and a WordNet id a line"));
    }
    let text = read_text(&path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
    let file = |(i, line): (usize, &str)| {
        let wrong = |want: &str| Error::file(&path, format!("line {}: must be {want}", i + 1));
        let mut fields = line.split('\t');
        let (Some(name), Some(wnid)) = (fields.next(), fields.next()) else {
            return Err(wrong("a file name, a tab and a WordNet id"));
        };
        if name.contains(['/', '\\']) {
            return Err(wrong("a file name without a folder"));
        }
        let class = wnids.binary_search_by(|known| known.as_str().cmp(wnid));
        let class = class.map_err(|_| wrong("a file name and a WordNet id of wnids.txt"))?;
        Ok((root.join("images").join(name), class as i32))
    };
    lines.map(file).collect()
}
