//! Archives: gzipped tar and zip, files and folders only, nothing outside the place.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Bytes and members that an archive may unpack to: several times what the largest data set here has.
const MOST_BYTES: u64 = 4 << 30;
const MOST_MEMBERS: u64 = 1 << 20;

/// How far an unpacking is, of how much; an error ends it.
type Observe<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

/// Unpacks `archive` (`.zip`, else a gzipped tar) beside `folder/name` and moves its folder `name` there; nothing of that
/// name may be there before. A kill leaves a folder that the next call removes. `observe` hears how much is done, and of
/// how much; an error of it ends the work.
///
/// Errors: `File` for an archive that is corrupt, holds something else than files and folders, or would write elsewhere;
/// `Io` where the disk does not take it.
pub fn unpack(archive: &Path, folder: &Path, name: &str, observe: Observe) -> Result<()> {
    let temporary = folder.join(format!(".{name}.rewire-tmp"));
    let remove = || match fs::remove_dir_all(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(&temporary, e)),
        _ => Ok(()),
    };
    remove()?;
    let mut target = Target { archive, root: &temporary, bytes: 0, members: 0 };
    let unpacked = target.folder(Path::new("")).and_then(|()| {
        match archive.extension().is_some_and(|extension| extension == "zip") {
            true => zip(&mut target, observe),
            false => tar(&mut target, observe),
        }?;
        let (from, to) = (temporary.join(name), folder.join(name));
        match from.is_dir() {
            true => {
                sync(&from)?;
                fs::rename(&from, &to).map_err(|e| Error::io(&to, e))?;
                // The archive goes next.
                File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::io(folder, e))
            }
            false => Err(Error::file(archive, format!("holds no folder {name}"))),
        }
    });
    // What went wrong first is what is reported.
    unpacked.and(remove())
}

/// Where members go.
struct Target<'a> {
    archive: &'a Path,
    root: &'a Path,
    bytes: u64,
    members: u64,
}

impl Target<'_> {
    fn refuse(&self, what: impl std::fmt::Display) -> Error {
        Error::file(self.archive, format!("{what}; nothing of it was kept"))
    }

    /// Corruption is what reading an archive fails by.
    fn broken(&self, error: impl std::fmt::Display) -> Error {
        let error = error.to_string().replace('\n', " ");
        self.refuse(format!("is cut short or corrupt: {error}"))
    }

    /// Where a member's name leads; names that leave the folder are refused.
    fn place(&mut self, name: &Path) -> Result<PathBuf> {
        self.members += 1;
        if self.members > MOST_MEMBERS {
            return Err(self.refuse(format!("holds more than {MOST_MEMBERS} members")));
        }
        let mut path = self.root.to_owned();
        for component in name.components() {
            match component {
                Component::Normal(part) => path.push(part),
                Component::CurDir => {}
                _ => {
                    let what = format!("names {:?}, which lies outside its folder", name.display());
                    return Err(self.refuse(what));
                }
            }
        }
        Ok(path)
    }

    fn folder(&mut self, name: &Path) -> Result<()> {
        let path = self.place(name)?;
        fs::create_dir_all(&path).map_err(|e| Error::io(&path, e))
    }

    fn file(&mut self, name: &Path, from: &mut impl Read) -> Result<()> {
        let path = self.place(name)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        }
        let mut to = File::create_new(&path).map_err(|e| Error::io(&path, e))?;
        let mut chunk = vec![0; 1 << 15];
        loop {
            let n = from.read(&mut chunk).map_err(|e| self.broken(e))?;
            if n == 0 {
                return Ok(());
            }
            self.bytes += n as u64;
            if self.bytes > MOST_BYTES {
                return Err(self.refuse(format!("unpacks to more than {MOST_BYTES} bytes")));
            }
            io::Write::write_all(&mut to, &chunk[..n]).map_err(|e| Error::io(&path, e))?;
        }
    }
}

/// Brings a folder and all that is in it to the disk. Many at once share a commit of the file system.
fn sync(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let entries: Vec<_> = entries.collect::<io::Result<_>>().map_err(|e| Error::io(folder, e))?;
    entries.par_iter().try_for_each(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => sync(&path),
            false => File::open(&path).and_then(|f| f.sync_all()).map_err(|e| Error::io(&path, e)),
        }
    })?;
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::io(folder, e))
}

/// Counts what is read of the archive.
struct Counted<'a>(BufReader<File>, &'a Cell<u64>);

impl Read for Counted<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(to)?;
        self.1.set(self.1.get() + n as u64);
        Ok(n)
    }
}

fn tar(target: &mut Target, observe: Observe) -> Result<()> {
    let file = crate::file::open(target.archive)?;
    let total = file.metadata().map_err(|e| Error::io(target.archive, e))?.len();
    let done = Cell::new(0);
    let mut archive = tar::Archive::new(GzDecoder::new(Counted(BufReader::new(file), &done)));
    for entry in archive.entries().map_err(|e| target.broken(e))? {
        let mut entry = entry.map_err(|e| target.broken(e))?;
        let name = entry.path().map_err(|e| target.broken(e))?.into_owned();
        let (kind, size) = (entry.header().entry_type(), entry.size());
        let before = target.bytes;
        if kind.is_dir() {
            target.folder(&name)?;
        } else if kind.is_file() {
            target.file(&name, &mut entry)?;
            if target.bytes - before != size {
                return Err(target.broken(format!("{:?} ends early", name.display())));
            }
        } else if !kind.is_pax_global_extensions() {
            let what = format!("holds {:?}, which is no file and no folder", name.display());
            return Err(target.refuse(what));
        }
        observe(done.get(), total)?;
    }
    // The checksum stands at the end of the gzip stream, behind tar's padding.
    io::copy(&mut archive.into_inner().take(1 << 20), &mut io::sink())
        .map_err(|e| target.broken(e))?;
    Ok(())
}

fn zip(target: &mut Target, observe: Observe) -> Result<()> {
    let file = BufReader::new(crate::file::open(target.archive)?);
    let mut archive = zip::ZipArchive::new(file).map_err(|e| target.broken(e))?;
    let total = archive.len();
    for index in 0..total {
        let mut entry = archive.by_index(index).map_err(|e| target.broken(e))?;
        // Names are paths with slashes on every system; a backslash is a folder on some.
        let name = entry.name().map_err(|e| target.broken(e))?.into_owned();
        if name.contains('\\') {
            return Err(target.refuse(format!("names {name:?}, which is a path elsewhere")));
        }
        // The upper half of the mode's bits is the kind, where a Unix program wrote the archive.
        let kind = entry.unix_mode().unwrap_or(0) & 0o170_000;
        match kind {
            0 | 0o100_000 | 0o040_000 => {}
            _ => {
                let what = format!("holds {name:?}, which is no file and no folder");
                return Err(target.refuse(what));
            }
        }
        match entry.is_dir() {
            true => target.folder(Path::new(&name))?,
            false => target.file(Path::new(&name), &mut entry)?,
        }
        observe(index as u64 + 1, total as u64)?;
    }
    Ok(())
}
