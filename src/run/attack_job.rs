//! Attacks that can be stopped and go on: a folder with a file a batch.

use super::environment::write_json;
use super::folder::{self, RunFolder};
use crate::attack::{AttackSettings, Evaluation, Event, Network, Outcome};
use crate::data::Split;
use crate::{Error, ErrorKind, Result, Seed, file, npy};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Lists of attacks on the images of a split, one list after the other.
pub struct AttackJob<'a> {
    /// The network under attack.
    pub network: &'a Network<'a>,
    /// What `transfer` takes its gradients from.
    pub source: Option<&'a Network<'a>>,
    /// The images.
    pub split: &'a Split,
    /// The lists.
    pub lists: &'a [Vec<AttackSettings>],
    /// Images at once.
    pub batch_size: usize,
    /// The seed of every random number.
    pub seed: Seed,
    /// Where finished batches are kept.
    pub folder: Option<&'a AttackFolder>,
}

impl AttackJob<'_> {
    /// What each list does, going on from what the folder holds. `observe` hears what share of a batch's images is done,
    /// counted over all lists; once `stop` is true the work ends after the batch that it is at.
    ///
    /// Errors: [`ErrorKind::Interrupted`] where it was stopped.
    pub fn run(&self, stop: &AtomicBool, observe: &mut dyn FnMut(f64)) -> Result<Vec<Outcome>> {
        let n = self.split.len();
        let one = |(list, attacks): (usize, &Vec<AttackSettings>)| {
            let done = match self.folder {
                Some(folder) => folder.load(list, n, self.split.shape)?,
                None => Outcome::default(),
            };
            let mut saved = done.clean.len();
            let Self { network, source, split, batch_size, seed, .. } = *self;
            let evaluation = Evaluation { network, source, split, attacks, batch_size, seed };
            evaluation.run(done, &mut |event| match event {
                Event::Attempt { images, share, batch } => {
                    observe((list * n + images) as f64 + share * batch as f64);
                    Ok(())
                }
                Event::Batch(outcome) => {
                    if let Some(folder) = self.folder {
                        folder.save(list, outcome, saved, split.shape)?;
                        saved = outcome.clean.len();
                    }
                    observe((list * n + outcome.clean.len()) as f64);
                    let left = outcome.clean.len() < n || list + 1 < self.lists.len();
                    match stop.load(Ordering::Relaxed) && left {
                        true => Err(ErrorKind::Interrupted("after a batch".into()).into()),
                        false => Ok(()),
                    }
                }
            })
        };
        self.lists.iter().enumerate().map(one).collect()
    }
}

/// The folder of a job, locked against other writers as long as this lives: `attack.json` with the settings, `parts/` with
/// a file a batch, and `result.json` in the end.
pub struct AttackFolder {
    dir: PathBuf,
    images: bool,
    _lock: File,
}

/// A batch on disk: a digit an image, and distances of which those of images without a twin are null.
#[derive(Serialize, Deserialize)]
struct Part {
    clean: String,
    robust: Vec<String>,
    worst: String,
    found: String,
    distance: Vec<f32>,
    distances: Vec<Vec<Option<f32>>>,
}

impl AttackFolder {
    /// The folder, created where it is not there. What it holds stays if it was made with the same `settings`; with `force`
    /// other results of attacks are removed. `images`: whether adversarial images are kept too.
    ///
    /// Errors: [`ErrorKind::Param`] where it holds other settings or a run.
    pub fn open(dir: &Path, settings: &impl Serialize, images: bool, force: bool) -> Result<Self> {
        RunFolder::check_free(dir, false)?;
        let parts = dir.join("parts");
        fs::create_dir_all(&parts).map_err(|error| Error::io(&parts, error))?;
        let folder = Self { dir: dir.to_owned(), images, _lock: folder::lock(dir)? };
        let path = dir.join("attack.json");
        let settings = serde_json::to_value(settings)
            .map_err(|error| Error::file(&path, error.to_string()))?;
        let held: Option<serde_json::Value> = match path.exists() {
            true => serde_json::from_slice(&file::read(&path)?).ok(),
            false => None,
        };
        if held.as_ref() == Some(&settings) {
            file::remove_temporaries(dir)?;
            file::remove_temporaries(&parts)?;
            return Ok(folder);
        }
        let parts_held = fs::read_dir(&parts).map_err(|error| Error::io(&parts, error))?.count();
        let foreign = parts_held > 0 || dir.join("result.json").exists();
        if (path.exists() || foreign) && !force {
            let want = "a folder of the same attacks; --force replaces what it holds";
            return Err(Error::param("--out", dir.display(), want));
        }
        for entry in fs::read_dir(&parts).map_err(|error| Error::io(&parts, error))? {
            let part = entry.map_err(|error| Error::io(&parts, error))?.path();
            fs::remove_file(&part).map_err(|error| Error::io(&part, error))?;
        }
        match fs::remove_file(dir.join("result.json")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(dir.join("result.json"), error));
            }
            _ => {}
        }
        write_json(&path, &settings)?;
        Ok(folder)
    }

    /// Writes `result.json`.
    pub fn finish(&self, result: &impl Serialize) -> Result<()> {
        write_json(&self.dir.join("result.json"), result)
    }

    fn part(&self, list: usize, first: usize, extension: &str) -> PathBuf {
        self.dir.join("parts").join(format!("{list}-{first}.{extension}"))
    }

    /// What was saved of a list: batch after batch from the first image on.
    fn load(&self, list: usize, n: usize, [_, c, h, w]: [usize; 4]) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        while outcome.clean.len() < n {
            let first = outcome.clean.len();
            let path = self.part(list, first, "json");
            if !path.exists() {
                break;
            }
            let damaged = |what: String| Error::file(&path, what);
            let part: Part = serde_json::from_slice(&file::read(&path)?)
                .map_err(|error| damaged(error.to_string()))?;
            let flags = |digits: &str| digits.chars().map(|c| c == '1').collect::<Vec<_>>();
            let images = part.clean.len();
            let lengths = [part.worst.len(), part.found.len(), part.distance.len()]
                .into_iter()
                .chain(part.robust.iter().map(String::len))
                .chain(part.distances.iter().map(Vec::len));
            if images == 0 || lengths.into_iter().any(|len| len != images) {
                return Err(damaged(format!("holds no whole batch of {images} images")));
            }
            outcome.clean.extend(flags(&part.clean));
            outcome.worst.extend(flags(&part.worst));
            outcome.found.extend(flags(&part.found));
            outcome.distance.extend(part.distance);
            outcome.robust.resize(part.robust.len(), Vec::new());
            outcome.distances.resize(part.distances.len(), Vec::new());
            for (all, digits) in outcome.robust.iter_mut().zip(&part.robust) {
                all.extend(flags(digits));
            }
            for (all, each) in outcome.distances.iter_mut().zip(part.distances) {
                all.extend(each.into_iter().map(|d| d.unwrap_or(f32::INFINITY)));
            }
            if self.images {
                let path = self.part(list, first, "npy");
                let array = npy::read(&path)?;
                let pixels = array.to_f32().filter(|_| array.shape == [images, h, w, c]);
                let want = format!("must be f4 [{images}, {h}, {w}, {c}]");
                outcome.adversarial.extend(pixels.ok_or_else(|| Error::file(&path, want))?);
            }
        }
        Ok(outcome)
    }

    /// Writes what is new since image `first`. The images go first: a part counts once its JSON file is there.
    fn save(
        &self,
        list: usize,
        outcome: &Outcome,
        first: usize,
        [_, c, h, w]: [usize; 4],
    ) -> Result<()> {
        let digits = |flags: &[bool]| -> String {
            flags[first..].iter().map(|&f| if f { '1' } else { '0' }).collect()
        };
        let finite = |each: &Vec<f32>| {
            each[first..].iter().map(|&d| d.is_finite().then_some(d)).collect::<Vec<_>>()
        };
        if self.images {
            let shape = [outcome.clean.len() - first, h, w, c];
            let pixels = &outcome.adversarial[first * h * w * c..];
            npy::write(&self.part(list, first, "npy"), &shape, pixels)?;
        }
        let part = Part {
            clean: digits(&outcome.clean),
            robust: outcome.robust.iter().map(|flags| digits(flags)).collect(),
            worst: digits(&outcome.worst),
            found: digits(&outcome.found),
            distance: outcome.distance[first..].to_vec(),
            distances: outcome.distances.iter().map(finite).collect(),
        };
        write_json(&self.part(list, first, "json"), &part)
    }
}
