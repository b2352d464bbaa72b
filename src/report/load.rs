//! Reads a run folder. The report knows files only, never a model.

use super::csv::Csv;
use crate::bench::BenchResult;
use crate::run::{RunResult, Samples};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// What a run folder holds. A run that is not finished has no result yet; a run that was never measured
/// has no `bench.json`.
pub struct Run {
    /// The folder.
    pub dir: PathBuf,
    /// `result.json`.
    pub result: Option<RunResult>,
    /// `bench.json`.
    pub bench: Option<BenchResult>,
    /// `samples.json`.
    pub samples: Option<Samples>,
    /// `epochs.csv`.
    pub epochs: Csv,
    /// `steps.csv`.
    pub steps: Csv,
}

impl Run {
    /// Reads the folder.
    ///
    /// Errors: [`crate::ErrorKind::File`] where `dir` is no run folder or a file in it is damaged.
    pub fn load(dir: &Path) -> Result<Self> {
        if !dir.join("recipe.toml").is_file() {
            return Err(Error::file(dir, "is not a run folder: no recipe.toml in it"));
        }
        Ok(Self {
            dir: dir.to_owned(),
            result: json(&dir.join("result.json"))?,
            bench: json(&dir.join("bench.json"))?,
            samples: json(&dir.join("samples.json"))?,
            epochs: Csv::load(&dir.join("epochs.csv"))?,
            steps: Csv::load(&dir.join("steps.csv"))?,
        })
    }

    /// The recipe's name, or the folder's.
    pub fn name(&self) -> String {
        match &self.result {
            Some(result) => result.name.clone(),
            None => self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match crate::file::read_bounded(path, 1 << 30) {
        Ok(text) => text,
        Err(_) if !path.exists() => return Ok(None),
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| Error::file(path, error.to_string()))
}
