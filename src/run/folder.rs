//! The folder of a run: its files, and who may write them.

use super::recipe::Recipe;
use crate::{Error, Result, file};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// TensorBoard's event file. The name has neither time nor host in it: TensorBoard asks for `tfevents` alone.
pub(super) const SCALARS: &str = "events.out.tfevents.rewire";

/// The recipe that the checkpoints were trained by: `recipe.toml` can be edited.
const TRAINED: &str = "checkpoints/recipe.toml";

/// What a finished run says of its best checkpoint; another one may be the best after more epochs.
const RESULTS: [&str; 3] = ["result.json", "samples.json", "bench.json"];

/// Files that a run, or a command on one, leaves; `--force` removes them.
const FILES: [&str; 15] = [
    "recipe.toml",
    TRAINED,
    "result.json",
    "environment.json",
    "events.jsonl",
    "steps.csv",
    "epochs.csv",
    SCALARS,
    "samples.json",
    "bench.json",
    "report.html",
    "checkpoints/state.safetensors",
    "checkpoints/last.safetensors",
    "checkpoints/best.safetensors",
    // Of earlier versions.
    "checkpoints/evaluation.json",
];

/// A run's folder, locked against other writers as long as this lives.
pub struct RunFolder {
    dir: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// A folder for a new run; parents are created. With `force` a run that is there is removed, and nothing else.
    ///
    /// Errors: [`crate::ErrorKind::Param`] where it holds a run already, [`crate::ErrorKind::Io`] where it cannot be written.
    pub fn create(dir: &Path, force: bool) -> Result<Self> {
        Self::check_free(dir, force)?;
        fs::create_dir_all(dir.join("checkpoints")).map_err(|error| Error::io(dir, error))?;
        let folder = Self::lock(dir)?;
        // The recipe goes first: without it the rest is no run.
        folder.remove(&FILES)?;
        folder.remove_temporaries()?;
        folder.remove_evaluation()?;
        Ok(folder)
    }

    /// Refuses a folder that holds a run, unless `force` replaces it.
    pub fn check_free(dir: &Path, force: bool) -> Result<()> {
        if !dir.join("recipe.toml").exists() || force {
            return Ok(());
        }
        let want = "a folder that holds no run; --force replaces the run, `rewire train --resume` goes on with it";
        Err(Error::param("--out", dir.display(), want))
    }

    /// The folder of a run that is to go on.
    ///
    /// Errors: [`crate::ErrorKind::File`] where it holds none.
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.join("recipe.toml").is_file() {
            return Err(Error::file(
                dir,
                "is not the folder of a run: it holds no recipe.toml. `rewire train RECIPE --out DIR` starts a run",
            ));
        }
        let checkpoints = dir.join("checkpoints");
        fs::create_dir_all(&checkpoints).map_err(|error| Error::io(&checkpoints, error))?;
        let folder = Self::lock(dir)?;
        folder.remove_temporaries()?;
        Ok(folder)
    }

    fn lock(dir: &Path) -> Result<Self> {
        Ok(Self { dir: dir.to_owned(), _lock: lock(dir)? })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file of it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A file below `checkpoints/`.
    pub fn checkpoint(&self, name: &str) -> PathBuf {
        self.dir.join("checkpoints").join(name)
    }

    /// The recipe that the checkpoints were trained by.
    pub(super) fn trained_recipe(&self) -> Result<Option<Recipe>> {
        let path = self.path(TRAINED);
        path.exists().then(|| Recipe::recorded(&path)).transpose()
    }

    /// Writes [`Self::trained_recipe`].
    pub(super) fn write_trained_recipe(&self, recipe: &Recipe) -> Result<()> {
        file::write_bytes(&self.path(TRAINED), recipe.text()?.as_bytes())
    }

    /// Writes `recipe.toml`.
    pub(super) fn write_recipe(&self, recipe: &Recipe) -> Result<()> {
        file::write_bytes(&self.path("recipe.toml"), recipe.text()?.as_bytes())
    }

    /// Removes what a finished run says of itself, for it goes on.
    pub(super) fn remove_results(&self) -> Result<()> {
        self.remove(&RESULTS)
    }

    /// Removes what killed writers have left.
    fn remove_temporaries(&self) -> Result<()> {
        file::remove_temporaries(&self.dir)?;
        file::remove_temporaries(&self.dir.join("checkpoints"))
    }

    fn remove(&self, names: &[&str]) -> Result<()> {
        for path in names.iter().map(|name| self.path(name)) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The batches of the evaluation at the end that are done, an [`super::AttackFolder`].
    pub(super) fn evaluation(&self) -> PathBuf {
        self.checkpoint("evaluation")
    }

    /// Removes them, once `result.json` says what they add up to.
    pub(super) fn remove_evaluation(&self) -> Result<()> {
        let dir = self.evaluation();
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(dir, error))
            }
            _ => Ok(()),
        }
    }
}

/// Keeps other writers out of a folder as long as the file lives.
///
/// Errors: [`crate::ErrorKind::File`] where another holds it.
pub(super) fn lock(dir: &Path) -> Result<File> {
    let lock = File::open(dir).map_err(|error| Error::io(dir, error))?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::file(
            dir,
            "another process is writing to this folder; try again when that process has ended",
        )),
        // A file system without locks does not keep anybody from working.
        _ => Ok(lock),
    }
}
