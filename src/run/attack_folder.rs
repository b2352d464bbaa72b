//! Where finished batches of attacks are kept: a folder with a file a batch.

use super::environment::write_json;
use super::folder::{self, RunFolder};
use crate::attack::Outcome;
use crate::data::Split;
use crate::{Error, Result, file, npy};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The folder of a job, locked against other writers as long as this value lives. `attack.json` says which job the folder
/// belongs to, `parts/` holds a file for each finished batch, and `result.json` is written at the end.
pub struct AttackFolder {
    dir: PathBuf,
    images: bool,
    _lock: File,
}

impl AttackFolder {
    /// Opens the folder, or creates it. Finished batches of the same job, one with an equal `identity`, are kept. With `force`
    /// the batches of another job are removed. `images` says whether the adversarial examples are stored with each batch.
    ///
    /// Errors: [`crate::ErrorKind::Param`] where it holds the batches of another job or a run.
    pub fn open(dir: &Path, identity: &impl Serialize, images: bool, force: bool) -> Result<Self> {
        RunFolder::check_free(dir, false)?;
        let parts = dir.join("parts");
        fs::create_dir_all(&parts).map_err(|error| Error::io(&parts, error))?;
        let folder = Self { dir: dir.to_owned(), images, _lock: folder::lock(dir)? };
        let path = dir.join("attack.json");
        let identity = serde_json::to_value(identity)
            .map_err(|error| Error::file(&path, error.to_string()))?;
        let held: Option<serde_json::Value> = match path.exists() {
            true => serde_json::from_slice(&file::read(&path)?).ok(),
            false => None,
        };
        file::remove_temporaries(dir)?;
        file::remove_temporaries(&parts)?;
        if held.as_ref() == Some(&identity) {
            return Ok(folder);
        }
        folder.clear(force)?;
        write_json(&path, &identity)?;
        Ok(folder)
    }

    /// Removes what another job has left.
    fn clear(&self, force: bool) -> Result<()> {
        let (parts, result) = (self.dir.join("parts"), self.dir.join("result.json"));
        let entries = fs::read_dir(&parts).map_err(|error| Error::io(&parts, error))?;
        let held = entries.collect::<std::io::Result<Vec<_>>>();
        let held = held.map_err(|error| Error::io(&parts, error))?;
        let foreign = self.dir.join("attack.json").exists() || !held.is_empty() || result.exists();
        if foreign && !force {
            let want = "a folder that holds no other attacks; --force replaces them";
            return Err(Error::param("--out", self.dir.display(), want));
        }
        // A batch's JSON goes before its images: what a kill leaves behind is no batch then.
        let mut held: Vec<PathBuf> = held.iter().map(fs::DirEntry::path).collect();
        held.sort_by_key(|path| path.extension().is_none_or(|extension| extension != "json"));
        for part in held {
            fs::remove_file(&part).map_err(|error| Error::io(&part, error))?;
        }
        match fs::remove_file(&result) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(result, error))
            }
            _ => Ok(()),
        }
    }

    /// Writes `result.json`.
    pub fn finish(&self, result: &impl Serialize) -> Result<()> {
        write_json(&self.dir.join("result.json"), result)
    }

    fn part(&self, list: usize, first: usize, extension: &str) -> PathBuf {
        self.dir.join("parts").join(format!("{list}-{first}.{extension}"))
    }

    /// What was saved of a list: batch after batch from the first image on.
    pub(super) fn load(&self, list: usize, split: &Split, batch_size: usize) -> Result<Outcome> {
        let [n, c, h, w] = split.shape;
        let mut outcome = Outcome::default();
        while outcome.clean.len() < n {
            let first = outcome.clean.len();
            let path = self.part(list, first, "json");
            if !path.exists() {
                break;
            }
            let part: Part = serde_json::from_slice(&file::read(&path)?)
                .map_err(|error| Error::file(&path, error.to_string()))?;
            let images = batch_size.min(n - first);
            if !part.is_of(images) {
                return Err(Error::file(
                    &path,
                    format!(
                        "does not hold the {images} images of its batch; remove the file, and the batch is attacked again"
                    ),
                ));
            }
            let nearest = !part.nearest_distance.is_empty();
            part.append_to(&mut outcome);
            let shape = [images, h, w, c];
            if self.images {
                let path = self.part(list, first, "npy");
                outcome.adversarial.extend(read_images(&path, shape)?);
            }
            if self.images && nearest {
                let path = self.part(list, first, "nearest.npy");
                outcome.nearest.extend(read_images(&path, shape)?);
            }
        }
        Ok(outcome)
    }

    /// Writes what is new since image `first`. The images go first: a part counts once its JSON file is there.
    pub(super) fn save(
        &self,
        list: usize,
        outcome: &Outcome,
        first: usize,
        split: &Split,
    ) -> Result<()> {
        if self.images {
            let [_, c, h, w] = split.shape;
            let shape = [outcome.clean.len() - first, h, w, c];
            let pixels = &outcome.adversarial[first * h * w * c..];
            npy::write(&self.part(list, first, "npy"), &shape, pixels)?;
            if !outcome.nearest.is_empty() {
                let pixels = &outcome.nearest[first * h * w * c..];
                npy::write(&self.part(list, first, "nearest.npy"), &shape, pixels)?;
            }
        }
        write_json(&self.part(list, first, "json"), &Part::of(outcome, first))
    }
}

fn read_images(path: &Path, shape: [usize; 4]) -> Result<Vec<f32>> {
    let array = npy::read(path)?;
    let pixels = array.to_f32().filter(|_| array.shape == shape);
    pixels.ok_or_else(|| Error::file(path, format!("must be f4 {shape:?}")))
}

/// A batch on disk: a digit for each image, and distances, null where no adversarial example was found. A gradient is `-`
/// where the attack took none.
#[derive(Serialize, Deserialize)]
struct Part {
    clean: String,
    robust: Vec<String>,
    worst: String,
    found: String,
    distance: Vec<f32>,
    distances: Vec<Vec<Option<f32>>>,
    /// Empty unless the list holds attacks that search the nearest example beside others.
    nearest_distance: Vec<Option<f32>>,
    usable_gradients: Vec<String>,
}

impl Part {
    /// What `outcome` holds from image `first` on.
    fn of(outcome: &Outcome, first: usize) -> Self {
        let digits = |flags: &[bool]| -> String {
            flags[first..].iter().map(|&f| if f { '1' } else { '0' }).collect()
        };
        let finite = |each: &Vec<f32>| {
            each[first..].iter().map(|&d| d.is_finite().then_some(d)).collect::<Vec<_>>()
        };
        let gradients = |usable: &Vec<Option<bool>>| -> String {
            usable[first..].iter().map(|u| u.map_or('-', |u| if u { '1' } else { '0' })).collect()
        };
        Self {
            clean: digits(&outcome.clean),
            robust: outcome.robust.iter().map(|flags| digits(flags)).collect(),
            worst: digits(&outcome.worst),
            found: digits(&outcome.found),
            distance: outcome.distance[first..].to_vec(),
            distances: outcome.distances.iter().map(finite).collect(),
            nearest_distance: match outcome.nearest_distance.is_empty() {
                true => Vec::new(),
                false => finite(&outcome.nearest_distance),
            },
            usable_gradients: outcome.usable_gradients.iter().map(gradients).collect(),
        }
    }

    /// Whether it says everything of so many images.
    fn is_of(&self, images: usize) -> bool {
        [self.clean.len(), self.worst.len(), self.found.len(), self.distance.len()]
            .into_iter()
            .chain(self.robust.iter().chain(&self.usable_gradients).map(String::len))
            .chain(self.distances.iter().map(Vec::len))
            .chain(Some(self.nearest_distance.len()).filter(|&len| len > 0))
            .all(|len| len == images)
    }

    fn append_to(self, outcome: &mut Outcome) {
        let flags = |digits: &str| digits.chars().map(|c| c == '1').collect::<Vec<_>>();
        outcome.clean.extend(flags(&self.clean));
        outcome.worst.extend(flags(&self.worst));
        outcome.found.extend(flags(&self.found));
        outcome.distance.extend(self.distance);
        outcome.robust.resize(self.robust.len(), Vec::new());
        outcome.distances.resize(self.distances.len(), Vec::new());
        for (all, digits) in outcome.robust.iter_mut().zip(&self.robust) {
            all.extend(flags(digits));
        }
        let far = |d: Option<f32>| d.unwrap_or(f32::INFINITY);
        for (all, each) in outcome.distances.iter_mut().zip(self.distances) {
            all.extend(each.into_iter().map(far));
        }
        outcome.nearest_distance.extend(self.nearest_distance.into_iter().map(far));
        outcome.usable_gradients.resize(self.usable_gradients.len(), Vec::new());
        let usable = |digit: char| (digit != '-').then_some(digit == '1');
        for (all, digits) in outcome.usable_gradients.iter_mut().zip(&self.usable_gradients) {
            all.extend(digits.chars().map(usable));
        }
    }
}
