//! `steps.csv`, `epochs.csv`, `events.jsonl` and TensorBoard's event file: appended to line by line, or record by record, and
//! cut back on resume.

use super::folder::{RunFolder, SCALARS};
use crate::io::tensorboard;
use crate::train::{EpochEvent, StepEvent};
use crate::{Error, Result, file};
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

const STEPS: &str = "step,epoch,lr,loss,clean_loss,adversarial_loss,dynamic_l2";
const EPOCHS: &str = "epoch,train_loss,test_accuracy,test_loss,lr,step,active,nonzero,density";

/// The last column of `epochs.csv`, where images are held out for validation.
const VALIDATION: &str = "validation_accuracy";

/// The logs of a run, open for appending.
pub struct Log {
    steps: Lines,
    epochs: Lines,
    events: Lines,
    scalars: Appended,
}

/// A text file that grows by whole lines.
struct Lines(Appended);

/// A file that grows at its end.
struct Appended {
    path: PathBuf,
    file: File,
}

/// The curve that tells an epoch's record from a step's.
const EPOCH: &str = "epoch/number";

impl Log {
    /// The logs as they stood after so many steps and epochs: later lines, and a torn one at the end, go.
    /// `None`: new ones. `validation`: whether images are held out.
    pub fn open(folder: &RunFolder, done: Option<(u64, usize)>, validation: bool) -> Result<Self> {
        let header = if validation { format!("{EPOCHS},{VALIDATION}") } else { EPOCHS.to_owned() };
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
            epochs: Lines::open(folder.path("epochs.csv"), Some(&header), |line| {
                first_cell(line).is_some_and(|epoch| epoch <= epochs)
            })?,
            events: Lines::open(folder.path("events.jsonl"), None, |line| {
                done.is_some()
                    && step_of(line).is_some_and(|step| step <= steps)
                    && epoch_of(line).is_none_or(|epoch| epoch <= epochs)
            })?,
            scalars: scalars(folder.path(SCALARS), |event| {
                event.step as u64 <= steps
                    && event.value(EPOCH).is_none_or(|epoch| epoch as u64 <= epochs)
            })?,
        })
    }

    /// A row of `steps.csv`, and the same as curves.
    pub fn step(&mut self, event: &StepEvent) -> Result<()> {
        let cell = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let StepEvent { step, epoch, lr, loss, .. } = event;
        let [clean, adversarial, l2] =
            [event.clean_loss, event.adversarial_loss, event.dynamic_l2].map(cell);
        self.steps.push(&format!("{step},{epoch},{lr},{loss},{clean},{adversarial},{l2}"))?;
        let mut values = vec![("step/lr", *lr), ("step/loss", *loss)];
        let parts = [
            ("step/clean_loss", event.clean_loss),
            ("step/adversarial_loss", event.adversarial_loss),
            ("step/dynamic_l2", event.dynamic_l2),
        ];
        values.extend(parts.into_iter().filter_map(|(tag, value)| Some((tag, value?))));
        self.scalars.push(&tensorboard::Event::scalars(*step, &values).record())
    }

    /// A row of `epochs.csv`, and the same as curves over the steps.
    pub fn epoch(&mut self, event: &EpochEvent) -> Result<()> {
        let EpochEvent { epoch, step, lr, train_loss, test_loss, test_accuracy, .. } = event;
        let EpochEvent { prunable, active, nonzero, .. } = event;
        let density = *active as f64 / (*prunable).max(1) as f64;
        let validation = event.validation_accuracy;
        let last = validation.map_or(String::new(), |accuracy| format!(",{accuracy}"));
        self.epochs.push(&format!(
            "{epoch},{train_loss},{test_accuracy},{test_loss},{lr},{step},{active},{nonzero},{density}{last}"
        ))?;
        let mut values = vec![
            (EPOCH, *epoch as f64),
            ("epoch/train_loss", *train_loss),
            ("epoch/test_accuracy", *test_accuracy),
            ("epoch/test_loss", *test_loss),
            ("epoch/active", *active as f64),
            ("epoch/nonzero", *nonzero as f64),
            ("epoch/density", density),
        ];
        values.extend(validation.map(|accuracy| ("epoch/validation_accuracy", accuracy)));
        self.scalars.push(&tensorboard::Event::scalars(*step, &values).record())
    }

    /// A line of `events.jsonl`; it must have a field `step`.
    pub fn event(&mut self, event: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(event)
            .map_err(|error| Error::file(&self.events.0.path, error.to_string()))?;
        self.events.push(&line)
    }

    /// Brings everything to the disk, before a checkpoint says that it is there.
    pub fn sync(&self) -> Result<()> {
        [&self.steps.0, &self.epochs.0, &self.events.0, &self.scalars]
            .into_iter()
            .try_for_each(|log| log.file.sync_data().map_err(|e| Error::io(&log.path, e)))
    }
}

/// Why the run of the folder has diverged, if it has.
pub(super) fn divergence(folder: &RunFolder) -> Result<Option<String>> {
    let path = folder.path("events.jsonl");
    let text = match path.exists() {
        true => file::read(&path)?,
        false => return Ok(None),
    };
    let event = |line: &str| -> Option<serde_json::Value> { serde_json::from_str(line).ok() };
    let text = String::from_utf8_lossy(&text);
    let mut events = text.lines().rev().filter_map(event);
    let diverged = events.find(|event| event["event"] == "diverged");
    Ok(diverged.and_then(|event| event["message"].as_str().map(str::to_owned)))
}

/// TensorBoard's file with the records that `keep` wants, up to a torn one.
fn scalars(path: PathBuf, keep: impl Fn(&tensorboard::Event) -> bool) -> Result<Appended> {
    let old = match path.exists() {
        true => file::read(&path)?,
        false => Vec::new(),
    };
    let mut new = tensorboard::Event::version().record();
    let (mut rest, mut first) = (&old[..], true);
    while let Some((event, after)) = tensorboard::Event::read(rest) {
        if !first && keep(&event) {
            new.extend(&rest[..rest.len() - after.len()]);
        }
        (rest, first) = (after, false);
    }
    Appended::open(path, &old, &new)
}

impl Appended {
    /// Replaces the content `old` where it is not `new`.
    fn open(path: PathBuf, old: &[u8], new: &[u8]) -> Result<Self> {
        if new != old || !path.exists() {
            file::write_bytes(&path, new)?;
        }
        let file = File::options().append(true).open(&path).map_err(|e| Error::io(&path, e))?;
        Ok(Self { path, file })
    }

    /// One write, so that a kill tears at most the last one.
    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| Error::io(&self.path, error))
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
        Appended::open(path, old.as_bytes(), text.as_bytes()).map(Self)
    }

    fn push(&mut self, line: &str) -> Result<()> {
        self.0.push(format!("{line}\n").as_bytes())
    }
}
