//! What a finished run is worth: its best checkpoint under the attacks of the recipe.

use super::attack_folder::AttackFolder;
use super::attack_job::AttackJob;
use super::attacked::Attacked;
use super::environment::{Environment, write_json};
use super::folder::RunFolder;
use super::identity::{Identity, JobFiles};
use super::progress::Progress;
use super::recipe::Recipe;
use super::result::{Accuracy, Evaluation, LayerResult, RunResult};
use super::samples::samples;
use crate::attack::{self, ExpandedAttack, Network, Outcome};
use crate::data::Dataset;
use crate::io::{self, Hints};
use crate::nn::{Model, Weights};
use crate::train::Trainer;
use crate::{Result, Seed};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

/// The checkpoint that is measured.
const BEST: &str = "best.safetensors";

/// Measures `checkpoints/best.safetensors` and writes `samples.json`.
pub fn measure(
    folder: &RunFolder,
    recipe: &Recipe,
    data: &Dataset,
    trainer: &Trainer,
    environment: &Environment,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Progress),
) -> Result<RunResult> {
    let path = folder.checkpoint(BEST);
    let model = io::load_model(&path, &Hints::default(), trainer.model().device())?;
    let mode = recipe.mode()?;
    let weights = Weights::default().with_operands(&model, mode)?;
    let network = Network { model: &model, weights: &weights, mode };
    let outcome = evaluate(folder, recipe, data, &network, stop, observe)?;
    let shown = recipe.eval.iter().rev().find(|settings| settings.check_adversary().is_ok());
    if let Some(settings) = shown.or(recipe.train.adversary.as_ref()) {
        let samples = samples(&network, data, settings, Seed(recipe.seed))?;
        write_json(&folder.path("samples.json"), &samples)?;
    }
    run_result(recipe, &model, trainer, environment, &outcome)
}

fn run_result(
    recipe: &Recipe,
    model: &Model,
    trainer: &Trainer,
    environment: &Environment,
    outcome: &Outcome,
) -> Result<RunResult> {
    let layers = layers(model, trainer)?;
    let names = prunable_names(trainer);
    let pruned = |layer: &&LayerResult| names.contains(&layer.name);
    let prunable = layers.iter().filter(pruned).map(|layer| layer.weights).sum();
    let active = layers.iter().filter(pruned).map(|layer| layer.active).sum();
    let nonzero = names.iter().map(|name| nonzero(model, name)).sum::<Result<usize>>()?;
    // Of a sequence the last member's figure is what all of them leave.
    let evaluations: Vec<Evaluation> = attack::expand(&recipe.eval)?
        .iter()
        .zip(&outcome.robust)
        .filter(|(expanded, _)| expanded.last)
        .map(|(ExpandedAttack { settings, sequence, .. }, robust)| Evaluation {
            attack: sequence.map_or(settings.attack.clone(), str::to_owned),
            eps: settings.eps.exact(),
            steps: settings.steps(),
            restarts: settings.restarts,
            accuracy: Outcome::percent(robust),
        })
        .collect();
    let under = |name: &str| evaluations.iter().find(|e| e.attack == name).map(|e| e.accuracy);
    let clean = Some(Outcome::percent(&outcome.clean));
    Ok(RunResult {
        name: recipe.name.clone(),
        arch: recipe.model.arch.clone(),
        data: recipe.data.set.clone(),
        device: environment.device.clone(),
        mode: recipe.mode.clone(),
        seed: recipe.seed,
        epochs: trainer.epochs_done(),
        epoch: trainer.best().map_or(0, |best| best.epoch),
        selected_by: recipe.data.validation.map_or("test", |_| "validation").into(),
        accuracy: Accuracy { clean, fgsm: under("fgsm"), pgd: under("pgd") },
        evaluations,
        prunable,
        active,
        nonzero,
        density: active as f64 / usize::max(prunable, 1) as f64,
        seconds: environment.seconds,
        layers,
    })
}

/// The expectations of `recipe` that `result` does not meet, each as one line.
pub fn failed_expectations(recipe: &Recipe, result: &RunResult) -> Vec<String> {
    let value = |metric: &str| match metric {
        "accuracy.clean" => result.accuracy.clean,
        "accuracy.fgsm" => result.accuracy.fgsm,
        "accuracy.pgd" => result.accuracy.pgd,
        _ => Some(result.density),
    };
    let failed = recipe.expect.iter().filter_map(|expected| {
        let got = value(&expected.metric);
        let met = got.is_some_and(|got| (got - expected.value).abs() <= expected.tolerance);
        let (metric, want, tolerance) = (&expected.metric, expected.value, expected.tolerance);
        let got = got.map_or("not measured".to_owned(), |got| got.to_string());
        (!met).then(|| format!("{metric} = {got}, expected {want} ± {tolerance}"))
    });
    failed.collect()
}

/// The best checkpoint under the attacks of the recipe. Batches that are done stay in the folder until the run has its
/// result; those of another checkpoint, or of other settings, are not taken for this one's.
fn evaluate(
    folder: &RunFolder,
    recipe: &Recipe,
    data: &Dataset,
    network: &Network,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Progress),
) -> Result<Outcome> {
    let (split, lists) = (data.test()?, [recipe.eval.clone()]);
    let (seed, batch_size, total) = (recipe.seed, recipe.train.batch_size, split.len());
    let lists = &lists;
    let job = AttackJob { network, source: None, split, lists, batch_size, seed: Seed(seed) };
    let result = Attacked {
        model: BEST.into(),
        data: recipe.data.set.clone(),
        images: total,
        seed,
        mode: recipe.mode.clone(),
        batch_size,
        ..Attacked::default()
    };
    let files = JobFiles { model: &folder.checkpoint(BEST), source: None, noise: None };
    let identity = Identity::new(&job, &result, &files, false)?;
    let batches = AttackFolder::open(&folder.evaluation(), &identity, false, true)?;
    let outcomes = job.run(Some(&batches), stop, &mut |images| {
        observe(Progress::Measuring { done: images as usize, total });
    })?;
    Ok(outcomes.into_iter().next().unwrap_or_default())
}

/// What the best epoch left of every layer.
fn layers(model: &Model, trainer: &Trainer) -> Result<Vec<LayerResult>> {
    let names = trainer.pruner().into_iter().flat_map(|pruner| pruner.masks());
    let active = trainer.best().into_iter().flat_map(|best| best.active.iter().copied());
    let masked: BTreeMap<&str, usize> = names.map(|(name, _)| name).zip(active).collect();
    let layer = |layer: crate::nn::Layer| {
        let kept = model.kept(&layer)?;
        let name = format!("{}.weight", layer.name);
        let weights = layer.weights();
        let active = masked.get(name.as_str()).copied().unwrap_or(weights);
        Ok(LayerResult {
            name,
            shape: layer.shape.clone(),
            weights,
            active,
            channels: layer.shape[1],
            channels_active: kept.channels,
            macs: layer.macs() as u64,
            macs_active: (active * layer.positions) as u64,
        })
    };
    model.layers()?.into_iter().map(layer).collect()
}

fn prunable_names(trainer: &Trainer) -> Vec<String> {
    match trainer.pruner() {
        Some(pruner) => pruner.masks().map(|(name, _)| name.to_owned()).collect(),
        None => trainer.model().prunable(),
    }
}

fn nonzero(model: &Model, name: &str) -> Result<usize> {
    Ok(model.param(name)?.to_vec::<f32>()?.into_iter().filter(|&w| w != 0.0).count())
}
