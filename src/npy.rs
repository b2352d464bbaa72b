//! NumPy's `.npy` files: versions 1 to 3 are read, version 1 is written. Start with [`read`] and [`write()`].
//!
//! Source: NumPy Enhancement Proposal 1, "A simple file format for NumPy arrays".

use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};
use crate::file;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// An array as it lies in a file, in C order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// The lengths of the axes.
    pub shape: Vec<usize>,
    kind: u8,
    size: usize,
    big_endian: bool,
    bytes: Vec<u8>,
}

impl Array {
    /// The element type as NumPy writes it without byte order: `u1`, `f4`, `i8`, …
    pub fn dtype(&self) -> String {
        format!("{}{}", self.kind as char, self.size)
    }

    /// The elements of a `u1` array; `None` for another type.
    pub fn into_u8(self) -> Option<Vec<u8>> {
        (self.kind == b'u' && self.size == 1).then_some(self.bytes)
    }

    /// The elements of an `f4` array; `None` for another type.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        (self.kind == b'f' && self.size == 4).then(|| {
            let words = self.bytes.as_chunks::<4>().0.iter();
            match self.big_endian {
                true => words.map(|b| f32::from_be_bytes(*b)).collect(),
                false => words.map(|b| f32::from_le_bytes(*b)).collect(),
            }
        })
    }

    /// The elements of an array of any integer type; `None` for another type.
    pub fn to_integers(&self) -> Option<impl Iterator<Item = i128> + '_> {
        (matches!(self.kind, b'i' | b'u') && self.size <= 8).then(|| {
            self.bytes.chunks_exact(self.size).map(|element| {
                let mut word = [0u8; 8];
                for (i, &b) in element.iter().enumerate() {
                    word[if self.big_endian { self.size - 1 - i } else { i }] = b;
                }
                let bits = u64::from_le_bytes(word);
                let shift = 64 - 8 * self.size as u32;
                match self.kind {
                    b'i' => i128::from((bits << shift) as i64 >> shift),
                    _ => i128::from(bits),
                }
            })
        })
    }
}

/// Reads an array of integers, unsigned integers or floats.
///
/// Errors: `Io`; `File` when it is not an `.npy` file, is in Fortran order, holds another type of element, or when
/// its length is not what the header says.
pub fn read(path: &Path) -> Result<Array> {
    let mut bytes = file::read(path)?;
    let (header, start) = split_header(&bytes).map_err(|message| Error::file(path, message))?;
    let header = Header::parse(header).map_err(|message| Error::file(path, message))?;
    let (kind, size, big_endian) =
        element_type(&header.descr).map_err(|message| Error::file(path, message))?;
    if header.fortran_order {
        return Err(Error::file(path, "is in Fortran order; must be in C order"));
    }
    let want = header.shape.iter().try_fold(size, |product, &n| product.checked_mul(n));
    let have = bytes.len() - start;
    if want != Some(have) {
        let want = want.map_or("too many".into(), |n| n.to_string());
        return Err(Error::file(
            path,
            format!(
                "its shape {:?} of {} needs {want} bytes of data, the file has {have}",
                header.shape, header.descr
            ),
        ));
    }
    bytes.drain(..start);
    Ok(Array { shape: header.shape, kind, size, big_endian, bytes })
}

/// The text of the header and the offset of the data.
fn split_header(bytes: &[u8]) -> std::result::Result<(&str, usize), String> {
    if !bytes.starts_with(MAGIC) {
        return Err("is not an .npy file: it does not start with \\x93NUMPY".into());
    }
    let cut = || "is cut short inside its header".to_string();
    let &[major, minor] = bytes.get(6..).and_then(|b| b.first_chunk()).ok_or_else(cut)?;
    let (length, start) = match major {
        1 => (bytes[8..].first_chunk().map(|b| usize::from(u16::from_le_bytes(*b))), 10),
        2 | 3 => (bytes[8..].first_chunk().map(|b| u32::from_le_bytes(*b) as usize), 12),
        _ => return Err(format!("is .npy version {major}.{minor}; must be 1.0, 2.0 or 3.0")),
    };
    let end = length.and_then(|n| n.checked_add(start)).ok_or_else(cut)?;
    let text = bytes.get(start..end).ok_or_else(cut)?;
    Ok((std::str::from_utf8(text).map_err(|_| "its header is not text")?, end))
}

/// `|u1`, `<f4`, `>i8`, … as (kind, bytes, big-endian).
fn element_type(descr: &str) -> std::result::Result<(u8, usize, bool), String> {
    let big_endian = match descr.as_bytes().first() {
        Some(b'>') => true,
        Some(b'=') => cfg!(target_endian = "big"),
        Some(b'<' | b'|') => false,
        _ => return Err(format!("its element type is {descr:?}; must be like '<f4' or '|u1'")),
    };
    match &descr[1..] {
        "i1" | "i2" | "i4" | "i8" | "u1" | "u2" | "u4" | "u8" | "f2" | "f4" | "f8" => {
            Ok((descr.as_bytes()[1], usize::from(descr.as_bytes()[2] - b'0'), big_endian))
        }
        _ => Err(format!("its element type is {descr:?}; must be integers or floats")),
    }
}

/// The dictionary of the header.
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header {
    /// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`: the three keys in any order.
    fn parse(text: &str) -> std::result::Result<Self, String> {
        let broken =
            || format!("its header is not the dictionary of an .npy file: {:?}", text.trim());
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        let mut rest = text.trim().strip_prefix('{').ok_or_else(broken)?.trim_start();
        while !rest.starts_with('}') {
            let (key, after) = string(rest).ok_or_else(broken)?;
            let value = after.trim_start().strip_prefix(':').ok_or_else(broken)?.trim_start();
            rest = match key {
                "descr" => {
                    let (value, after) = string(value)
                        .ok_or("its element type is a structure; must be integers or floats")?;
                    descr = Some(value.to_owned());
                    after
                }
                "fortran_order" => {
                    let after = value.strip_prefix("True").or_else(|| value.strip_prefix("False"));
                    fortran_order = Some(value.starts_with('T'));
                    after.ok_or_else(broken)?
                }
                "shape" => {
                    let (inner, after) = value
                        .strip_prefix('(')
                        .and_then(|v| v.split_once(')'))
                        .ok_or_else(broken)?;
                    shape = Some(axes(inner).ok_or_else(broken)?);
                    after
                }
                _ => return Err(broken()),
            };
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix(',') {
                rest = after.trim_start();
            } else if !rest.starts_with('}') {
                return Err(broken());
            }
        }
        match (rest.trim_end(), descr, fortran_order, shape) {
            ("}", Some(descr), Some(fortran_order), Some(shape)) => {
                Ok(Self { descr, fortran_order, shape })
            }
            _ => Err(broken()),
        }
    }
}

/// A quoted string at the start of `text`, and what follows it.
fn string(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// `2, 3` or `5,`: a tuple without its brackets.
fn axes(text: &str) -> Option<Vec<usize>> {
    let text = text.trim();
    let text = text.strip_suffix(',').unwrap_or(text);
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|n| n.trim().parse().ok()).collect()
}

/// An element type that [`write()`] knows.
pub trait Element: bytemuck::NoUninit {
    /// Kind and size as NumPy writes them, without byte order.
    const DTYPE: &'static str;
}

impl Element for u8 {
    const DTYPE: &'static str = "u1";
}
impl Element for bool {
    const DTYPE: &'static str = "b1";
}
impl Element for i32 {
    const DTYPE: &'static str = "i4";
}
impl Element for i64 {
    const DTYPE: &'static str = "i8";
}
impl Element for f32 {
    const DTYPE: &'static str = "f4";
}
impl Element for f64 {
    const DTYPE: &'static str = "f8";
}

/// Writes `data`, in C order, as an array of the given shape; atomically ([`file::write`]).
///
/// Errors: `Shape` when `data` does not fill the shape, else those of [`file::write`].
pub fn write<T: Element>(path: &Path, shape: &[usize], data: &[T]) -> Result<()> {
    if shape.iter().product::<usize>() != data.len() {
        return Err(Error::shape(
            "npy",
            "shape",
            format!("that of {} elements", data.len()),
            shape,
        ));
    }
    let header = header(T::DTYPE, shape);
    file::write(path, |out| {
        out.write_all(&header)?;
        out.write_all(bytemuck::cast_slice(data))
    })
}

/// Magic, version, length and dictionary, padded so that the data starts at a multiple of 64 bytes.
fn header(dtype: &str, shape: &[usize]) -> Vec<u8> {
    let order = match dtype.ends_with('1') {
        true => '|',
        false if cfg!(target_endian = "big") => '>',
        false => '<',
    };
    let axes = match shape {
        [n] => format!("{n},"),
        _ => shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    };
    let text =
        format!("{{'descr': '{order}{dtype}', 'fortran_order': False, 'shape': ({axes}), }}");
    let length = (MAGIC.len() + 4 + text.len() + 1).next_multiple_of(64) - MAGIC.len() - 4;
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend(format!("{text:<width$}\n", width = length - 1).into_bytes());
    bytes
}
