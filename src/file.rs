//! Reading input files whole and writing output files atomically. A leaf module: it imports errors only,
//! so that data sets, checkpoints and reports share it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};

/// Opens `path` for reading.
///
/// Errors: `Io` when it cannot be opened, `File` when it is not a regular file (a pipe would wait for ever).
pub fn open(path: &Path) -> Result<File> {
    let metadata = fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if metadata.is_dir() {
        return Err(Error::file(path, "is a folder; must be a regular file"));
    }
    if !metadata.is_file() {
        return Err(Error::file(path, "is a pipe, a socket or a device; must be a regular file"));
    }
    File::open(path).map_err(|e| Error::io(path, e))
}

/// Of a file that is read whole, where its reader knows no tighter limit: 64 GiB.
const MOST_BYTES: u64 = 1 << 36;

/// The whole content of `path`, at most 64 GiB.
///
/// Errors: as [`read_bounded`].
pub fn read(path: &Path) -> Result<Vec<u8>> {
    read_bounded(path, MOST_BYTES)
}

/// The whole content of `path`, at most `most_bytes`.
///
/// Errors: as [`open`], and `File` when the file is longer or does not fit into memory.
pub fn read_bounded(path: &Path, most_bytes: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let len = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let too_long = |len: u64| {
        let want = format!("a file of this kind may have {most_bytes} at most");
        Err(Error::file(path, format!("is {len} bytes long; {want}")))
    };
    if len > most_bytes {
        return too_long(len);
    }
    let mut bytes = Vec::new();
    let reserved = usize::try_from(len).is_ok_and(|len| bytes.try_reserve_exact(len).is_ok());
    if !reserved {
        return Err(Error::file(path, format!("its {len} bytes do not fit into memory")));
    }
    // A file may grow while it is read, and those of the system say that they are empty.
    file.take(most_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io(path, e))?;
    match bytes.len() as u64 {
        len if len > most_bytes => too_long(len),
        _ => Ok(bytes),
    }
}

/// Writes `path` so that a reader, or a run after a crash, sees the old content or the new one, never a part:
/// a temporary file beside it, fsync, rename, fsync of the folder.
///
/// A symbolic link stays and its target is replaced. A device or a pipe (`/dev/stdout`) is written straight.
/// No folder is created.
///
/// Errors: `Io` with what `content` or the file system reported; the temporary file is gone then.
pub fn write(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            return Err(Error::file(path, "is a folder; must be a file"));
        }
        Ok(metadata) if !metadata.is_file() => {
            let device = File::options().write(true).open(path).map_err(|e| Error::io(path, e))?;
            let mut out = BufWriter::new(device);
            return content(&mut out).and_then(|()| out.flush()).map_err(|e| Error::io(path, e));
        }
        _ => {}
    }
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    replace(&target, content).map_err(|e| Error::io(path, e))
}

/// [`write()`] of bytes that are there already.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, |out| out.write_all(bytes))
}

/// Removes the temporary files that killed writers left in `folder`. Only for a folder with no other writer.
pub fn remove_temporaries(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(SUFFIX) {
            fs::remove_file(entry.path()).map_err(|e| Error::io(entry.path(), e))?;
        }
    }
    Ok(())
}

const SUFFIX: &str = ".rewire-tmp";

fn replace(
    target: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let unique = format!("{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let temporary = folder.join(format!(".{}.{unique}{SUFFIX}", name.to_string_lossy()));
    let mut guard = Temporary(Some(temporary.clone()));
    let mut out = BufWriter::new(File::create(&temporary)?);
    content(&mut out)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, target)?;
    guard.0 = None;
    File::open(folder)?.sync_all()
}

/// Removes its file unless the rename took it.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // The error that led here is reported; this one could only hide it.
            let _ = fs::remove_file(path);
        }
    }
}
