//! MNIST's idx files, plain or gzipped.
//!
//! Magic `00 00 08 d` (unsigned bytes, d axes), d big-endian u32 lengths, the bytes.
//! Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits".

use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};
use crate::file;

/// Bytes of data that a file may unpack to; MNIST's largest has 47 MB.
const MOST: u64 = 1 << 30;

/// Reads the file `path` with `axes` axes; gzipped if its first bytes say so. Returns lengths and bytes.
///
/// Errors: `Io`; `File` for a wrong magic number or a length that is not what the header says.
pub(super) fn read(path: &Path, axes: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    parse(path, &file::read(path)?, axes)
}

/// As [`read`], of bytes; `path` is for messages.
pub(super) fn parse(path: &Path, bytes: &[u8], axes: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        parse_stream(path, MultiGzDecoder::new(bytes), axes)
    } else {
        parse_stream(path, bytes, axes)
    }
}

fn parse_stream(path: &Path, mut stream: impl Read, axes: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    let broken = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::file(path, "is cut short"),
        _ => Error::file(path, format!("is corrupt: {e}")),
    };
    let mut word = [0u8; 4];
    stream.read_exact(&mut word).map_err(broken)?;
    if word != [0, 0, 8, axes as u8] {
        return Err(Error::file(
            path,
            format!(
                "magic number 0x{:08x}; must be 0x{:08x}, an idx file of bytes with {axes} axes",
                u32::from_be_bytes(word),
                0x0800 + axes
            ),
        ));
    }
    let mut shape = Vec::with_capacity(axes);
    for _ in 0..axes {
        stream.read_exact(&mut word).map_err(broken)?;
        shape.push(u32::from_be_bytes(word) as usize);
    }
    let want = shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n as u64));
    let want = want.filter(|&want| want <= MOST).ok_or_else(|| {
        let message = format!("its shape {shape:?} is impossible; must be of at most {MOST} bytes");
        Error::file(path, message)
    })?;
    // Grows with what is there, not with what the header claims.
    let mut data = Vec::new();
    stream.by_ref().take(want.saturating_add(1)).read_to_end(&mut data).map_err(broken)?;
    if data.len() as u64 != want {
        let have = if data.len() as u64 > want { "more".into() } else { data.len().to_string() };
        return Err(Error::file(
            path,
            format!("its shape {shape:?} needs {want} bytes of data, the file has {have}"),
        ));
    }
    Ok((shape, data))
}
