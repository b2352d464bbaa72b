//! `environment.json`: where and how a run was made.

use super::prolonged::Prolonged;
use crate::{Error, Result, file};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What the result of a run depends on besides its recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Version of this crate.
    pub version: String,
    /// Device, as `--device` takes it.
    pub device: String,
    /// Arithmetic of matrix products.
    pub mode: String,
    /// The seed.
    pub seed: u64,
    /// Threads of the CPU.
    pub threads: usize,
    /// The command line that started the run.
    pub command: Vec<String>,
    /// Wall-clock seconds up to the last checkpoint, summed over all resumed parts.
    pub seconds: f64,
    /// Changes of the number of epochs after the run had begun, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prolonged: Vec<Prolonged>,
}

impl Environment {
    /// This process.
    pub fn here(device: &str, mode: &str, seed: u64) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            device: device.into(),
            mode: mode.into(),
            seed,
            threads: rayon::current_num_threads(),
            command: std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect(),
            seconds: 0.0,
            prolonged: Vec::new(),
        }
    }

    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self> {
        serde_json::from_slice(&file::read(path)?)
            .map_err(|error| Error::file(path, error.to_string()))
    }

    /// Writes the file.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }
}

/// Writes a JSON document, atomically.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::file(path, error.to_string()))?;
    text.push('\n');
    file::write_bytes(path, text.as_bytes())
}
