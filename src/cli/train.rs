//! `rewire train`: a recipe from start to result, or a run that goes on.

use super::inputs::warn;
use super::{Context, Outcome, interrupt, progress};
use crate::run::{Progress, Recipe, RunResult, Session, failed_expectations};
use crate::train::Event;
use crate::{Error, ErrorKind};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Trains and prunes a network by a recipe, or goes on with a run
#[derive(clap::Args)]
pub(super) struct Args {
    /// Name of an embedded recipe (see `rewire list recipes`) or a TOML file
    #[arg(required_unless_present = "resume", conflicts_with = "resume")]
    recipe: Option<String>,
    /// Sets a key of the recipe: a.b=v, v in TOML syntax; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with = "resume")]
    assignments: Vec<String>,
    /// Data set, as `data.set`
    #[arg(long, value_name = "SPEC", conflicts_with = "resume")]
    data: Option<String>,
    /// Architecture, as `model.arch`
    #[arg(long, value_name = "ARCH", conflicts_with = "resume")]
    arch: Option<String>,
    /// Weights to start from, as `model.init`
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// The run's folder [default: runs/NAME]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Replaces a run that the folder holds
    #[arg(long, conflicts_with = "resume")]
    force: bool,
    /// Goes on with the run in this folder
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
            Some(dir) => match Session::resume(dir, context.explicit_device.as_deref())? {
                Some(session) => session,
                None => {
                    let text = format!("{} is finished: nothing to do", dir.display());
                    context.print(&text, &Printed { run: dir, result: None })?;
                    return Ok(Outcome::Done);
                }
            },
            None => self.start(context)?,
        };
        let (dir, recipe) = (session.dir().to_owned(), session.recipe().clone());
        match carry_on(session) {
            Ok(result) => {
                let printed = Printed { run: &dir, result: Some(&result) };
                context.print(&summary(&dir, &result), &printed)?;
                let failed = failed_expectations(&recipe, &result);
                failed.iter().for_each(|line| eprintln!("not met: {line}"));
                Ok(if failed.is_empty() { Outcome::Done } else { Outcome::Failed })
            }
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted(_)) => {
                let how = format!("{error}; go on with: rewire train --resume {}", dir.display());
                context.interrupted(&how)?;
                Ok(Outcome::Interrupted)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn start(&self, context: &Context) -> crate::Result<Session> {
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
}

/// Runs a session under a bar; Ctrl-C stops it at a point where it can be resumed.
pub(super) fn carry_on(session: Session) -> crate::Result<RunResult> {
    warn(&session.warnings());
    let stop = interrupt::flag("stopping after this step");
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
        Progress::Event(Event::Epoch(epoch)) => bar.suspend(|| {
            eprintln!(
                "epoch {}: loss {:.4}, {}test accuracy {:.2} %, density {:.4}{}",
                epoch.epoch,
                epoch.train_loss,
                epoch.validation_accuracy.map_or(String::new(), |accuracy| format!(
                    "validation accuracy {accuracy:.2} %, "
                )),
                epoch.test_accuracy,
                epoch.active as f64 / epoch.prunable.max(1) as f64,
                if epoch.best { ", best" } else { "" },
            );
        }),
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

fn summary(dir: &Path, result: &RunResult) -> String {
    let mut text = format!("{} -> {}\n", result.name, dir.display());
    let mut line = |what: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {what:24}{value}");
    };
    line(
        "best epoch",
        format!(
            "{} of {}, chosen on the {} images",
            result.epoch, result.epochs, result.selected_by
        ),
    );
    line("density", format!("{:.4} ({} of {})", result.density, result.active, result.prunable));
    if let Some(clean) = result.accuracy.clean {
        line("clean", format!("{clean:.2} %"));
    }
    for e in &result.evaluations {
        let what = format!("{}, {} × {} steps", e.attack, e.restarts, e.steps);
        line(&what, format!("{:.2} %", e.accuracy));
    }
    text
}
