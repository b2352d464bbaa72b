//! What a run writes while it goes on: logs, checkpoints, the time that it took.

use super::environment::Environment;
use super::folder::RunFolder;
use super::log::Log;
use super::prolonged::Prolonged;
use crate::prune::Rewired;
use crate::train::{Event, Trainer};
use crate::{ErrorKind, Result, io};
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The most time that a kill costs; five minutes are promised.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(120);

/// The files of a run in training.
pub(super) struct Writer {
    pub folder: RunFolder,
    pub environment: Environment,
    log: Log,
    clock: Instant,
    saved: Instant,
}

/// A line of `events.jsonl`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line<'a> {
    Started {
        step: u64,
        parameters: usize,
        prunable: usize,
        active: usize,
        empty_filters: usize,
    },
    Prolonged {
        step: u64,
        #[serde(flatten)]
        prolonged: &'a Prolonged,
    },
    Rewired {
        step: u64,
        epoch: usize,
        rate: f64,
        dropped: usize,
        grown: usize,
        active: &'a [(String, usize)],
    },
    Epoch {
        step: u64,
        epoch: usize,
        train_loss: f64,
        test_accuracy: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        validation_accuracy: Option<f64>,
        best: bool,
    },
    Diverged {
        step: u64,
        message: &'a str,
    },
}

impl Writer {
    pub fn new(folder: RunFolder, environment: Environment, log: Log) -> Self {
        let now = Instant::now();
        Self { folder, environment, log, clock: now, saved: now }
    }

    /// The network before its first step.
    pub fn started(&mut self, trainer: &Trainer) -> Result<()> {
        let (prunable, active, _) = trainer.density()?;
        let empty_filters = match trainer.pruner() {
            Some(pruner) => pruner.empty_filters()?,
            None => 0,
        };
        let parameters = trainer.model().parameter_count();
        self.log.event(&Line::Started { step: 0, parameters, prunable, active, empty_filters })
    }

    /// The run has another number of epochs from here on.
    pub fn prolonged(&mut self, trainer: &Trainer, prolonged: &Prolonged) -> Result<()> {
        self.log.event(&Line::Prolonged { step: trainer.steps_done(), prolonged })
    }

    /// Training has ended without a result; `message` says why.
    pub fn diverged(&mut self, trainer: &Trainer, message: &str) -> Result<()> {
        self.log.event(&Line::Diverged { step: trainer.steps_done(), message })?;
        self.log.sync()
    }

    /// The masks moved at the end of an epoch (from 1).
    pub fn rewired(&mut self, trainer: &Trainer, epoch: usize, rewired: &Rewired) -> Result<()> {
        let Rewired { rate, dropped, grown, ref active } = *rewired;
        let step = trainer.steps_done();
        self.log.event(&Line::Rewired { step, epoch, rate, dropped, grown, active })
    }

    /// What the trainer has told. Where `stop` is true after a step, the run is saved.
    ///
    /// Errors: [`ErrorKind::Interrupted`] where it was stopped; [`ErrorKind::Diverged`] where a checkpoint between two epochs
    /// would hold what training does not come back from: none is written then.
    pub fn record(&mut self, trainer: &Trainer, event: &Event, stop: &AtomicBool) -> Result<()> {
        let step = trainer.steps_done();
        match event {
            Event::Step(event) => {
                self.log.step(event)?;
                let interrupted = stop.load(Ordering::Relaxed);
                if interrupted || self.saved.elapsed() >= CHECKPOINT_INTERVAL {
                    trainer.check_tensors()?;
                    self.save(trainer)?;
                }
                if interrupted {
                    let message = format!("saved after step {step}");
                    return Err(ErrorKind::Interrupted(message).into());
                }
                Ok(())
            }
            Event::Rewired(epoch, rewired) => self.rewired(trainer, *epoch, rewired),
            Event::Epoch(event) => {
                self.log.epoch(event)?;
                self.log.event(&Line::Epoch {
                    step,
                    epoch: event.epoch,
                    train_loss: event.train_loss,
                    test_accuracy: event.test_accuracy,
                    validation_accuracy: event.validation_accuracy,
                    best: event.best,
                })?;
                if event.best {
                    let path = self.folder.checkpoint("best.safetensors");
                    io::save_model(&path, trainer.model())?;
                }
                self.save(trainer)
            }
        }
    }

    /// The state comes last: what it says was done is on the disk then.
    pub fn save(&mut self, trainer: &Trainer) -> Result<()> {
        self.log.sync()?;
        io::save_model(&self.folder.checkpoint("last.safetensors"), trainer.model())?;
        let (tensors, json) = trainer.state()?;
        io::save_tensors(&self.folder.checkpoint("state.safetensors"), &tensors, &json)?;
        self.environment.seconds += self.clock.elapsed().as_secs_f64();
        (self.clock, self.saved) = (Instant::now(), Instant::now());
        self.environment.save(&self.folder.path("environment.json"))
    }
}
