//! A line of the registry of data sets, and where its files lie.

use super::dataset::{Dataset, KEY, Need};
use super::remote::{self, RemoteFile};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// A line of [`super::DATASETS`].
#[derive(Debug, Clone, Copy)]
pub struct DatasetEntry {
    /// What `--data` calls it.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// The whole specification, e.g. `mnist[:DIR]`.
    pub form: &'static str,
    /// What `rewire data fetch` downloads; nothing where there is nothing to download.
    pub files: &'static [RemoteFile],
    /// Reads it; the text is what follows the first colon.
    pub(super) load: fn(Option<&str>, Need) -> Result<Dataset>,
}

/// The folder of a specification `NAME:DIR`; of `NAME` alone, where what can be fetched is looked for.
pub(super) fn folder(entry: &DatasetEntry, argument: Option<&str>) -> Result<PathBuf> {
    match argument {
        Some(dir) if !dir.is_empty() => {
            let path = PathBuf::from(dir);
            match std::fs::metadata(&path) {
                Ok(_) => Ok(path),
                Err(e) => Err(Error::io(path, e)),
            }
        }
        None if !entry.files.is_empty() => {
            let places = remote::places(entry.name);
            let there = places.iter().find(|place| place.is_dir());
            there.cloned().ok_or_else(|| not_fetched(entry, &places, ""))
        }
        _ => Err(Error::param(KEY, entry.name, format!("{} with a folder", entry.form))),
    }
}

/// The error for a name without a folder where none of `places` holds the data.
pub(super) fn not_fetched(entry: &DatasetEntry, places: &[PathBuf], more: &str) -> Error {
    let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
    let DatasetEntry { name, form, .. } = entry;
    let (places, fetch) = (places.join(", "), format!("`rewire data fetch {name}`"));
    Error::param(KEY, name, format!("{form}; its files are not in {places} ({fetch}{more})"))
}

/// The error for a file that is not there and is needed.
pub(super) fn missing(path: &Path, what: &str) -> Error {
    Error::file(path, format!("is missing; must hold {what}"))
}
