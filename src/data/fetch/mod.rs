//! Downloads of data sets: resumable, checked, unpacked beside the place and moved there whole.
//!
//! What is received goes to `NAME.part`; it becomes `NAME` once its SHA-256 is the published one. An archive is unpacked
//! to a folder that gets its name at the end, so a folder of that name is complete and a killed fetch goes on.

mod http;
mod unpack;

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

pub use unpack::unpack;

use super::remote::RemoteFile;
use crate::error::{Error, ErrorKind, Result};

/// What a fetch is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchEvent {
    /// So many bytes of a file are on the disk.
    Receiving {
        /// Its name.
        name: &'static str,
        /// Bytes.
        done: u64,
        /// Its length.
        total: u64,
    },
    /// So much of an archive is unpacked.
    Unpacking {
        /// Its name.
        name: &'static str,
        /// Bytes of the archive, or members.
        done: u64,
        /// All of them.
        total: u64,
    },
    /// A place did not give the file; the next is tried.
    Failed {
        /// The address.
        url: String,
        /// What was wrong.
        reason: String,
    },
}

/// Who asks for a download, and who is told of it.
struct Job<'a> {
    client: http::Client,
    stop: &'a AtomicBool,
    observe: &'a mut dyn FnMut(FetchEvent),
    received: u64,
}

/// Brings `files` to `folder`, which is created, and returns the number of bytes received; 0 if all was there.
/// With `mirror`, `MIRROR/NAME` is tried first. Where `stop` becomes true, what was received stays and the next call
/// goes on from there.
///
/// Errors: `Io` where no place gives a file or the disk does not take it; `File` for a file of that name with another
/// content, for an archive that is not safe to unpack, and where another fetch is writing; `Interrupted`.
pub fn fetch(
    files: &[RemoteFile],
    folder: &Path,
    mirror: Option<&str>,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(FetchEvent),
) -> Result<u64> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let lock = File::open(folder).map_err(|e| Error::io(folder, e))?;
    if let Err(TryLockError::WouldBlock) = lock.try_lock() {
        return Err(Error::file(folder, "is being written by another fetch"));
    }
    let mut job = Job { client: http::Client::new(), stop, observe, received: 0 };
    let brought = files.iter().try_for_each(|file| job.bring(file, folder, mirror));
    // Closing it is not enough: a child that another thread is just starting holds it open for a moment.
    let _ = lock.unlock();
    brought.map(|()| job.received)
}

impl Job<'_> {
    fn bring(&mut self, file: &RemoteFile, folder: &Path, mirror: Option<&str>) -> Result<()> {
        let path = folder.join(file.name);
        if file.unpacks_to.is_some_and(|name| folder.join(name).is_dir()) {
            return Ok(());
        }
        match path.exists() {
            true if is_published(&path, file)? => {}
            true => {
                let message = "is not the file that was published; move it away to fetch it";
                return Err(Error::file(&path, message));
            }
            false => self.download(file, &path, mirror)?,
        }
        let Some(name) = file.unpacks_to else { return Ok(()) };
        let (stop, observe) = (self.stop, &mut *self.observe);
        unpack(&path, folder, name, &mut |done, total| {
            observe(FetchEvent::Unpacking { name: file.name, done, total });
            interrupted(stop)
        })?;
        fs::remove_file(&path).map_err(|e| Error::io(&path, e))
    }

    /// From the first place that has it.
    fn download(&mut self, file: &RemoteFile, path: &Path, mirror: Option<&str>) -> Result<()> {
        let part = PathBuf::from(format!("{}.part", path.display()));
        let mirror = mirror.map(|base| format!("{}/{}", base.trim_end_matches('/'), file.name));
        let urls = mirror.into_iter().chain(file.urls.iter().map(|url| (*url).to_owned()));
        let mut reasons = Vec::new();
        for url in urls {
            match self.download_from(&url, file, &part)? {
                Ok(()) => {
                    fs::rename(&part, path).map_err(|e| Error::io(path, e))?;
                    let folder = path.parent().unwrap_or(Path::new("."));
                    return File::open(folder)
                        .and_then(|folder| folder.sync_all())
                        .map_err(|e| Error::io(folder, e));
                }
                Err(reason) => {
                    reasons.push(format!("{url}: {reason}"));
                    (self.observe)(FetchEvent::Failed { url, reason });
                }
            }
        }
        if length(&part) == 0 {
            // Nothing to go on from, and it may not even be there.
            let _ = fs::remove_file(&part);
        }
        let reasons = reasons.join("; ");
        Err(Error::io(path, io::Error::other(format!("no place gives the file: {reasons}"))))
    }

    /// The inner error says why this place is of no use; the outer one ends the fetch.
    fn download_from(
        &mut self,
        url: &str,
        file: &RemoteFile,
        part: &Path,
    ) -> Result<std::result::Result<(), String>> {
        // A connection that breaks is taken up again as long as it brings something.
        const ATTEMPTS: usize = 16;
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            let before = length(part);
            fresh |= before == 0;
            let (stop, observe, received) = (self.stop, &mut *self.observe, &mut self.received);
            let (name, total) = (file.name, file.size);
            let outcome = self.client.get(url, part, total, &mut |done, new| {
                *received += new;
                observe(FetchEvent::Receiving { name, done, total });
                interrupted(stop)
            });
            match outcome {
                Ok(()) if is_published(part, file)? => return Ok(Ok(())),
                Ok(()) => {
                    fs::remove_file(part).map_err(|e| Error::io(part, e))?;
                    // Bytes of an earlier call may have been another file's: once more, all of it.
                    if fresh {
                        return Ok(Err("its content is not what was published (SHA-256)".into()));
                    }
                }
                Err(http::Failure::Here(error)) => return Err(error),
                Err(http::Failure::There(_)) if length(part) > before => {}
                Err(http::Failure::There(reason)) => return Ok(Err(reason)),
            }
        }
        Ok(Err(format!("broke off {ATTEMPTS} times")))
    }
}

/// The length of a file; 0 where there is none.
fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Compares length and SHA-256.
fn is_published(path: &Path, file: &RemoteFile) -> Result<bool> {
    if length(path) != file.size {
        return Ok(false);
    }
    let mut bytes = crate::file::open(path)?;
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match bytes.read(&mut chunk).map_err(|e| Error::io(path, e))? {
            0 => break,
            n => hash.update(&chunk[..n]),
        }
    }
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(digits == file.sha256)
}

fn interrupted(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(ErrorKind::Interrupted("the same command goes on from here".into()).into()),
        false => Ok(()),
    }
}
