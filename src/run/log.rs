//! `steps.csv`, `epochs.csv` and `events.jsonl`: appended to line by line, cut back on resume.

use super::folder::RunFolder;
use crate::train::{EpochEvent, StepEvent};
use crate::{Error, Result, file};
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

const STEPS: &str = "step,epoch,lr,loss,clean_loss,adversarial_loss,dynamic_l2";
const EPOCHS: &str = "epoch,train_loss,test_accuracy,test_loss,lr,step,active,nonzero,density";

/// The three logs of a run, open for appending.
pub struct Log {
    steps: Lines,
    epochs: Lines,
    events: Lines,
}

/// A text file that grows by whole lines.
struct Lines {
    path: PathBuf,
    file: File,
}

impl Log {
    /// The logs as they stood after so many steps and epochs: later lines, and a torn one at the end, go.
    /// `None`: new ones.
    pub fn open(folder: &RunFolder, done: Option<(u64, usize)>) -> Result<Self> {
        let first_cell = |line: &str| line.split(',').next()?.parse::<u64>().ok();
        let step_of = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64()
        };
        let epoch_of = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).ok()?.get("epoch")?.as_u64()
        };
        let (steps, epochs) = done.map_or((0, 0), |(steps, epochs)| (steps, epochs as u64));
        Ok(Self {
            steps: Lines::open(folder.path("steps.csv"), Some(STEPS), |line| {
                first_cell(line).is_some_and(|step| step <= steps)
            })?,
            epochs: Lines::open(folder.path("epochs.csv"), Some(EPOCHS), |line| {
                first_cell(line).is_some_and(|epoch| epoch <= epochs)
            })?,
            events: Lines::open(folder.path("events.jsonl"), None, |line| {
                done.is_some()
                    && step_of(line).is_some_and(|step| step <= steps)
                    && epoch_of(line).is_none_or(|epoch| epoch <= epochs)
            })?,
        })
    }

    /// A row of `steps.csv`.
    pub fn step(&mut self, event: &StepEvent) -> Result<()> {
        let cell = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let StepEvent { step, epoch, lr, loss, .. } = event;
        let [clean, adversarial, l2] =
            [event.clean_loss, event.adversarial_loss, event.dynamic_l2].map(cell);
        self.steps.push(&format!("{step},{epoch},{lr},{loss},{clean},{adversarial},{l2}"))
    }

    /// A row of `epochs.csv`.
    pub fn epoch(&mut self, event: &EpochEvent) -> Result<()> {
        let EpochEvent { epoch, step, lr, train_loss, test_loss, test_accuracy, .. } = event;
        let EpochEvent { prunable, active, nonzero, .. } = event;
        let density = *active as f64 / (*prunable).max(1) as f64;
        self.epochs.push(&format!(
            "{epoch},{train_loss},{test_accuracy},{test_loss},{lr},{step},{active},{nonzero},{density}"
        ))
    }

    /// A line of `events.jsonl`; it must have a field `step`.
    pub fn event(&mut self, event: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(event)
            .map_err(|error| Error::file(&self.events.path, error.to_string()))?;
        self.events.push(&line)
    }

    /// Brings everything to the disk, before a checkpoint says that it is there.
    pub fn sync(&self) -> Result<()> {
        [&self.steps, &self.epochs, &self.events]
            .into_iter()
            .try_for_each(|lines| lines.file.sync_data().map_err(|e| Error::io(&lines.path, e)))
    }
}

impl Lines {
    fn open(path: PathBuf, header: Option<&str>, keep: impl Fn(&str) -> bool) -> Result<Self> {
        let old = match path.exists() {
            true => String::from_utf8_lossy(&file::read(&path)?).into_owned(),
            false => String::new(),
        };
        let mut text = header.map_or(String::new(), |header| format!("{header}\n"));
        let whole = old.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        for line in whole.skip(usize::from(header.is_some())).filter(|line| keep(line)) {
            text.push_str(line);
            text.push('\n');
        }
        if text != old || !path.exists() {
            file::write_bytes(&path, text.as_bytes())?;
        }
        let file = File::options().append(true).open(&path).map_err(|e| Error::io(&path, e))?;
        Ok(Self { path, file })
    }

    /// One write a line, so that a kill tears at most the last one.
    fn push(&mut self, line: &str) -> Result<()> {
        let line = format!("{line}\n");
        self.file.write_all(line.as_bytes()).map_err(|error| Error::io(&self.path, error))
    }
}
