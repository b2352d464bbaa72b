//! Folders of PNG and JPEG images, one folder a class: `DIR/train/CLASS/*`, `DIR/test/CLASS/*` (or `val`).
//!
//! Classes are the names of the training folders in byte order. Every image is taken as RGB, 8 bits. All must have the
//! same size unless `DIR,size=N` asks for N×N, bilinear ([`super::resize`]).

use std::fs;
use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};

use image::{ImageFormat, ImageReader, Limits};
use rayon::prelude::*;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::file;
use crate::tensor::{Tensor, nchw_to_nhwc};

use super::dataset::{Dataset, KEY, Need};
use super::entry::{DatasetEntry, folder, missing};
use super::resize;
use super::split::{Pixels, Split};

pub(super) const IMAGE_FOLDER: DatasetEntry = DatasetEntry {
    name: "image-folder",
    summary: "PNG and JPEG: DIR/train/CLASS/*, DIR/test/CLASS/* or DIR/val/CLASS/*; DIR,size=N resizes to N×N",
    form: "image-folder:DIR",
    files: &[],
    load,
};

/// Images are decoded in blocks, so that memory grows with what was really decoded.
const BLOCK: usize = 256;

/// The largest image without `size=`, and the largest `size=`.
const MAX_SIDE: usize = 1024;

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

/// Reads `dir/train` and `dir/test` or `dir/val`; `size` is the side to resize to.
pub(super) fn load_folders(
    name: &'static str,
    dir: &Path,
    size: Option<usize>,
    need: Need,
) -> Result<Dataset> {
    let train = Some(dir.join("train")).filter(|path| path.exists());
    let test = ["test", "val"].map(|name| dir.join(name)).into_iter().find(|path| path.exists());
    if need.train && train.is_none() {
        return Err(missing(&dir.join("train"), "one folder of images a class"));
    }
    if need.test && test.is_none() {
        return Err(missing(&dir.join("test"), "one folder of images a class (or the folder val)"));
    }
    let class_names = match train.as_ref().or(test.as_ref()) {
        Some(root) => class_folders(root)?,
        None => return Err(missing(&dir.join("train"), "one folder of images a class")),
    };
    let list = |root: Option<PathBuf>| match root {
        Some(root) => {
            let files = list_classes(&root, &class_names)?;
            Images::scan(root, files, size).map(Some)
        }
        None => Ok(None),
    };
    read_needed(name, class_names.clone(), list(train)?, list(test)?, need)
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
            "its images are {h}×{w}, those of train {height}×{width}; must agree, or give size=N"
        );
        return Err(Error::file(&test.root, message));
    }
    let any = !need.train && !need.test;
    let read = |images: Option<Images>, needed: bool| match images {
        Some(images) if needed || any => images.read().map(Some),
        _ => Ok(None),
    };
    let (train, test) = (read(train, need.train)?, read(test, need.test)?);
    Dataset::join(name, Some(class_names.len()), class_names, train, test)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(|e| Error::io(folder, e)))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn class_folders(root: &Path) -> Result<Vec<String>> {
    let folders = entries(root)?.into_iter().filter(|path| path.is_dir());
    let names: Vec<_> =
        folders.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    if names.is_empty() {
        return Err(Error::file(root, "has no folders; must hold one folder of images a class"));
    }
    Ok(names)
}

/// Every image below `root` with its class.
fn list_classes(root: &Path, class_names: &[String]) -> Result<Vec<(PathBuf, i32)>> {
    let mut files = Vec::new();
    for name in class_folders(root)? {
        let folder = root.join(&name);
        let class = class_names
            .iter()
            .position(|known| *known == name)
            .ok_or_else(|| Error::file(&folder, "is not a class of the training images"))?;
        files.extend(list_images(&folder)?.into_iter().map(|path| (path, class as i32)));
    }
    Ok(files)
}

/// The PNG and JPEG files of a folder, by name.
pub(super) fn list_images(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = entries(folder)?;
    paths.retain(|path| {
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg"))
    });
    match paths.is_empty() {
        true => Err(Error::file(folder, "has no images; must hold .png, .jpg or .jpeg files")),
        false => Ok(paths),
    }
}

/// Files of a split whose headers are good.
pub(super) struct Images {
    root: PathBuf,
    files: Vec<(PathBuf, i32)>,
    height: usize,
    width: usize,
    size: Option<usize>,
}

impl Images {
    /// Reads the headers of all files.
    pub fn scan(root: PathBuf, files: Vec<(PathBuf, i32)>, size: Option<usize>) -> Result<Self> {
        let sides: Vec<_> = files.par_iter().map(|(path, _)| header(path)).collect();
        let mut first = None;
        for ((path, _), sides) in files.iter().zip(sides) {
            let (height, width) = sides?;
            let (h, w) = *first.get_or_insert((height, width));
            if size.is_none() && (height, width) != (h, w) {
                let message = format!(
                    "is {height}×{width}, the first image {h}×{w}; must agree, or give size=N"
                );
                return Err(Error::file(path, message));
            }
            if size.is_none() && height.max(width) > MAX_SIDE {
                let message = format!(
                    "is {height}×{width}; must be at most {MAX_SIDE}×{MAX_SIDE}, or give size=N"
                );
                return Err(Error::file(path, message));
            }
        }
        let (height, width) = first.ok_or_else(|| Error::file(&root, "has no images"))?;
        Ok(Self { root, files, height, width, size })
    }

    /// Height and width after resizing.
    pub fn sides(&self) -> (usize, usize) {
        self.size.map_or((self.height, self.width), |size| (size, size))
    }

    fn read(self) -> Result<Split> {
        let (height, width) = self.sides();
        let mut pixels = Vec::new();
        for block in self.files.chunks(BLOCK) {
            let images: Vec<_> =
                block.par_iter().map(|(path, _)| decode(path, self.size)).collect();
            for image in images {
                pixels.extend(image?);
            }
        }
        let shape = [self.files.len(), 3, height, width];
        let labels = self.files.into_iter().map(|(_, label)| label).collect();
        Ok(Split { shape, pixels: Pixels::U8(pixels), labels: Some(labels), source: self.root })
    }
}

/// The image in a PNG or JPEG file as a network reads it: RGB in [0, 1], resized to `size` × `size`, bilinear.
///
/// Shape: `[1, size, size, 3]`, on the CPU.
/// Errors: [`crate::ErrorKind::Io`] where the file cannot be read, [`crate::ErrorKind::File`] where it is no whole image.
pub fn read_image(path: &Path, size: usize) -> Result<Tensor> {
    let bytes = decode(path, Some(size))?;
    let pixels: Vec<f32> = bytes.into_iter().map(|value| f32::from(value) / 255.0).collect();
    Tensor::from_vec(nchw_to_nhwc(&pixels, [1, 3, size, size]), &[1, size, size, 3], &Device::Cpu)
}

/// [3, height, width], or [3, size, size].
fn decode(path: &Path, size: Option<usize>) -> Result<Vec<u8>> {
    let bytes = file::read_bounded(path, 1 << 30)?;
    let reader = reader(path, Cursor::new(bytes.as_slice()))?;
    if reader.format() == Some(ImageFormat::Jpeg) && jpeg_is_cut(&bytes) {
        return Err(Error::file(path, "is cut short: a JPEG without its end"));
    }
    let image = reader.decode().map_err(|e| broken(path, e))?.into_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    match size.filter(|&size| (height, width) != (size, size)) {
        Some(size) => Ok(resize::bilinear(image.as_raw(), height, width, size)),
        None => Ok((0..3).flat_map(|c| image.as_raw()[c..].iter().step_by(3).copied()).collect()),
    }
}

/// Height and width.
fn header(path: &Path) -> Result<(usize, usize)> {
    let reader = reader(path, BufReader::new(file::open(path)?))?;
    let (width, height) = reader.into_dimensions().map_err(|e| broken(path, e))?;
    Ok((height as usize, width as usize))
}

fn reader<R: std::io::BufRead + std::io::Seek>(path: &Path, from: R) -> Result<ImageReader<R>> {
    let mut reader =
        ImageReader::new(from).with_guessed_format().map_err(|e| Error::io(path, e))?;
    if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg)) {
        return Err(Error::file(path, "is neither PNG nor JPEG"));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(1 << 14);
    limits.max_image_height = Some(1 << 14);
    reader.limits(limits);
    Ok(reader)
}

fn broken(path: &Path, error: image::ImageError) -> Error {
    let message = error.to_string().replace('\n', " ");
    Error::file(path, format!("is no good image: {message}"))
}

/// True when no end marker follows the last scan: the decoder would fill the rest with grey.
fn jpeg_is_cut(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xff, marker]);
    let (start_of_scan, end_of_image) = (0xda, 0xd9);
    last(end_of_image) < last(start_of_scan)
}
