//! `rewire attack`: accuracy under attacks.

mod print;

use super::inputs::{DataArgs, ModelArgs};
use super::{Context, Outcome, interrupt, progress};
use crate::attack::{self, AttackSettings, Epsilon, Network, Target};
use crate::data::{Need, Split};
use crate::io::{self, Hints};
use crate::nn::{Execution, Model, Noise};
use crate::run::{AttackFolder, AttackJob, Attacked, Sweep};
use crate::tensor::nhwc_to_nchw;
use crate::{Error, ErrorKind, Seed, file, npy};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Accuracy on the test images under attacks
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    how: AttackArgs,
    /// Several values of one setting, by commas, each its own run: a table
    #[arg(long, value_name = "eps|steps|restarts=A,B,…", conflicts_with = "save_adversarial")]
    sweep: Option<String>,
    /// Radii at which attacks that look for the nearest are counted too, by commas
    #[arg(long, value_name = "EPS[,EPS]", value_delimiter = ',', allow_hyphen_values = true)]
    at_eps: Vec<String>,
    /// The network that `transfer` takes its gradients from: a safetensors file
    #[arg(long, value_name = "MODEL")]
    source: Option<PathBuf>,
    /// Noise on the weights in every pass: α of all convolutions, or the state.safetensors of a run with the α it learnt
    #[arg(long, value_name = "ALPHA|FILE")]
    weight_noise: Option<String>,
    /// Only the first N test images
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Writes adversarial.npy, success.npy and distance.npy there
    #[arg(long, value_name = "DIR")]
    save_adversarial: Option<PathBuf>,
    /// Images at once
    #[arg(long, value_name = "N", default_value_t = 128)]
    batch_size: usize,
    /// Keeps finished batches there, goes on from them when called again, and writes result.json
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replaces other attacks that the folder of --out holds
    #[arg(long, requires = "out")]
    force: bool,
}

/// The settings of the attacks.
#[derive(clap::Args)]
struct AttackArgs {
    /// Attacks (see `rewire list attacks`), by commas
    #[arg(long, value_name = "NAME[,NAME]", value_delimiter = ',', default_value = "pgd")]
    attack: Vec<String>,
    /// Radius in the attack's norm, pixels in [0, 1]; at most 1 for L∞
    #[arg(long, value_name = "EPS", default_value = "8/255", allow_hyphen_values = true)]
    eps: String,
    /// Steps [default: the attack's own, such as pgd 20, cw-l2 1000: see docs/attacks.md]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Length of a step [default: 2.5·eps/steps; fgsm-rs 1.25·eps; cw-l2 and zoo 0.01]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    step_size: Option<String>,
    /// Length of a step as a multiple of eps
    #[arg(long, value_name = "FACTOR", conflicts_with = "step_size", allow_hyphen_values = true)]
    relative_step_size: Option<f64>,
    /// Whether attacks start at a random point of the ball
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    random_start: bool,
    /// Attempts at an image, each from a random start
    #[arg(long, value_name = "N", default_value_t = 1)]
    restarts: usize,
    /// Drives images to a class: next, least-likely, random or its number
    #[arg(long, value_name = "RULE")]
    target: Option<Target>,
    /// An image falls with the first step that it is wrong at, instead of by the last
    #[arg(long)]
    early_stop: bool,
    /// Gradients a step of eot-pgd [default: 10]
    #[arg(long, value_name = "N")]
    eot_samples: Option<usize>,
    /// Searches for the weight of the loss [default: cw-l2 9, zoo 1]
    #[arg(long, value_name = "N")]
    binary_search_steps: Option<usize>,
    /// What the published program does, also where it is weaker than it could be (cw-l2, bb-l0)
    #[arg(long)]
    faithful: bool,
    /// Steps between halvings of the trust region of bb-l0 [default: steps/30]
    #[arg(long, value_name = "N")]
    decay_interval: Option<usize>,
}

/// What a folder of --out belongs to.
#[derive(Serialize)]
struct Identity<'a> {
    result: &'a Attacked,
    device: String,
    model: String,
    /// With the normalisation, which flags can set.
    arch: String,
    images: String,
    source: Option<String>,
    noise: Option<String>,
    lists: &'a [Vec<AttackSettings>],
    images_kept: bool,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let settings = self.how.settings()?;
        let (sweep, lists) = self.lists(settings)?;
        let at = eps_list("--at-eps", &self.at_eps)?;
        let (model, mut data) = self.model.load_with(&self.data, Need::EVAL, context)?;
        if self.batch_size == 0 || self.limit == Some(0) {
            return Err(Error::param("--batch-size, --limit", 0, "at least 1").into());
        }
        if let (Some(limit), Some(test)) = (self.limit, &mut data.test) {
            test.truncate(limit);
        }
        let split = data.test()?;
        crate::models::check_images(&model, split)?;
        let seed = context.seed.unwrap_or(Seed(1));
        let how = Execution { noise: self.noise(&model, seed)?, ..Execution::default() };
        let how = how.with_operands(&model, context.mode)?;
        let network = Network { model: &model, how: &how, mode: context.mode };
        let other = self.source(&model, split)?;
        let plain = Execution::default();
        let source = other.as_ref();
        let source = source.map(|model| Network { model, how: &plain, mode: context.mode });
        let mut result = Attacked {
            model: self.model.model.display().to_string(),
            data: data.name.into(),
            images: split.len(),
            seed: seed.0,
            mode: context.mode.name().into(),
            batch_size: self.batch_size,
            source: self.source.as_ref().map(|path| path.display().to_string()),
            weight_noise: self.weight_noise.clone(),
            clean: 0.0,
            attacks: Vec::new(),
            worst: 0.0,
            sweep,
            warnings: Vec::new(),
        };
        let folder = self.folder(&result, &lists, &model, split)?;
        let stop = match folder {
            Some(_) => {
                interrupt::flag("stopping after this batch; the same command goes on from there")
            }
            None => &AtomicBool::new(false),
        };
        let bar = progress::bar(split.len() * lists.len(), "attack");
        let job = AttackJob {
            network: &network,
            source: source.as_ref(),
            split,
            lists: &lists,
            batch_size: self.batch_size,
            seed,
            folder: folder.as_ref(),
        };
        let outcomes = job.run(stop, &mut |images| bar.set_position(images as u64));
        bar.finish_and_clear();
        let outcomes = match outcomes {
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted(_)) => {
                eprintln!("{error}; go on with the same command");
                return Ok(Outcome::Interrupted);
            }
            outcomes => outcomes?,
        };
        result.count(&lists, &outcomes, split, &at)?;
        if let (Some(dir), Some(outcome)) = (&self.save_adversarial, outcomes.first()) {
            save(dir, split.shape, outcome)?;
        }
        if let Some(folder) = &folder {
            folder.finish(&result)?;
        }
        result.warnings.iter().for_each(|line| eprintln!("warning: {line}"));
        context.print(&print::text(&result)?, &result)?;
        Ok(Outcome::Done)
    }

    /// The lists of attacks: one, or one for each value of the sweep.
    fn lists(
        &self,
        settings: Vec<AttackSettings>,
    ) -> crate::Result<(Option<Sweep>, Vec<Vec<AttackSettings>>)> {
        let Some(text) = &self.sweep else { return Ok((None, vec![settings])) };
        let want = "eps, steps or restarts = values by commas";
        let wrong = || Error::param("--sweep", text, want);
        let (key, values) = text.split_once('=').ok_or_else(wrong)?;
        let texts: Vec<String> = values.split(',').map(str::to_owned).collect();
        let values = eps_list("--sweep", &texts)?;
        let mut lists = Vec::new();
        for value in &values {
            let whole = value.exact() as usize;
            if key != "eps" && whole as f64 != value.exact() {
                return Err(Error::param("--sweep", value, "a whole number"));
            }
            let mut list = settings.clone();
            for settings in &mut list {
                match key {
                    "eps" => settings.eps = *value,
                    "steps" => settings.steps = Some(whole),
                    "restarts" => settings.restarts = whole,
                    _ => return Err(wrong()),
                }
                settings.check()?;
            }
            lists.push(list);
        }
        Ok((Some(Sweep { key: key.into(), values, worst: Vec::new() }), lists))
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

    /// `--weight-noise`.
    fn noise(&self, model: &Model, seed: Seed) -> crate::Result<Option<Noise>> {
        let Some(text) = &self.weight_noise else { return Ok(None) };
        let path = Path::new(text);
        if !path.exists() {
            let want = "a number from 0 to 100, or the state.safetensors of a run";
            let alpha = text.parse::<f32>().ok().filter(|alpha| (0.0..=100.0).contains(alpha));
            let alpha = alpha.ok_or_else(|| Error::param("--weight-noise", text, want))?;
            return Noise::uniform(model, alpha, seed).map(Some);
        }
        let (tensors, _) = io::load_tensors(path, model.device())?;
        let learnt = |(name, alpha): (String, crate::Tensor)| {
            Some((name.strip_prefix("noise/alpha/")?.to_owned(), alpha))
        };
        let alphas: std::collections::BTreeMap<_, _> =
            tensors.into_iter().filter_map(learnt).collect();
        if alphas.is_empty() {
            return Err(Error::file(
                path,
                "holds no α; must be the state of a run with weight_noise",
            ));
        }
        Noise::new(model, alphas, seed).map(Some)
    }

    fn folder(
        &self,
        result: &Attacked,
        lists: &[Vec<AttackSettings>],
        model: &Model,
        split: &Split,
    ) -> crate::Result<Option<AttackFolder>> {
        let Some(dir) = &self.out else { return Ok(None) };
        if dir.is_file() {
            return Err(Error::param("--out", dir.display(), "a folder"));
        }
        let noise = self.weight_noise.as_ref().map(Path::new).filter(|path| path.exists());
        let identity = Identity {
            result,
            device: model.device().to_string(),
            model: digest(&self.model.model)?,
            arch: format!("{:?}", model.arch()),
            images: images_digest(split)?,
            source: self.source.as_deref().map(digest).transpose()?,
            noise: noise.map(digest).transpose()?,
            lists,
            images_kept: self.save_adversarial.is_some(),
        };
        let images = self.save_adversarial.is_some();
        AttackFolder::open(dir, &identity, images, self.force).map(Some)
    }
}

impl AttackArgs {
    fn settings(&self) -> crate::Result<Vec<AttackSettings>> {
        let eps = eps("--eps", &self.eps)?;
        let step_size = self.step_size.as_deref().map(|text| self::eps("--step-size", text));
        let step_size = step_size.transpose()?;
        let of = |name: &String| {
            let settings = AttackSettings {
                attack: name.clone(),
                eps,
                steps: self.steps,
                step_size,
                relative_step_size: self.relative_step_size,
                random_start: self.random_start,
                restarts: self.restarts,
                target: self.target,
                early_stop: self.early_stop,
                eot_samples: self.eot_samples,
                binary_search_steps: self.binary_search_steps,
                faithful: self.faithful,
                decay_interval: self.decay_interval,
            };
            settings.check()?;
            // Not resolved yet: what a sweep varies changes the defaults of others.
            Ok(settings)
        };
        self.attack.iter().map(of).collect()
    }
}

fn eps(flag: &str, text: &str) -> crate::Result<Epsilon> {
    let want = "a number that is not negative, or a fraction such as 8/255";
    text.parse::<Epsilon>().map_err(|_| Error::param(flag, text, want))
}

fn eps_list(flag: &str, texts: &[String]) -> crate::Result<Vec<Epsilon>> {
    texts.iter().map(|text| eps(flag, text)).collect()
}

/// SHA-256 of a file.
fn digest(path: &Path) -> crate::Result<String> {
    Ok(hexadecimal(&Sha256::digest(file::read(path)?)))
}

/// Of pixels and labels.
fn images_digest(split: &Split) -> crate::Result<String> {
    let mut sha = Sha256::new();
    for image in 0..split.len() {
        sha.update(bytemuck::cast_slice(&split.images_nchw(image..image + 1)));
    }
    sha.update(bytemuck::cast_slice(split.labels()?));
    Ok(hexadecimal(&sha.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Adversarial images in pixel space, whether one was found for each image, and the distances.
fn save(dir: &Path, [n, c, h, w]: [usize; 4], outcome: &attack::Outcome) -> crate::Result<()> {
    std::fs::create_dir_all(dir).map_err(|error| Error::io(dir, error))?;
    let images = nhwc_to_nchw(&outcome.adversarial, [n, c, h, w]);
    let success: Vec<u8> = outcome.found.iter().map(|&found| u8::from(found)).collect();
    npy::write(&dir.join("adversarial.npy"), &[n, c, h, w], &images)?;
    npy::write(&dir.join("success.npy"), &[n], &success)?;
    npy::write(&dir.join("distance.npy"), &[n], &outcome.distance)
}
