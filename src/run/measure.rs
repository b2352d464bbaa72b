//! What a finished run is worth: its best checkpoint under the attacks of the recipe.

use super::environment::{Environment, write_json};
use super::folder::RunFolder;
use super::recipe::Recipe;
use super::result::{Accuracy, Evaluation, LayerResult, RunResult, Sample, Samples};
use super::session::Progress;
use crate::attack::{self, AttackSettings, Draws, Network, Outcome, Planned};
use crate::data::Dataset;
use crate::io::{self, Hints};
use crate::nn::{Execution, Model};
use crate::train::Trainer;
use crate::{Error, ErrorKind, Result, Seed, Tensor, file};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often what is known of an evaluation is saved.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// Images in `samples.json`.
const SAMPLES: usize = 8;

/// `checkpoints/evaluation.json`: how far an evaluation has come, a digit an image.
#[derive(Serialize, Deserialize)]
struct SoFar {
    clean: String,
    robust: Vec<String>,
    worst: String,
}

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
    let path = folder.checkpoint("best.safetensors");
    let model = io::load_model(&path, &Hints::default(), trainer.model().device())?;
    let mode = recipe.mode()?;
    let how = Execution::default().with_operands(&model, mode)?;
    let network = Network { model: &model, how: &how, mode };
    let outcome = evaluate(folder, recipe, data, &network, stop, observe)?;
    let shown = recipe.eval.iter().rev().find(|settings| settings.check_adversary().is_ok());
    if let Some(settings) = shown.or(recipe.train.adversary.as_ref()) {
        let samples = samples(&network, data, settings, Seed(recipe.seed))?;
        write_json(&folder.path("samples.json"), &samples)?;
    }
    let layers = layers(&model, trainer)?;
    let names = prunable_names(trainer);
    let pruned = |layer: &&LayerResult| names.contains(&layer.name);
    let prunable = layers.iter().filter(pruned).map(|layer| layer.weights).sum();
    let active = layers.iter().filter(pruned).map(|layer| layer.active).sum();
    let nonzero = names.iter().map(|name| nonzero(&model, name)).sum::<Result<usize>>()?;
    // Of a sequence the last member's figure is what all of them leave.
    let evaluations: Vec<Evaluation> = attack::expand(&recipe.eval)?
        .iter()
        .zip(&outcome.robust)
        .filter(|(planned, _)| planned.last)
        .map(|(Planned { settings, sequence, .. }, robust)| Evaluation {
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

fn evaluate(
    folder: &RunFolder,
    recipe: &Recipe,
    data: &Dataset,
    network: &Network,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Progress),
) -> Result<Outcome> {
    let path = folder.checkpoint("evaluation.json");
    let done = SoFar::load(&path)?;
    let (test, batch_size) = (data.test()?, recipe.train.batch_size);
    let mut saved = Instant::now();
    attack::evaluate(
        network,
        test,
        &recipe.eval,
        batch_size,
        Seed(recipe.seed),
        done,
        &mut |outcome| {
            observe(Progress::Measuring { done: outcome.clean.len(), total: test.len() });
            let interrupted = stop.load(Ordering::Relaxed);
            if interrupted || saved.elapsed() >= SAVE_INTERVAL {
                write_json(&path, &SoFar::new(outcome))?;
                saved = Instant::now();
            }
            match interrupted {
                true => Err(ErrorKind::Interrupted("saved while measuring".into()).into()),
                false => Ok(()),
            }
        },
    )
}

impl SoFar {
    fn new(outcome: &Outcome) -> Self {
        let digits = |flags: &[bool]| flags.iter().map(|&f| if f { '1' } else { '0' }).collect();
        Self {
            clean: digits(&outcome.clean),
            robust: outcome.robust.iter().map(|flags| digits(flags)).collect(),
            worst: digits(&outcome.worst),
        }
    }

    /// An outcome without images, as far as it was saved.
    fn load(path: &Path) -> Result<Outcome> {
        if !path.exists() {
            return Ok(Outcome::default());
        }
        let so_far: Self = serde_json::from_slice(&file::read(path)?)
            .map_err(|error| Error::file(path, error.to_string()))?;
        let flags = |digits: &str| digits.chars().map(|c| c == '1').collect();
        Ok(Outcome {
            clean: flags(&so_far.clean),
            robust: so_far.robust.iter().map(|digits| flags(digits)).collect(),
            worst: flags(&so_far.worst),
            ..Outcome::default()
        })
    }
}

/// The first test images beside what the attack makes of them.
fn samples(
    network: &Network,
    data: &Dataset,
    settings: &AttackSettings,
    seed: Seed,
) -> Result<Samples> {
    let test = data.test()?;
    let n = SAMPLES.min(test.len());
    let [_, c, h, w] = test.shape;
    let device = network.model.device();
    let nchw = test.images_nchw(0..n);
    let clean = crate::tensor::nchw_to_nhwc(&nchw, [n, c, h, w]);
    let x = Tensor::from_vec(clean.clone(), &[n, h, w, c], device)?;
    let true_labels = &test.labels()?[..n];
    let labels = Tensor::from_vec(true_labels.to_vec(), &[n], device)?;
    let draws = Draws { seed, stream: "attack.samples", restart: 0, turn: 0 };
    let twins = attack::adversary(network, &x, &labels, settings, draws)?;
    let before = attack::predictions(&network.logits(&x)?)?;
    let after = attack::predictions(&network.logits(&twins)?)?;
    let twins = twins.to_vec::<f32>()?;
    let bytes = |pixels: &[f32]| pixels.iter().map(|&p| (p * 255.0).round() as u8).collect();
    let images = (0..n).map(|i| {
        let here = i * h * w * c..(i + 1) * h * w * c;
        Sample {
            label: true_labels[i] as usize,
            predicted: before[i].unwrap_or(usize::MAX),
            predicted_adversarial: after[i].unwrap_or(usize::MAX),
            clean: bytes(&clean[here.clone()]),
            adversarial: bytes(&twins[here]),
        }
    });
    Ok(Samples {
        attack: format!("{}, eps {}", settings.attack, settings.eps),
        classes: data.class_names.clone(),
        shape: [h, w, c],
        images: images.collect(),
    })
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
