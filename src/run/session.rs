//! A run from its folder to its result: start, resume, train, measure.

use super::changed::differences;
use super::environment::{Environment, write_json};
use super::experiment::Experiment;
use super::folder::RunFolder;
use super::log::{self, Log};
use super::measure;
use super::progress::Progress;
use super::prolonged::Prolonged;
use super::recipe::Recipe;
use super::result::RunResult;
use super::writer::Writer;
use crate::data::Need;
use crate::{Device, Error, ErrorKind, Result, io};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// A run that can be carried on.
pub struct Session {
    experiment: Experiment,
    writer: Writer,
    prolonged: Option<Prolonged>,
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
        // recipe.toml comes last: a folder that has one can be resumed.
        folder.write_trained_recipe(recipe)?;
        folder.write_recipe(recipe)?;
        let log = Log::open(&folder, None, recipe.data.validation.is_some())?;
        let mut writer = Writer::new(folder, environment, log);
        writer.started(&experiment.trainer)?;
        Ok(Self { experiment, writer, prolonged: None })
    }

    /// The run of `dir`, after its last checkpoint or from step 0; `None` where it is finished. Without `device` it
    /// goes on where it began.
    ///
    /// Errors: [`ErrorKind::File`] for a folder that holds no run, a damaged one, or one whose recipe.toml is no longer what
    /// the run was trained by; [`ErrorKind::Diverged`] for a run that ended so.
    pub fn resume(dir: &Path, device: Option<&str>) -> Result<Option<Self>> {
        Self::go_on(dir, device, None)
    }

    /// [`Self::resume`] with `epochs` epochs from here on, which may be more or fewer than the run had. A finished run is
    /// taken up again; its result, samples and measured times are removed. `None` where the run is finished and has as many
    /// epochs. See [`Prolonged`] for what becomes of schedules.
    ///
    /// Errors: those of [`Self::resume`]; [`ErrorKind::Param`] for fewer epochs than have begun, and for more than
    /// `train.max_steps` leaves room for.
    pub fn prolong(dir: &Path, device: Option<&str>, epochs: usize) -> Result<Option<Self>> {
        Self::go_on(dir, device, Some(epochs))
    }

    fn go_on(dir: &Path, device: Option<&str>, epochs: Option<usize>) -> Result<Option<Self>> {
        let folder = RunFolder::open(dir)?;
        let mut recipe = unchanged_recipe(&folder, epochs.is_some())?;
        let from = recipe.train.epochs;
        let to = epochs.unwrap_or(from);
        recipe.train.epochs = to;
        recipe.check()?;
        let finished = folder.path("result.json").exists();
        if finished && to == from {
            folder.remove_evaluation()?;
            if epochs.is_some() {
                folder.write_recipe(&recipe)?;
            }
            return Ok(None);
        }
        if let Some(message) = log::divergence(&folder)? {
            return Err(ErrorKind::Diverged(still_diverged(dir, &recipe, &message)).into());
        }
        let environment = Environment::load(&folder.path("environment.json"))?;
        let device = Device::new(device.unwrap_or(&environment.device))?;
        let (mut experiment, done) = restored(&folder, recipe, &device)?;
        let (images, trainer) = (experiment.data.train()?.len(), &mut experiment.trainer);
        let begun = trainer.epochs_done() + usize::from(trainer.is_within_epoch());
        if to < begun {
            let want = format!("at least {begun}: so many epochs of {} have begun", dir.display());
            return Err(Error::param("train.epochs", to, want));
        }
        if finished && trainer.total_steps(images) <= trainer.steps_done() {
            let want = format!(
                "{from}, as it was: train.max_steps has ended {} after step {}",
                dir.display(),
                trainer.steps_done()
            );
            return Err(Error::param("train.epochs", to, want));
        }
        let rewired = trainer.prolong(images)?;
        let prolonged = (to != from).then(|| Prolonged {
            epoch: trainer.epochs_done(),
            from,
            to,
            lr: trainer.lr(),
        });
        let log = Log::open(&folder, done, experiment.recipe.data.validation.is_some())?;
        let mut writer = Writer::new(folder, environment, log);
        if done.is_none() {
            writer.started(&experiment.trainer)?;
        }
        let trainer = &experiment.trainer;
        if let Some(prolonged) = &prolonged {
            // A kill before the last of these leaves recipes that differ in train.epochs; the same command goes on then.
            writer.folder.remove_results()?;
            writer.folder.write_recipe(&experiment.recipe)?;
            writer.environment.prolonged.push(prolonged.clone());
            writer.environment.save(&writer.folder.path("environment.json"))?;
            writer.prolonged(trainer, prolonged)?;
            writer.folder.write_trained_recipe(&experiment.recipe)?;
        }
        if let Some(rewired) = &rewired {
            writer.rewired(trainer, trainer.epochs_done(), rewired)?;
        }
        if (prolonged.is_some() || rewired.is_some()) && done.is_some() {
            writer.save(trainer)?;
        }
        Ok(Some(Self { experiment, writer, prolonged }))
    }

    /// The resolved recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.experiment.recipe
    }

    /// What is to be known before the run: [`Dataset::warnings`](crate::data::Dataset::warnings) of the images, and the layers
    /// that are not pruned because they produce the logits.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.experiment.data.warnings(Need::TRAIN);
        let pruner = self.experiment.trainer.pruner();
        warnings.extend(
            pruner
                .into_iter()
                .flat_map(|own| own.spared())
                .map(|layer| format!("not pruned: {layer}, because the layer produces the logits")),
        );
        warnings
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.writer.folder.dir()
    }

    /// What [`Self::prolong`] has changed.
    pub fn prolonged(&self) -> Option<&Prolonged> {
        self.prolonged.as_ref()
    }

    /// Trains to the end, measures the best checkpoint, writes `result.json`. Where `stop` becomes true the run is
    /// saved and left with [`ErrorKind::Interrupted`].
    ///
    /// Errors: [`ErrorKind::Diverged`] where training diverges: `events.jsonl` records it, and the last checkpoint stays.
    pub fn run(self, stop: &AtomicBool, observe: &mut dyn FnMut(Progress)) -> Result<RunResult> {
        let Self { experiment, mut writer, .. } = self;
        let Experiment { recipe, data, mut trainer } = experiment;
        let total = trainer.total_steps(data.train()?.len());
        observe(Progress::Training { done: trainer.steps_done(), total });
        let trained =
            trainer.run(&data, recipe.data.shuffle, &recipe.data.augment, &mut |trainer, event| {
                writer.record(trainer, &event, stop)?;
                observe(Progress::Event(&event));
                Ok(())
            });
        if let Err(error) = &trained
            && let ErrorKind::Diverged(message) = error.kind()
        {
            writer.diverged(&trainer, message)?;
            let message = format!("{message}. {}", last_good(&writer.folder));
            return Err(ErrorKind::Diverged(message).into());
        }
        trained?;
        let Writer { folder, environment, .. } = &writer;
        let result =
            measure::measure(folder, &recipe, &data, &trainer, environment, stop, observe)?;
        write_json(&folder.path("result.json"), &result)?;
        // The run is finished; what is left of its evaluation goes with the next `--force` or `--resume`.
        let _ = folder.remove_evaluation();
        Ok(result)
    }
}

/// The recipe that the run was trained by, which recipe.toml must still say; of `train.epochs` it may say anything where the
/// caller sets that key.
fn unchanged_recipe(folder: &RunFolder, sets_epochs: bool) -> Result<Recipe> {
    let path = folder.path("recipe.toml");
    let mut now = Recipe::recorded(&path)?;
    // Folders of the first version have no second recipe: theirs is taken as it is.
    let Some(trained) = folder.trained_recipe()? else { return Ok(now) };
    if sets_epochs {
        now.train.epochs = trained.train.epochs;
    }
    let changed = differences(&trained, &now)?;
    if changed.is_empty() {
        return Ok(trained);
    }
    let dir = folder.dir().display();
    let how = match now.train.epochs == trained.train.epochs {
        true => String::new(),
        false => {
            let epochs = now.train.epochs;
            format!(
                "`rewire train --resume {dir} --set train.epochs={epochs}` changes the number of epochs; "
            )
        }
    };
    let message = format!(
        "was changed after the run began ({}). {how}`rewire train {} --out OTHER` starts another run with the changed recipe; \
         with the values of then --resume goes on",
        changed.join("; "),
        path.display()
    );
    Err(Error::file(path, message))
}

/// What `recipe` describes, after the last checkpoint of the folder; and the steps and epochs that were done there.
fn restored(
    folder: &RunFolder,
    recipe: Recipe,
    device: &Device,
) -> Result<(Experiment, Option<(u64, usize)>)> {
    let state = folder.checkpoint("state.safetensors");
    let (started, init) = (state.exists(), recipe.model.init.clone());
    let mut from = recipe;
    if started && init.is_some() {
        // The file it began from may be gone; the last checkpoint has the same shape.
        from.model.init = Some(folder.checkpoint("last.safetensors"));
    }
    let mut experiment = Experiment::new(from, device)?;
    experiment.recipe.model.init = init;
    if !started {
        return Ok((experiment, None));
    }
    let (tensors, json) = io::load_tensors(&state, device)?;
    let want = "holds no counters of a run; must be the file that `rewire train` wrote";
    let json = json.ok_or_else(|| Error::file(&state, want))?;
    let damaged = |error: Error| Error::file(&state, error.to_string());
    let trainer = &mut experiment.trainer;
    trainer.load_state(tensors, &json).map_err(damaged)?;
    let done = (trainer.steps_done(), trainer.epochs_done());
    Ok((experiment, Some(done)))
}

/// Where the weights before a divergence are.
fn last_good(folder: &RunFolder) -> String {
    let path = folder.checkpoint("last.safetensors");
    match path.exists() {
        true => format!("The checkpoint before is kept: {}", path.display()),
        false => "No checkpoint was written before".into(),
    }
}

/// What is said of a run that has diverged and is to go on.
fn still_diverged(dir: &Path, recipe: &Recipe, message: &str) -> String {
    let lr = recipe.train.optimizer.lr() / 10.0;
    format!(
        "{message}. The same recipe diverges again at the same step, so {dir} is not resumed. Start another run: \
         rewire train {dir}/recipe.toml --out OTHER --set train.optimizer.lr={lr}",
        dir = dir.display()
    )
}
