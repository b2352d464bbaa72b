//! Folders of images, one folder a class: `DIR/train/CLASS/*`, `DIR/test/CLASS/*` (or `val`).
//!
//! Classes are the names of the training folders in byte order. The images of a split stand class by class in turn (the
//! first image of each class, then the second of each, …), by name within a class, so that the first N images hold every
//! class. Every image is taken as RGB, 8 bits; of an animation the first frame. All must have the same size unless
//! `DIR,size=N` asks for N×N, bilinear ([`super::resize`]).

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Error, Result};

use super::dataset::{Dataset, KEY, Need, some_of};
use super::entry::{DatasetEntry, folder, missing};
use super::image_file::{FORMATS, Kind, decode, kind, sides};
use super::split::{Pixels, Split};

pub(super) const IMAGE_FOLDER: DatasetEntry = DatasetEntry {
    name: "image-folder",
    summary: "image files: DIR/train/CLASS/*, DIR/test/CLASS/* or DIR/val/CLASS/*; DIR,size=N resizes to N×N",
    form: "image-folder:DIR",
    files: &[],
    load,
};

/// Images are decoded in blocks, so that memory grows with what was really decoded.
const BLOCK: usize = 256;

/// The largest image without `size=`, and the largest `size=`.
const MAX_SIDE: usize = 1024;

/// What a folder of one split must hold.
const CLASSES: &str = "one folder of images for each class";

fn load(argument: Option<&str>, need: Need) -> Result<Dataset> {
    let (dir, size) = split_size(argument)?;
    load_folders(IMAGE_FOLDER.name, &folder(&IMAGE_FOLDER, dir)?, size, need)
}

/// `DIR,size=N` as (`DIR`, N).
pub(super) fn split_size(argument: Option<&str>) -> Result<(Option<&str>, Option<usize>)> {
    let Some((dir, size)) = argument.and_then(|argument| argument.rsplit_once(",size=")) else {
        return Ok((argument, None));
    };
    match size.parse() {
        Ok(n) if (1..=MAX_SIDE).contains(&n) => Ok((Some(dir), Some(n))),
        _ => Err(Error::param(
            format!("{KEY} size"),
            size,
            format!("a whole number in 1..={MAX_SIDE}"),
        )),
    }
}

/// Reads `dir/train` and `dir/test` or `dir/val`; `size` is the side to resize to. Where labels are not needed, the test
/// images may lie in `dir/test` without class folders, or in `dir` itself.
pub(super) fn load_folders(
    name: &'static str,
    dir: &Path,
    size: Option<usize>,
    need: Need,
) -> Result<Dataset> {
    let train = Some(dir.join("train")).filter(|path| path.exists());
    let test = ["test", "val"].map(|name| dir.join(name)).into_iter().find(|path| path.exists());
    let mut flat = None;
    let wanted = [
        ("train", need.train && train.is_none()),
        ("test", need.test && test.is_none()),
        ("train", train.is_none() && test.is_none()),
    ];
    if let Some((name, _)) = wanted.into_iter().find(|(_, missing)| *missing) {
        let content = Content::of(dir)?;
        match content.images.is_empty() {
            false if need.labels => return Err(unlabelled(dir)),
            false if name == "test" || !need.test => flat = Some(content),
            _ => return Err(missing_split(dir, name, &content)),
        }
    }
    let mut notes = Vec::new();
    let train = train.map(|root| Listing::of(root, &mut notes)).transpose()?;
    let test = match flat {
        Some(content) => Some(Listing::flat(dir.to_owned(), content, &mut notes)?),
        None => test.map(|root| Listing::of(root, &mut notes)).transpose()?,
    };
    if let Some(listing) = &train {
        listing.labelled()?;
    }
    if let Some(listing) = test.as_ref().filter(|_| need.labels) {
        listing.labelled()?;
    }
    let labelled = train.as_ref().or(test.as_ref()).filter(|listing| listing.loose.is_none());
    let class_names: Vec<String> = labelled
        .map(|listing| listing.classes.iter().map(|(name, _)| name.clone()).collect())
        .unwrap_or_default();
    let scan = |listing: Option<Listing>| {
        listing.map(|listing| listing.images(&class_names, size)).transpose()
    };
    let (train, test) = (scan(train)?, scan(test)?);
    let mut set = read_needed(name, class_names, train, test, need)?;
    set.notes = notes;
    Ok(set)
}

/// Decodes what is needed; of the rest the headers were checked.
pub(super) fn read_needed(
    name: &'static str,
    class_names: Vec<String>,
    train: Option<Images>,
    test: Option<Images>,
    need: Need,
) -> Result<Dataset> {
    if let (Some(train), Some(test)) = (&train, &test)
        && train.sides() != test.sides()
    {
        let ((h, w), (height, width)) = (test.sides(), train.sides());
        let message = format!(
            "its images are {h}×{w}, the training images {height}×{width}; they must agree: resize all by {RESIZE}"
        );
        return Err(Error::file(&test.root, message));
    }
    let any = !need.train && !need.test;
    let files = test.as_ref().map_or(Vec::new(), |test| test.files.clone());
    let read = |images: Option<Images>, needed: bool| match images {
        Some(images) if needed || any => images.read().map(Some),
        _ => Ok(None),
    };
    let (train, test) = (read(train, need.train)?, read(test, need.test)?);
    let classes = Some(class_names.len()).filter(|&classes| classes > 0);
    let mut set = Dataset::join(name, classes, class_names, train, test)?;
    set.test_files = files;
    Ok(set)
}

/// How images of different sizes are read.
const RESIZE: &str = "DIR,size=N behind the name of the data set";

fn unlabelled(root: &Path) -> Error {
    let message = format!(
        "the labels are missing: the images lie directly in this folder; must hold {CLASSES} (images without labels are for `rewire predict` alone)"
    );
    Error::file(root, message)
}

/// The error for `dir` without `dir/NAME`; the folders that are there may be the classes.
fn missing_split(dir: &Path, name: &str, content: &Content) -> Error {
    let or = if name == "test" { " (or the folder val)" } else { "" };
    let want = format!("{CLASSES}{or}");
    let others = content.folders.iter().filter_map(|path| path.file_name()?.to_str());
    let others: Vec<&str> =
        others.filter(|name| !["train", "test", "val"].contains(name)).collect();
    let hint = match others.is_empty() {
        true => String::new(),
        false => format!("; if {} are the classes, move them there", some_of(&others)),
    };
    missing(&dir.join(name), &format!("{want}{hint}"))
}

/// The entries of one folder, each list by name.
#[derive(Default)]
struct Content {
    folders: Vec<PathBuf>,
    images: Vec<PathBuf>,
    /// Images in formats that are not read.
    other_formats: Vec<PathBuf>,
    /// Hidden ones and files that are no images.
    others: Vec<PathBuf>,
}

impl Content {
    /// Errors: `Io` that names the entry, a link that leads nowhere or in a circle too.
    fn of(folder: &Path) -> Result<Self> {
        let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
        let mut paths = entries
            .map(|entry| entry.map(|entry| entry.path()).map_err(|e| Error::io(folder, e)))
            .collect::<Result<Vec<_>>>()?;
        paths.sort();
        let mut content = Self::default();
        for path in paths {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            if name.starts_with(b".") {
                content.others.push(path);
                continue;
            }
            let metadata = fs::metadata(&path).map_err(|e| Error::io(&path, e))?;
            let list = if metadata.is_dir() {
                &mut content.folders
            } else if !metadata.is_file() {
                &mut content.others
            } else {
                match kind(&path)? {
                    Kind::Image => &mut content.images,
                    Kind::OtherFormat => &mut content.other_formats,
                    Kind::NoImage => &mut content.others,
                }
            };
            list.push(path);
        }
        Ok(content)
    }
}

/// Files that a split leaves out, by reason.
#[derive(Default)]
pub(super) struct LeftOut {
    other_formats: Vec<PathBuf>,
    /// Folders beside images.
    folders: Vec<PathBuf>,
    /// Images beside class folders.
    beside: Vec<PathBuf>,
    others: Vec<PathBuf>,
}

impl LeftOut {
    /// A sentence for each reason; file names are those below `root`.
    pub fn notes(&self, root: &Path) -> Vec<String> {
        let note = |paths: &[PathBuf], what: &str, why: String| {
            let name =
                |path: &PathBuf| path.strip_prefix(root).unwrap_or(path).display().to_string();
            let names: Vec<String> = paths.iter().map(name).collect();
            let s = if paths.len() == 1 { "" } else { "s" };
            let place = root.display();
            let are = if paths.len() == 1 { "is" } else { "are" };
            let text = format!(
                "{place}: {} {what}{s} {are} left out {why}: {}",
                paths.len(),
                some_of(&names)
            );
            (!paths.is_empty()).then_some(text)
        };
        let notes = [
            note(&self.other_formats, "image", format!("(not {FORMATS})")),
            note(
                &self.folders,
                "folder",
                "(images must lie directly in the folder of their class)".into(),
            ),
            note(&self.beside, "image", "(images must lie in the folder of their class)".into()),
            note(&self.others, "file", "(hidden, or no image)".into()),
        ];
        notes.into_iter().flatten().collect()
    }
}

/// The images of a folder, by name.
///
/// Errors: `File` where there is none.
pub(super) fn list_images(folder: &Path, left_out: &mut LeftOut) -> Result<Vec<PathBuf>> {
    let content = Content::of(folder)?;
    if content.images.is_empty() {
        return Err(no_images(folder, &content, &format!("{FORMATS} images")));
    }
    left_out.other_formats.extend(content.other_formats);
    left_out.folders.extend(content.folders);
    left_out.others.extend(content.others);
    Ok(content.images)
}

fn no_images(folder: &Path, content: &Content, want: &str) -> Error {
    let names = content.other_formats.iter().map(|path| path.display().to_string());
    let names: Vec<String> = names.collect();
    let found = match names.is_empty() {
        true => String::new(),
        false => format!(" in a format that is read ({FORMATS}), only {}", some_of(&names)),
    };
    Error::file(folder, format!("has no images{found}; must hold {want}"))
}

/// The files of one split.
struct Listing {
    root: PathBuf,
    /// Each class with its images.
    classes: Vec<(String, Vec<PathBuf>)>,
    /// The images of a folder without class folders.
    loose: Option<Vec<PathBuf>>,
}

impl Listing {
    /// Lists `root`; what is left out goes to `notes`.
    fn of(root: PathBuf, notes: &mut Vec<String>) -> Result<Self> {
        let content = Content::of(&root)?;
        if content.folders.is_empty() {
            return Self::flat(root, content, notes);
        }
        let mut left_out = LeftOut {
            other_formats: content.other_formats,
            beside: content.images,
            others: content.others,
            ..LeftOut::default()
        };
        let mut classes = Vec::new();
        for folder in content.folders {
            classes.push((class_name(&folder)?, list_images(&folder, &mut left_out)?));
        }
        notes.extend(left_out.notes(&root));
        Ok(Self { root, classes, loose: None })
    }

    /// The images that lie directly in `root`.
    fn flat(root: PathBuf, content: Content, notes: &mut Vec<String>) -> Result<Self> {
        if content.images.is_empty() {
            return Err(no_images(&root, &content, CLASSES));
        }
        let left_out = LeftOut {
            other_formats: content.other_formats,
            folders: content.folders,
            others: content.others,
            ..LeftOut::default()
        };
        notes.extend(left_out.notes(&root));
        Ok(Self { root, classes: Vec::new(), loose: Some(content.images) })
    }

    /// Errors: `File` where the images lie in no class folders.
    fn labelled(&self) -> Result<()> {
        match self.loose {
            Some(_) => Err(unlabelled(&self.root)),
            None => Ok(()),
        }
    }

    /// The images with the numbers of their classes, class by class in turn.
    fn images(self, class_names: &[String], size: Option<usize>) -> Result<Images> {
        let Self { root, classes, loose } = self;
        if let Some(files) = loose {
            return Images::scan(root, files, None, size);
        }
        let mut turns = Vec::new();
        for (name, files) in classes {
            let class = class_names.iter().position(|known| *known == name);
            let class = class.ok_or_else(|| {
                let known = some_of(class_names);
                let message = format!("is not a class of the training images; must be {known}");
                Error::file(root.join(&name), message)
            })?;
            let turn = |(turn, file): (usize, PathBuf)| (turn, class as i32, file);
            turns.extend(files.into_iter().enumerate().map(turn));
        }
        turns.sort_by_key(|&(turn, class, _)| (turn, class));
        let (labels, files) = turns.into_iter().map(|(_, class, file)| (class, file)).unzip();
        Images::scan(root, files, Some(labels), size)
    }
}

/// The name of a class folder.
fn class_name(folder: &Path) -> Result<String> {
    let name = folder.file_name().unwrap_or_default();
    name.to_str().map(str::to_owned).ok_or_else(|| {
        let message = format!(
            "the name of this class folder is not UTF-8: {name:?}; rename the folder, as the name of a class must be text"
        );
        Error::file(folder, message)
    })
}

/// Files of a split whose headers are good.
pub(super) struct Images {
    root: PathBuf,
    files: Vec<PathBuf>,
    labels: Option<Vec<i32>>,
    height: usize,
    width: usize,
    size: Option<usize>,
}

impl Images {
    /// Reads the headers of all files.
    pub fn scan(
        root: PathBuf,
        files: Vec<PathBuf>,
        labels: Option<Vec<i32>>,
        size: Option<usize>,
    ) -> Result<Self> {
        let all: Vec<_> = files.par_iter().map(|path| sides(path)).collect();
        let mut first = None;
        for (path, sides) in files.iter().zip(all) {
            let (height, width) = sides?;
            let (h, w) = *first.get_or_insert((height, width));
            if size.is_none() && (height, width) != (h, w) {
                let message = format!(
                    "is {height}×{width}, {} is {h}×{w}; all images must agree: resize them by {RESIZE}",
                    files[0].display()
                );
                return Err(Error::file(path, message));
            }
            if size.is_none() && height.max(width) > MAX_SIDE {
                let message = format!(
                    "is {height}×{width}; must be at most {MAX_SIDE}×{MAX_SIDE}: resize by {RESIZE}"
                );
                return Err(Error::file(path, message));
            }
        }
        let (height, width) = first.ok_or_else(|| Error::file(&root, "has no images"))?;
        Ok(Self { root, files, labels, height, width, size })
    }

    /// Height and width after resizing.
    pub fn sides(&self) -> (usize, usize) {
        self.size.map_or((self.height, self.width), |size| (size, size))
    }

    fn read(self) -> Result<Split> {
        let (height, width) = self.sides();
        let mut pixels = Vec::new();
        for block in self.files.chunks(BLOCK) {
            let images: Vec<_> = block.par_iter().map(|path| decode(path, self.size)).collect();
            for image in images {
                pixels.extend(image?);
            }
        }
        let shape = [self.files.len(), 3, height, width];
        Ok(Split { shape, pixels: Pixels::U8(pixels), labels: self.labels, source: self.root })
    }
}
