//! Reads a run folder. The report knows files only, never a model.

use super::csv::Csv;
use crate::bench::BenchResult;
use crate::run::{RunResult, Samples};
use crate::{Error, Result, file};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// What a run folder holds. A run that is not finished has no result yet; a run whose speed was never measured has no
/// `bench.json`.
pub struct Run {
    /// The folder.
    pub dir: PathBuf,
    /// `recipe.toml`.
    pub recipe: toml::Table,
    /// `result.json`.
    pub result: Option<RunResult>,
    /// `bench.json`: what `rewire bench --json` prints.
    pub bench: Option<BenchResult>,
    /// `samples.json`.
    pub samples: Option<Samples>,
    /// `epochs.csv`.
    pub epochs: Csv,
    /// `steps.csv`.
    pub steps: Csv,
    /// Bytes of `checkpoints/best.safetensors`.
    pub checkpoint_bytes: Option<u64>,
}

impl Run {
    /// Reads the folder.
    ///
    /// Errors: [`crate::ErrorKind::File`] where `dir` is no run folder or a file in it is damaged.
    pub fn load(dir: &Path) -> Result<Self> {
        let recipe = dir.join("recipe.toml");
        if !recipe.is_file() {
            return Err(Error::file(dir, "is not a run folder: no recipe.toml in it"));
        }
        let text = String::from_utf8(file::read_bounded(&recipe, 1 << 24)?)
            .map_err(|_| Error::file(&recipe, "is not UTF-8 text; expected TOML"))?;
        let mut run = Self {
            dir: dir.to_owned(),
            recipe: text
                .parse()
                .map_err(|error: toml::de::Error| Error::file(&recipe, error.message()))?,
            result: json(&dir.join("result.json"))?,
            bench: json(&dir.join("bench.json"))?,
            samples: json(&dir.join("samples.json"))?,
            epochs: Csv::load(&dir.join("epochs.csv"))?,
            steps: Csv::load(&dir.join("steps.csv"))?,
            checkpoint_bytes: None,
        };
        run.checkpoint_bytes = std::fs::metadata(run.best()).ok().map(|file| file.len());
        Ok(run)
    }

    /// The recipe's name, or the folder's.
    pub fn name(&self) -> String {
        match &self.result {
            Some(result) => result.name.clone(),
            None => self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }

    /// The checkpoint that the result speaks of.
    pub fn best(&self) -> PathBuf {
        self.dir.join("checkpoints").join("best.safetensors")
    }

    /// The text of a key of a table of the recipe, such as `prune.granularity`.
    pub fn setting(&self, table: &str, key: &str) -> Option<String> {
        let value = self.recipe.get(table)?.get(key)?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    serde_json::from_slice(&file::read_bounded(path, 1 << 30)?)
        .map(Some)
        .map_err(|error| Error::file(path, error.to_string()))
}
