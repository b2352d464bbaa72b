//! `rewire train`: a recipe from start to result, or a run that goes on.

use super::inputs::warn;
use super::{Context, Outcome, interrupt, note, progress};
use crate::optim::ScheduleSettings;
use crate::run::{Progress, Recipe, RunResult, Session, failed_expectations, set_epochs};
use crate::train::{EpochEvent, Event};
use crate::{Error, ErrorKind, Result};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Trains and prunes a network by a recipe, or goes on with a run
#[derive(clap::Args)]
pub(super) struct Args {
    /// Name of an embedded recipe (see `rewire list recipes`), or a TOML file
    #[arg(required_unless_present = "resume", conflicts_with = "resume")]
    recipe: Option<String>,
    /// Sets a key of the recipe: a.b=v with v in TOML syntax; repeatable. With --resume only train.epochs=N, which prolongs
    /// the run
    #[arg(long = "set", value_name = "KEY=VALUE")]
    assignments: Vec<String>,
    /// Data set; replaces the recipe's `data.set`
    #[arg(long, value_name = "SPEC", conflicts_with = "resume")]
    data: Option<String>,
    /// Architecture; replaces the recipe's `model.arch`
    #[arg(long, value_name = "ARCH", conflicts_with = "resume")]
    arch: Option<String>,
    /// Safetensors file with the weights to start from; replaces the recipe's `model.init`
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// Folder of the run [default: runs/NAME, with the recipe's name]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Replaces the run that the folder of --out holds
    #[arg(long, conflicts_with = "resume")]
    force: bool,
    /// Goes on with the run in this folder from its last checkpoint
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
}

#[derive(Serialize)]
struct Printed<'a> {
    run: &'a Path,
    #[serde(flatten)]
    result: Option<&'a RunResult>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let session = match &self.resume {
            Some(dir) => match self.resume(dir, context) {
                Ok(Some(session)) => session,
                Ok(None) => {
                    let text = format!("{} is finished: nothing to do", dir.display());
                    context.print(&text, &Printed { run: dir, result: None })?;
                    return Ok(Outcome::Done);
                }
                Err(error) => return ended(error, dir, context),
            },
            None => self.start(context)?,
        };
        let (dir, recipe) = (session.dir().to_owned(), session.recipe().clone());
        let result = match carry_on(session) {
            Ok(result) => result,
            Err(error) => return ended(error, &dir, context),
        };
        context.print(
            &summary(&dir, &recipe, &result),
            &Printed { run: &dir, result: Some(&result) },
        )?;
        let failed = failed_expectations(&recipe, &result);
        failed.iter().for_each(|line| note(&format!("not met: {line}")));
        Ok(if failed.is_empty() { Outcome::Done } else { Outcome::Failed })
    }

    fn start(&self, context: &Context) -> Result<Session> {
        let name = self.recipe.as_deref().unwrap_or_default();
        let mut recipe = Recipe::load(name, &self.assignments)?;
        if let Some(set) = &self.data {
            recipe.data.set.clone_from(set);
        }
        if let Some(arch) = &self.arch {
            recipe.model.arch.clone_from(arch);
        }
        if let Some(init) = &self.init {
            recipe.model.init = Some(init.clone());
        }
        if let Some(seed) = context.seed {
            recipe.seed = seed.0;
        }
        if let Some(mode) = context.explicit_mode {
            recipe.mode = mode.name().into();
        }
        let default = Path::new("runs").join(&recipe.name);
        let dir = self.out.as_deref().unwrap_or(&default);
        if dir.is_file() {
            return Err(Error::param("--out", dir.display(), "a folder"));
        }
        Session::start(dir, recipe, self.force, &context.device()?)
    }

    fn resume(&self, dir: &Path, context: &Context) -> Result<Option<Session>> {
        let device = context.explicit_device.as_deref();
        let Some(epochs) = set_epochs(&self.assignments)? else {
            return Session::resume(dir, device);
        };
        let session = Session::prolong(dir, device, epochs)?;
        if let Some(session) = &session {
            say_prolonged(session);
        }
        Ok(session)
    }
}

/// How a run ended that has no result.
fn ended(error: Error, dir: &Path, context: &Context) -> anyhow::Result<Outcome> {
    match error.kind() {
        ErrorKind::Interrupted(_) => {
            let how = format!("{error}; go on with: rewire train --resume {}", dir.display());
            context.interrupted(&how)?;
            Ok(Outcome::Interrupted)
        }
        ErrorKind::Diverged(_) => {
            context.failed(&error)?;
            Ok(Outcome::Failed)
        }
        _ => Err(error.into()),
    }
}

/// One line on what becomes of the run whose number of epochs has changed.
fn say_prolonged(session: &Session) {
    let Some(prolonged) = session.prolonged() else { return };
    let schedule = match &session.recipe().train.schedule {
        ScheduleSettings::Cosine { t_max: None, .. } => {
            format!(", by the cosine schedule over {} epochs", prolonged.to)
        }
        _ => String::new(),
    };
    note(&format!(
        "{}: {} epochs instead of {}; goes on after {} whole epochs with learning rate {}{schedule}",
        session.dir().display(),
        prolonged.to,
        prolonged.from,
        prolonged.epoch,
        prolonged.lr
    ));
}

/// Runs a session under a bar; Ctrl-C, SIGTERM and SIGHUP stop it at a point where it can be resumed.
pub(super) fn carry_on(session: Session) -> Result<RunResult> {
    warn(&session.warnings());
    let stop = interrupt::flag("stopping after this step");
    let epochs = session.recipe().train.epochs;
    let mut bar = progress::bar(0, "train");
    let mut measuring = false;
    let result = session.run(stop, &mut |progress| match progress {
        Progress::Training { done, total } => {
            bar.set_length(total);
            bar.set_position(done);
            bar.reset_eta();
        }
        Progress::Event(Event::Step(step)) => bar.set_position(step.step),
        Progress::Event(Event::Rewired(..)) => {}
        Progress::Event(Event::Epoch(epoch)) => bar.suspend(|| note(&epoch_line(epoch, epochs))),
        Progress::Measuring { done, total } => {
            if !measuring {
                bar.finish_and_clear();
                bar = progress::bar(total, "measure");
                measuring = true;
            }
            bar.set_position(done as u64);
        }
    });
    bar.finish_and_clear();
    result
}

fn epoch_line(epoch: &EpochEvent, epochs: usize) -> String {
    format!(
        "epoch {} of {epochs}: training loss {:.4}, {}test accuracy {:.2} %, density {:.4}{}",
        epoch.epoch,
        epoch.train_loss,
        epoch
            .validation_accuracy
            .map_or(String::new(), |accuracy| format!("validation accuracy {accuracy:.2} %, ")),
        epoch.test_accuracy,
        epoch.active as f64 / epoch.prunable.max(1) as f64,
        if epoch.best { ", best so far" } else { "" },
    )
}

/// The result for people: accuracies, where the checkpoints lie, what can be done with them.
fn summary(dir: &Path, recipe: &Recipe, result: &RunResult) -> String {
    let mut text = format!("{} is trained.\n", result.name);
    let mut line = |what: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {what:28}{value}");
    };
    line(
        "best epoch",
        &format!(
            "{} of {}, chosen on the {} images",
            result.epoch, result.epochs, result.selected_by
        ),
    );
    let kept = 100.0 * result.density;
    line("weights kept", &format!("{kept:.2} % ({} of {})", result.active, result.prunable));
    if let Some(clean) = result.accuracy.clean {
        line("test accuracy, no attack", &format!("{clean:.2} %"));
    }
    for (e, settings) in result.evaluations.iter().zip(&recipe.eval) {
        let what = format!("  under {}, eps {}", e.attack, settings.eps);
        line(&what, &format!("{:.2} % ({} steps, restarts: {})", e.accuracy, e.steps, e.restarts));
    }
    let best = dir.join("checkpoints").join("best.safetensors");
    let (best, last, run) =
        (best.display(), dir.join("checkpoints/last.safetensors"), dir.display());
    let data = &result.data;
    _ = write!(
        text,
        "Checkpoints: {best} (best epoch), {} (last epoch)\n\
         Next:\n  \
         rewire eval {best} --data {data}\n  \
         rewire attack {best} --data {data} --attack autoattack --limit 100\n  \
         rewire bench {best}\n  \
         rewire report {run}\n",
        last.display(),
    );
    text
}
