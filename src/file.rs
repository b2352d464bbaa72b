//! Reading input files whole and writing output files atomically. A leaf module: it imports errors only,
//! so that data sets, checkpoints and reports share it.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

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

/// Removes the temporary files that killed writers left in `folder`; those of writers that are alive stay.
pub fn remove_temporaries(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !name.starts_with('.') || !name.ends_with(SUFFIX) {
            continue;
        }
        let path = entry.path();
        // The lock is held until the file is gone.
        let file = File::options().write(true).open(&path);
        if file.as_ref().is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
        {
            continue;
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io(path, e)),
            _ => {}
        }
    }
    Ok(())
}

const SUFFIX: &str = ".rewire-tmp";

fn replace(
    target: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut temporary = Temporary::beside(target, folder)?;
    let mut out = BufWriter::new(temporary.file.try_clone()?);
    content(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&temporary.path, target)?;
    temporary.taken = true;
    File::open(folder)?.sync_all()
}

/// Writers of one target at a time, or killed ones on a file system without locks.
const MOST_WRITERS: usize = 1000;

/// A temporary file, locked as long as its writer lives; removed unless the rename took it.
struct Temporary {
    path: PathBuf,
    file: File,
    taken: bool,
}

impl Temporary {
    /// `.NAME.rewire-tmp` in `folder`, also where a killed writer has left it; `.NAME.1.rewire-tmp` and so on where a writer
    /// that is alive has it. So what kills leave is one file for a target.
    fn beside(target: &Path, folder: &Path) -> io::Result<Self> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        for number in 0..MOST_WRITERS {
            let number = match number {
                0 => String::new(),
                number => format!(".{number}"),
            };
            let path = folder.join(format!(".{name}{number}{SUFFIX}"));
            let file = match File::create_new(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => left_behind(&path),
                created => Some(created?).filter(|file| {
                    // It is this writer's also where the file system has no locks.
                    !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) && is_at(file, &path)
                }),
            };
            if let Some(file) = file {
                file.set_len(0)?;
                return Ok(Self { path, file, taken: false });
            }
        }
        Err(io::Error::other(format!("{MOST_WRITERS} other writers have temporary files there")))
    }
}

/// The file at `path`, locked, if no writer that is alive has it.
fn left_behind(path: &Path) -> Option<File> {
    // A pipe would wait for ever, and a link would lead elsewhere.
    fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
    let file = File::options().write(true).open(path).ok()?;
    (file.try_lock().is_ok() && is_at(&file, path)).then_some(file)
}

/// Whether `file` still is what lies at `path`: its writer may have renamed or removed it between opening and locking.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        match (file.metadata(), fs::symlink_metadata(path)) {
            (Ok(file), Ok(there)) => id(file) == id(there),
            _ => false,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.taken {
            // The error that led here is reported; this one could only hide it.
            let _ = fs::remove_file(&self.path);
        }
    }
}
