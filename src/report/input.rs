//! Reads what a report is made of: run folders and JSON files, each recognised by what it holds.

use super::load::Run;
use super::peers::Peers;
use super::verified::Verified;
use crate::bench::BenchResult;
use crate::run::Attacked;
use crate::{Error, Result, file};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The kinds of input, for messages.
const KINDS: &str = "a run folder, a folder of `rewire attack --out`, or a JSON file of `rewire attack --json`, \
    `rewire bench --json`, `rewire verify --json` or benches/peers (inference.py, kernels.py, train_step.py --device cuda)";

/// Everything that one report shows.
#[derive(Default)]
pub struct Report {
    /// Run folders.
    pub runs: Vec<Run>,
    /// Results of `rewire attack`.
    pub attacked: Vec<Attacked>,
    /// Results of `rewire bench`.
    pub benches: Vec<Named<BenchResult>>,
    /// Results of `rewire verify`.
    pub verified: Vec<Named<Verified>>,
    /// Comparisons with other frameworks.
    pub peers: Vec<Peers>,
}

/// A result and the file that it was read from.
pub struct Named<T> {
    /// The file.
    pub path: PathBuf,
    /// What it holds.
    pub result: T,
}

impl Report {
    /// Reads each path as what it is.
    ///
    /// Errors: [`crate::ErrorKind::File`] for a path of no known kind, or one that is damaged; it lists the kinds.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut report = Self::default();
        for path in paths {
            report.add(path)?;
        }
        Ok(report)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        if !path.exists() {
            return Err(Error::file(path, format!("does not exist; expected {KINDS}")));
        }
        if path.is_dir() {
            if !path.join("attack.json").is_file() {
                self.runs.push(Run::load(path)?);
                return Ok(());
            }
            let result = path.join("result.json");
            if !result.is_file() {
                let message = "has no result.json yet; the same `rewire attack` command goes on and writes it";
                return Err(Error::file(path, message));
            }
            self.attacked.push(Attacked::load(&result)?);
            return Ok(());
        }
        let document: Value =
            serde_json::from_slice(&file::read_bounded(path, 1 << 30)?).map_err(|error| {
                Error::file(path, format!("is not JSON ({error}); expected {KINDS}"))
            })?;
        let has = |keys: &[&str]| keys.iter().all(|key| document.get(key).is_some());
        if has(&["attacks", "clean"]) {
            self.attacked.push(parsed(path, "rewire attack", document)?);
        } else if has(&["rows", "figures", "arch"]) {
            let result = parsed(path, "rewire bench", document)?;
            self.benches.push(Named { path: path.to_owned(), result });
        } else if has(&["verified", "images"]) {
            let result = parsed(path, "rewire verify", document)?;
            self.verified.push(Named { path: path.to_owned(), result });
        } else if has(&["cases"]) || has(&["rows", "what"]) {
            self.peers.push(parsed(path, "benches/peers", document)?);
        } else {
            return Err(Error::file(path, format!("is JSON of no known kind; expected {KINDS}")));
        }
        Ok(())
    }
}

fn parsed<T: DeserializeOwned>(path: &Path, of: &str, document: Value) -> Result<T> {
    serde_json::from_value(document)
        .map_err(|error| Error::file(path, format!("is a damaged result of {of}: {error}")))
}
