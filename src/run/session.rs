//! A run from its folder to its result: start, resume, train, measure.

use super::environment::{Environment, write_json};
use super::experiment::Experiment;
use super::folder::RunFolder;
use super::log::Log;
use super::measure;
use super::progress::Progress;
use super::recipe::Recipe;
use super::result::RunResult;
use crate::data::Need;
use crate::train::{Event, Trainer};
use crate::{Device, Error, ErrorKind, Result, file, io};
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The most time that a kill costs; five minutes are promised.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(120);

/// A run that can be carried on.
pub struct Session {
    folder: RunFolder,
    experiment: Experiment,
    environment: Environment,
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
}

impl Session {
    /// A new run in `dir`.
    ///
    /// Errors: those of recipe, data and network, before anything is written; [`ErrorKind::Param`] where the
    /// folder holds a run and `force` is not given.
    pub fn start(dir: &Path, recipe: Recipe, force: bool, device: &Device) -> Result<Self> {
        RunFolder::check_free(dir, force)?;
        let experiment = Experiment::new(recipe, device)?;
        let folder = RunFolder::create(dir, force)?;
        let recipe = &experiment.recipe;
        let environment = Environment::here(&device.to_string(), &recipe.mode, recipe.seed);
        environment.save(&folder.path("environment.json"))?;
        // The recipe comes last: a folder that has one can be resumed.
        file::write_bytes(&folder.path("recipe.toml"), recipe.text()?.as_bytes())?;
        let log = Log::open(&folder, None, recipe.data.validation.is_some())?;
        let mut session = Self::new(folder, experiment, environment, log);
        session.log_start()?;
        Ok(session)
    }

    /// The run of `dir`, after its last checkpoint or from step 0; `None` where it is finished. Without `device` it
    /// goes on where it began.
    ///
    /// Errors: [`ErrorKind::File`] for a folder that holds no run or a damaged one.
    pub fn resume(dir: &Path, device: Option<&str>) -> Result<Option<Self>> {
        let folder = RunFolder::open(dir)?;
        if folder.path("result.json").exists() {
            folder.remove_evaluation()?;
            return Ok(None);
        }
        let environment = Environment::load(&folder.path("environment.json"))?;
        let device = Device::new(device.unwrap_or(&environment.device))?;
        let recipe = Recipe::recorded(&folder.path("recipe.toml"))?;
        let state = folder.checkpoint("state.safetensors");
        let started = state.exists();
        let init = recipe.model.init.clone();
        let mut from = recipe.clone();
        if started && init.is_some() {
            // The file it began from may be gone; the last checkpoint has the same shape.
            from.model.init = Some(folder.checkpoint("last.safetensors"));
        }
        let mut experiment = Experiment::new(from, &device)?;
        experiment.recipe.model.init = init;
        let done = match started {
            false => None,
            true => {
                let (tensors, json) = io::load_tensors(&state, &device)?;
                let json = json.ok_or_else(|| Error::file(&state, "holds no counters"))?;
                let damaged = |error: Error| Error::file(&state, error.to_string());
                let trainer = &mut experiment.trainer;
                trainer.load_state(tensors, &json).map_err(damaged)?;
                Some((trainer.steps_done(), trainer.epochs_done()))
            }
        };
        let log = Log::open(&folder, done, recipe.data.validation.is_some())?;
        let mut session = Self::new(folder, experiment, environment, log);
        if done.is_none() {
            session.log_start()?;
        }
        Ok(Some(session))
    }

    fn new(folder: RunFolder, experiment: Experiment, environment: Environment, log: Log) -> Self {
        let now = Instant::now();
        Self { folder, experiment, environment, log, clock: now, saved: now }
    }

    /// The resolved recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.experiment.recipe
    }

    /// What is to be known of the images before the run: [`Dataset::warnings`](crate::data::Dataset::warnings).
    pub fn warnings(&self) -> Vec<String> {
        self.experiment.data.warnings(Need::TRAIN)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.folder.dir()
    }

    /// Trains to the end, measures the best checkpoint, writes `result.json`. Where `stop` becomes true the run is
    /// saved and left with [`ErrorKind::Interrupted`].
    pub fn run(
        mut self,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(Progress),
    ) -> Result<RunResult> {
        let images = self.experiment.data.train()?.len();
        let total = self.experiment.trainer.total_steps(images);
        observe(Progress::Training { done: self.experiment.trainer.steps_done(), total });
        let Experiment { recipe, data, mut trainer } = self.experiment;
        let data_settings = recipe.data.clone();
        let mut writer = Writer {
            folder: &self.folder,
            log: &mut self.log,
            environment: &mut self.environment,
            clock: &mut self.clock,
            saved: &mut self.saved,
        };
        trainer.run(
            &data,
            data_settings.shuffle,
            &data_settings.augment,
            &mut |trainer, event| {
                writer.record(trainer, &event, stop)?;
                observe(Progress::Event(&event));
                Ok(())
            },
        )?;
        let result = measure::measure(
            &self.folder,
            &recipe,
            &data,
            &trainer,
            &self.environment,
            stop,
            observe,
        )?;
        write_json(&self.folder.path("result.json"), &result)?;
        // The run is finished; what is left of its evaluation goes with the next `--force` or `--resume`.
        let _ = self.folder.remove_evaluation();
        Ok(result)
    }

    fn log_start(&mut self) -> Result<()> {
        let trainer = &self.experiment.trainer;
        let (prunable, active, _) = trainer.density()?;
        let empty_filters = match trainer.pruner() {
            Some(pruner) => pruner.empty_filters()?,
            None => 0,
        };
        let parameters = trainer.model().parameter_count();
        self.log.event(&Line::Started { step: 0, parameters, prunable, active, empty_filters })
    }
}

/// What writes while the trainer runs.
struct Writer<'a> {
    folder: &'a RunFolder,
    log: &'a mut Log,
    environment: &'a mut Environment,
    clock: &'a mut Instant,
    saved: &'a mut Instant,
}

impl Writer<'_> {
    fn record(&mut self, trainer: &Trainer, event: &Event, stop: &AtomicBool) -> Result<()> {
        let step = trainer.steps_done();
        match event {
            Event::Step(event) => {
                self.log.step(event)?;
                let interrupted = stop.load(Ordering::Relaxed);
                if interrupted || self.saved.elapsed() >= CHECKPOINT_INTERVAL {
                    self.save(trainer)?;
                }
                if interrupted {
                    let message = format!("saved after step {step}");
                    return Err(ErrorKind::Interrupted(message).into());
                }
                Ok(())
            }
            Event::Rewired(epoch, rewired) => self.log.event(&Line::Rewired {
                step,
                epoch: *epoch,
                rate: rewired.rate,
                dropped: rewired.dropped,
                grown: rewired.grown,
                active: &rewired.active,
            }),
            Event::Epoch(event) => {
                self.log.epoch(event)?;
                let (epoch, train_loss, best) = (event.epoch, event.train_loss, event.best);
                let (test_accuracy, validation_accuracy) =
                    (event.test_accuracy, event.validation_accuracy);
                self.log.event(&Line::Epoch {
                    step,
                    epoch,
                    train_loss,
                    test_accuracy,
                    validation_accuracy,
                    best,
                })?;
                if best {
                    let path = self.folder.checkpoint("best.safetensors");
                    io::save_model(&path, trainer.model())?;
                }
                self.save(trainer)
            }
        }
    }

    /// The state comes last: what it says was done is on the disk then.
    fn save(&mut self, trainer: &Trainer) -> Result<()> {
        self.log.sync()?;
        io::save_model(&self.folder.checkpoint("last.safetensors"), trainer.model())?;
        let (tensors, json) = trainer.state()?;
        io::save_tensors(&self.folder.checkpoint("state.safetensors"), &tensors, &json)?;
        self.environment.seconds += self.clock.elapsed().as_secs_f64();
        (*self.clock, *self.saved) = (Instant::now(), Instant::now());
        self.environment.save(&self.folder.path("environment.json"))
    }
}
