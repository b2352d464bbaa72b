//! One image file: which format its content has, its height and width, its pixels.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

use image::{ImageFormat, ImageReader, Limits};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::file;
use crate::tensor::{Tensor, nchw_to_nhwc};

use super::resize;

/// The formats that are read.
const READ: [ImageFormat; 7] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::WebP,
    ImageFormat::Bmp,
    ImageFormat::Gif,
    ImageFormat::Tiff,
    ImageFormat::Pnm,
];

/// [`READ`], for messages.
pub(super) const FORMATS: &str = "PNG, JPEG, WebP, BMP, GIF, TIFF or PNM";

/// Extensions of image formats that the `image` crate does not know by name.
const OTHER_EXTENSIONS: [&str; 6] = ["heic", "heif", "jxl", "jp2", "svg", "psd"];

/// The longest signature of a format.
const SIGNATURE: usize = 32;

/// What a file in a folder of images is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An image in a format that is read, or a file whose name says so.
    Image,
    /// An image in another format.
    OtherFormat,
    /// Anything else: a text, a table, a pipe.
    NoImage,
}

/// What the regular file at `path` is: by its name, and by its content where the name does not end like an image that
/// is read.
pub(super) fn kind(path: &Path) -> Result<Kind> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let by_name = extension.and_then(ImageFormat::from_extension);
    if by_name.is_some_and(|format| READ.contains(&format)) {
        return Ok(Kind::Image);
    }
    let mut start = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(SIGNATURE as u64).read_to_end(&mut start));
    read.map_err(|e| Error::io(path, e))?;
    let by_content = image::guess_format(&start).ok();
    // Two letters are enough to look like BMP or PNM; a text that begins so has no header of an image.
    if by_content.is_some_and(|format| READ.contains(&format)) && sides(path).is_ok() {
        return Ok(Kind::Image);
    }
    let other = |extension: &str| OTHER_EXTENSIONS.contains(&&*extension.to_ascii_lowercase());
    let by_content = by_content.filter(|format| !READ.contains(format));
    match by_name.or(by_content).is_some() || extension.is_some_and(other) {
        true => Ok(Kind::OtherFormat),
        false => Ok(Kind::NoImage),
    }
}

/// Height and width, from the header.
pub(super) fn sides(path: &Path) -> Result<(usize, usize)> {
    let (reader, format) = reader(path, BufReader::new(file::open(path)?))?;
    let (width, height) = reader.into_dimensions().map_err(|e| broken(path, format, &e))?;
    Ok((height as usize, width as usize))
}

/// The pixels as RGB, one byte a value: [3, height, width], or [3, size, size].
pub(super) fn decode(path: &Path, size: Option<usize>) -> Result<Vec<u8>> {
    let bytes = file::read_bounded(path, 1 << 30)?;
    let (reader, format) = reader(path, Cursor::new(bytes.as_slice()))?;
    if format == ImageFormat::Jpeg && jpeg_is_cut(&bytes) {
        return Err(Error::file(path, "is cut short: the end of the JPEG image is missing"));
    }
    let image = reader.decode().map_err(|e| broken(path, format, &e))?.into_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    match size.filter(|&size| (height, width) != (size, size)) {
        Some(size) => Ok(resize::bilinear(image.as_raw(), height, width, size)),
        None => Ok((0..3).flat_map(|c| image.as_raw()[c..].iter().step_by(3).copied()).collect()),
    }
}

/// The image in a file (PNG, JPEG, WebP, BMP, GIF, TIFF or PNM) as a network with `channels` input channels reads it:
/// values in [0, 1], resized to `size` × `size`, bilinear.
///
/// `channels` 3 is RGB; 1 is grey, (19595·R + 38470·G + 7471·B) / 65536 rounded to a byte, as `PIL.Image.convert("L")`.
///
/// Shape: `[1, size, size, channels]`, on the CPU.
/// Errors: [`crate::ErrorKind::Param`] for another number of channels, [`crate::ErrorKind::Io`] where the file cannot be
/// read, [`crate::ErrorKind::File`] where it is no whole image.
pub fn read_image(path: &Path, channels: usize, size: usize) -> Result<Tensor> {
    let rgb = |bytes: Vec<u8>| -> Result<Vec<u8>> {
        match channels {
            3 => Ok(bytes),
            1 => Ok(grey(&bytes)),
            _ => Err(Error::param(
                "channels",
                channels,
                format!("1 (grey) or 3 (RGB): {} is a picture", path.display()),
            )),
        }
    };
    let bytes = rgb(decode(path, Some(size))?)?;
    let pixels: Vec<f32> = bytes.into_iter().map(|value| f32::from(value) / 255.0).collect();
    let nhwc = nchw_to_nhwc(&pixels, [1, channels, size, size]);
    Tensor::from_vec(nhwc, &[1, size, size, channels], &Device::Cpu)
}

/// Luma (ITU-R BT.601) of planes [3, …]. Grey stays what it was.
fn grey(rgb: &[u8]) -> Vec<u8> {
    let (red, rest) = rgb.split_at(rgb.len() / 3);
    let (green, blue) = rest.split_at(rest.len() / 2);
    let luma = |((&r, &g), &b): ((&u8, &u8), &u8)| {
        let [r, g, b] = [r, g, b].map(u32::from);
        ((19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16) as u8
    };
    red.iter().zip(green).zip(blue).map(luma).collect()
}

/// A decoder for what the content says that it is, whatever the file's name says.
fn reader<R: BufRead + Seek>(path: &Path, from: R) -> Result<(ImageReader<R>, ImageFormat)> {
    let mut from = from;
    if from.fill_buf().map_err(|e| Error::io(path, e))?.is_empty() {
        return Err(Error::file(path, format!("is empty (0 bytes); must be a {FORMATS} image")));
    }
    let mut reader =
        ImageReader::new(from).with_guessed_format().map_err(|e| Error::io(path, e))?;
    let Some(format) = reader.format().filter(|format| READ.contains(format)) else {
        return Err(Error::file(path, format!("its content is not a {FORMATS} image")));
    };
    let mut limits = Limits::default();
    limits.max_image_width = Some(1 << 14);
    limits.max_image_height = Some(1 << 14);
    reader.limits(limits);
    Ok((reader, format))
}

fn broken(path: &Path, format: ImageFormat, error: &image::ImageError) -> Error {
    let name = format.extensions_str().first().map_or(String::new(), |name| name.to_uppercase());
    let message = error.to_string().replace('\n', " ");
    Error::file(path, format!("is damaged or cut short ({name} image): {message}"))
}

/// True when no end marker follows the last scan: the decoder would fill the rest with grey.
fn jpeg_is_cut(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xff, marker]);
    let (start_of_scan, end_of_image) = (0xda, 0xd9);
    last(end_of_image) < last(start_of_scan)
}
