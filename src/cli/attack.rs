//! `rewire attack`: accuracy under attacks.

use super::inputs::{DataArgs, ModelArgs};
use super::{Context, Outcome, progress};
use crate::attack::{self, AttackSettings, Epsilon, Network};
use crate::data::Need;
use crate::nn::Execution;
use crate::tensor::nhwc_to_nchw;
use crate::{Error, Seed, npy};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Accuracy on the test images under attacks
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Attacks (see `rewire list attacks`), by commas
    #[arg(long, value_name = "NAME[,NAME]", value_delimiter = ',', default_value = "pgd")]
    attack: Vec<String>,
    /// Radius of the L∞ ball, pixels in [0, 1]
    #[arg(long, value_name = "EPS", default_value = "8/255", allow_hyphen_values = true)]
    eps: String,
    /// Steps [default: pgd 20, cw-l2 1000, bb-l0 500, zoo 1000]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Length of a step [default: 2.5·eps/steps; cw-l2 and zoo 0.01]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    step_size: Option<String>,
    /// Attempts at an image, each from a random start
    #[arg(long, value_name = "N", default_value_t = 1)]
    restarts: usize,
    /// Searches for the weight of the loss [default: cw-l2 9, zoo 1]
    #[arg(long, value_name = "N")]
    binary_search_steps: Option<usize>,
    /// What the published program does, also where it is weaker than it could be (cw-l2, bb-l0)
    #[arg(long)]
    faithful: bool,
    /// Steps between halvings of the trust region of bb-l0 [default: steps/30]
    #[arg(long, value_name = "N")]
    decay_interval: Option<usize>,
    /// Only the first N test images
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Writes adversarial.npy, success.npy and distance.npy there
    #[arg(long, value_name = "DIR")]
    save_adversarial: Option<PathBuf>,
    /// Images at once
    #[arg(long, value_name = "N", default_value_t = 128)]
    batch_size: usize,
}

/// Accuracies in percent.
#[derive(Serialize)]
struct Printed<'a> {
    images: usize,
    seed: u64,
    clean: f64,
    attacks: Vec<Row<'a>>,
    worst: f64,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    settings: &'a AttackSettings,
    accuracy: f64,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let settings = self.settings()?;
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
        let how = Execution::default();
        let network = Network { model: &model, how: &how, mode: context.mode };
        let bar = progress::bar(split.len(), "attack");
        let done = attack::Outcome::default();
        let outcome = attack::evaluate(
            &network,
            split,
            &settings,
            self.batch_size,
            seed,
            done,
            &mut |outcome| {
                bar.set_position(outcome.clean.len() as u64);
                Ok(())
            },
        )?;
        bar.finish_and_clear();
        if let Some(dir) = &self.save_adversarial {
            save(dir, split.shape, &outcome)?;
        }
        let percent = attack::Outcome::percent;
        let rows = settings.iter().zip(&outcome.robust);
        let printed = Printed {
            images: split.len(),
            seed: seed.0,
            clean: percent(&outcome.clean),
            attacks: rows
                .map(|(settings, robust)| Row { settings, accuracy: percent(robust) })
                .collect(),
            worst: percent(&outcome.worst),
        };
        context.print(&text(&printed, data.name)?, &printed)?;
        Ok(Outcome::Done)
    }

    fn settings(&self) -> crate::Result<Vec<AttackSettings>> {
        let flag = |flag: &str, text: &str| {
            let want = "a number from 0 to 1, or a fraction such as 8/255";
            text.parse::<Epsilon>().map_err(|_| Error::param(flag, text, want))
        };
        let eps = flag("--eps", &self.eps)?;
        let step_size = self.step_size.as_deref().map(|s| flag("--step-size", s)).transpose()?;
        let of = |name: &String| {
            let settings = AttackSettings {
                attack: name.clone(),
                eps,
                steps: self.steps,
                step_size,
                random_start: true,
                restarts: self.restarts,
                binary_search_steps: self.binary_search_steps,
                faithful: self.faithful,
                decay_interval: self.decay_interval,
            };
            settings.check()?;
            settings.resolved()
        };
        self.attack.iter().map(of).collect()
    }
}

/// Adversarial images in pixel space, whether each attack succeeded, and the L∞ distances.
fn save(dir: &Path, [n, c, h, w]: [usize; 4], outcome: &attack::Outcome) -> crate::Result<()> {
    std::fs::create_dir_all(dir).map_err(|error| Error::io(dir, error))?;
    let images = nhwc_to_nchw(&outcome.adversarial, [n, c, h, w]);
    let fell = outcome.clean.iter().zip(&outcome.worst).map(|(&clean, &worst)| clean && !worst);
    let success: Vec<u8> = fell.map(u8::from).collect();
    npy::write(&dir.join("adversarial.npy"), &[n, c, h, w], &images)?;
    npy::write(&dir.join("success.npy"), &[n], &success)?;
    npy::write(&dir.join("distance.npy"), &[n], &outcome.distance)
}

fn text(printed: &Printed, data: &str) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(text, "{} images of {data}, seed {}", printed.images, printed.seed)?;
    writeln!(text, "  {:32}{:7.2} %", "clean", printed.clean)?;
    for Row { settings, accuracy } in &printed.attacks {
        let AttackSettings { attack, eps, restarts, .. } = settings;
        let steps = settings.steps();
        let how = match attack.as_str() {
            "fgsm" => format!("{attack}, eps {eps}"),
            _ => format!("{attack}, eps {eps}, {steps} steps × {restarts}"),
        };
        writeln!(text, "  {how:32}{accuracy:7.2} %")?;
    }
    writeln!(text, "  {:32}{:7.2} %", "worst case", printed.worst)?;
    Ok(text)
}
