//! `rewire attack`: accuracy under attacks.

mod print;
mod settings;

use super::inputs::{DataArgs, ModelArgs, warn};
use super::{Context, Outcome, interrupt, note, progress};
use crate::attack::{self, ATTACKS, AttackEntry, AttackSettings, Epsilon, Network, Search};
use crate::data::{Dataset, Need, Split};
use crate::io::{self, Hints};
use crate::nn::{Model, Noise, Weights};
use crate::run::{
    AttackFolder, AttackJob, Attacked, Identity, JobFiles, Sweep, learnt_noise, save_adversarial,
};
use crate::{Error, ErrorKind, Seed};
use settings::AttackArgs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Measures the accuracy on the test images under adversarial attacks
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    how: AttackArgs,
    /// Runs the attacks once for each value of one setting and prints a table
    #[arg(long, value_name = "eps|steps|restarts=A,B,…", conflicts_with = "save_adversarial")]
    sweep: Option<String>,
    /// Further radii at which the accuracy is printed, for attacks that search the nearest example
    #[arg(long, value_name = "EPS[,EPS]", value_delimiter = ',', allow_hyphen_values = true)]
    at_eps: Vec<String>,
    /// The network whose gradients the attack transfer follows (safetensors)
    #[arg(long, value_name = "MODEL")]
    source: Option<PathBuf>,
    /// Gaussian noise on the weights in every pass: its factor α for all convolutions, or the state.safetensors of a run that
    /// learnt the factors
    #[arg(long, value_name = "ALPHA|FILE")]
    weight_noise: Option<String>,
    /// Only the first N test images
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Writes adversarial.npy, success.npy and distance.npy there, for each image the worst case inside eps. Attacks that search
    /// the nearest example: alone they write it at any distance; beside others they write nearest.npy and nearest_distance.npy
    #[arg(long, value_name = "DIR")]
    save_adversarial: Option<PathBuf>,
    /// Images per pass
    #[arg(long, value_name = "N", default_value_t = 128)]
    batch_size: usize,
    /// Folder for finished batches and result.json: the same command goes on from the batches it holds
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replaces the results of other attacks in the folder of --out
    #[arg(long, requires = "out")]
    force: bool,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let (sweep, lists) = self.lists()?;
        let at = self.at_eps.iter().map(|text| Epsilon::parse("--at-eps", text));
        let at = at.collect::<crate::Result<Vec<_>>>()?;
        let (model, mut data) = self.model.load_with(&self.data, Need::EVAL, context)?;
        self.limit(&mut data)?;
        let split = data.test()?;
        crate::models::check_images(&model, split)?;
        warn(&data.warnings(Need::EVAL));
        let seed = context.seed.unwrap_or(Seed(1));
        let weights = Weights { noise: self.noise(&model, seed)?, ..Weights::default() };
        let weights = weights.with_operands(&model, context.mode)?;
        let (other, plain) = (self.source(&model, split)?, Weights::default());
        let source =
            other.as_ref().map(|model| Network { model, weights: &plain, mode: context.mode });
        let job = AttackJob {
            network: &Network { model: &model, weights: &weights, mode: context.mode },
            source: source.as_ref(),
            split,
            lists: &lists,
            batch_size: self.batch_size,
            seed,
        };
        let mut result = self.asked(&job, data.name.into(), sweep);
        let folder = self.folder(&job, &result)?;
        let outcomes = match run(&job, folder.as_ref()) {
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted(_)) => {
                context.interrupted(&format!("{error}; go on with the same command"))?;
                return Ok(Outcome::Interrupted);
            }
            outcomes => outcomes?,
        };
        result.count(&lists, &outcomes, split, &at)?;
        if let (Some(dir), Some(outcome)) = (&self.save_adversarial, outcomes.first()) {
            save_adversarial(dir, split.shape, outcome)?;
        }
        if let Some(folder) = &folder {
            folder.finish(&result)?;
        }
        result.warnings.iter().for_each(|line| note(&format!("warning: {line}")));
        context.print(&print::text(&result)?, &result)?;
        Ok(Outcome::Done)
    }

    /// The list of attacks, or one for each value of `--sweep`.
    fn lists(&self) -> crate::Result<(Option<Sweep>, Vec<Vec<AttackSettings>>)> {
        let settings = self.how.settings()?;
        let transferred = settings.iter().any(|one| one.attack == "transfer");
        if let Some(path) = self.source.as_ref().filter(|_| !transferred) {
            let want = "absent: only transfer reads it (--attack transfer)";
            return Err(Error::param("--source", path.display(), want));
        }
        let nearest = |entry: &&AttackEntry| entry.search == Search::Nearest;
        let names: Vec<&str> = ATTACKS.iter().filter(nearest).map(|entry| entry.name).collect();
        if !self.at_eps.is_empty() && !settings.iter().any(|one| names.contains(&&*one.attack)) {
            let want = format!("absent: only {} read it", names.join(", "));
            return Err(Error::param("--at-eps", self.at_eps.join(","), want));
        }
        let Some(text) = &self.sweep else { return Ok((None, vec![settings])) };
        self.how.check_sweep(text.split('=').next().unwrap_or_default())?;
        let (sweep, lists) = Sweep::parse(text, &settings)?;
        Ok((Some(sweep), lists))
    }

    /// The result as far as it is known before the attacks run.
    fn asked(&self, job: &AttackJob, data: String, sweep: Option<Sweep>) -> Attacked {
        Attacked {
            model: self.model.model.display().to_string(),
            data,
            images: job.split.len(),
            seed: job.seed.0,
            mode: job.network.mode.name().into(),
            batch_size: job.batch_size,
            source: self.source.as_ref().map(|path| path.display().to_string()),
            weight_noise: self.weight_noise.clone(),
            sweep,
            ..Attacked::default()
        }
    }

    /// `--limit`.
    fn limit(&self, data: &mut Dataset) -> crate::Result<()> {
        for (flag, count) in [("--batch-size", Some(self.batch_size)), ("--limit", self.limit)] {
            if count == Some(0) {
                return Err(Error::param(flag, 0, "at least 1"));
            }
        }
        if let (Some(limit), Some(test)) = (self.limit, &mut data.test) {
            test.truncate(limit);
        }
        Ok(())
    }

    /// `--source`: read as the network under attack is.
    fn source(&self, model: &Model, split: &Split) -> crate::Result<Option<Model>> {
        let Some(path) = &self.source else { return Ok(None) };
        let arch = model.arch();
        let hints = Hints {
            in_channels: Some(arch.in_channels),
            classes: Some(arch.classes),
            size: Some(arch.size),
            ..Hints::default()
        };
        let source = io::load_model(path, &hints, model.device())?;
        crate::models::check_images(&source, split)?;
        if source.arch().classes != arch.classes {
            let have = source.arch().classes;
            return Err(Error::file(path, format!("{have} classes; must be {}", arch.classes)));
        }
        Ok(Some(source))
    }

    /// `--weight-noise`, where it names a file.
    fn noise_file(&self) -> Option<&Path> {
        self.weight_noise.as_ref().map(Path::new).filter(|path| path.exists())
    }

    /// `--weight-noise`.
    fn noise(&self, model: &Model, seed: Seed) -> crate::Result<Option<Noise>> {
        let Some(text) = &self.weight_noise else { return Ok(None) };
        if let Some(path) = self.noise_file() {
            return learnt_noise(path, model, seed).map(Some);
        }
        let want = "a number from 0 to 100, or the state.safetensors of a run";
        let alpha = text.parse::<f32>().ok().filter(|alpha| (0.0..=100.0).contains(alpha));
        let alpha = alpha.ok_or_else(|| Error::param("--weight-noise", text, want))?;
        Noise::uniform(model, alpha, seed).map(Some)
    }

    /// `--out`.
    fn folder(&self, job: &AttackJob, result: &Attacked) -> crate::Result<Option<AttackFolder>> {
        let Some(dir) = &self.out else { return Ok(None) };
        if dir.is_file() {
            return Err(Error::param("--out", dir.display(), "a folder"));
        }
        let (source, noise) = (self.source.as_deref(), self.noise_file());
        let files = JobFiles { model: &self.model.model, source, noise };
        let images = self.save_adversarial.is_some();
        let identity = Identity::new(job, result, &files, images)?;
        AttackFolder::open(dir, &identity, images, self.force).map(Some)
    }
}

/// Runs a job under a bar. Ctrl-C stops one that has a folder after the batch that it is at.
fn run(job: &AttackJob, folder: Option<&AttackFolder>) -> crate::Result<Vec<attack::Outcome>> {
    let stop = match folder {
        Some(_) => {
            interrupt::flag("stopping after this batch; the same command goes on from there")
        }
        None => &AtomicBool::new(false),
    };
    let bar = progress::bar(job.split.len() * job.lists.len(), "attack");
    let outcomes = job.run(folder, stop, &mut |images| bar.set_position(images as u64));
    bar.finish_and_clear();
    outcomes
}
