//! Training: the invariants of a step and of an epoch, on the CPU and by the kernels.

use crate::fixture::network_of;
use rewire::attack::{AttackSettings, Draws, Network, adversary};
use rewire::data::{Dataset, Loader};
use rewire::nn::{Model, Weights};
use rewire::optim::{Constraint, Optimizer, OptimizerSettings};
use rewire::prune::{PruneSettings, Pruner};
use rewire::train::{Event, TrainSettings, Trainer};
use rewire::{Device, ErrorKind, Mode, Result, Seed, Tape, Tensor};
use std::collections::BTreeMap;

const ARCH: &str = "vgg16:width=0.0625,in_channels=1,classes=4";
const DATA: &str = "synthetic:classes=4,size=32,channels=1,train=24,test=8";
const ADVERSARY: &str = "adversary = { eps = '8/255', steps = 2, step_size = 0.02 }";
const DNR: &str = "method = 'dnr'\ndensity = 0.1\nrho = 1e-2";

fn settings(text: &str) -> TrainSettings {
    let defaults = "epochs = 3\nbatch_size = 8\n";
    toml::from_str(&format!("{defaults}{text}")).unwrap()
}

fn trainer(train: &str, prune: Option<&str>, device: &Device) -> Trainer {
    trainer_of(ARCH, settings(train), prune, device, Seed(9))
}

fn trainer_of(
    arch: &str,
    train: TrainSettings,
    prune: Option<&str>,
    device: &Device,
    seed: Seed,
) -> Trainer {
    let model = network_of(arch, device);
    let pruner = prune.map(|text| {
        let settings: PruneSettings = toml::from_str(text).unwrap();
        Pruner::new(&settings, &model, seed).unwrap()
    });
    Trainer::new(train, model, pruner, seed, Mode::F32).unwrap()
}

fn run(trainer: &mut Trainer, mut observe: impl FnMut(&Trainer, Event)) {
    let data = Dataset::load(DATA).unwrap();
    let mut observe = |trainer: &Trainer, event| -> Result<()> {
        observe(trainer, event);
        Ok(())
    };
    trainer.run(&data, true, &[], &mut observe).unwrap();
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn state_bits(model: &Model) -> BTreeMap<String, Vec<u32>> {
    model.state_dict().iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
}

fn masks(trainer: &Trainer) -> Vec<Vec<u8>> {
    trainer.pruner().unwrap().masks().map(|(_, mask)| mask.to_vec().unwrap()).collect()
}

#[test]
fn pruned_weights_are_zero_after_every_step_and_masks_move_between_epochs_only() {
    for prune in [DNR, "method = 'dnr'\ngranularity = 'channel'\ndensity = 0.5\nrho = 1e-2"] {
        let mut trainer =
            trainer(&format!("warmup_epochs = 1\n{ADVERSARY}"), Some(prune), &Device::Cpu);
        let mut current = masks(&trainer);
        let (mut moved, mut hidden, mut rates) = (0, 0, Vec::new());
        let mut momentum: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        run(&mut trainer, |trainer, event| match event {
            Event::Step(_) => {
                assert_eq!(masks(trainer), current);
                for (name, mask) in trainer.pruner().unwrap().masks() {
                    let weight = trainer.model().param(name).unwrap().to_vec::<f32>().unwrap();
                    let v = trainer.optimizer().momentum()[name].to_vec::<f32>().unwrap();
                    let mask = mask.to_vec::<u8>().unwrap();
                    for i in (0..mask.len()).filter(|&i| mask[i] == 0) {
                        assert_eq!(weight[i].to_bits(), 0, "{name}[{i}]");
                        hidden += usize::from(v[i] != 0.0);
                    }
                }
                let of = |(name, v): (&String, &Tensor)| (name.clone(), bits(v));
                momentum = trainer.optimizer().momentum().iter().map(of).collect();
            }
            Event::Rewired(_, rewired) => {
                rates.push(rewired.rate);
                moved += usize::from(masks(trainer) != current);
                current = masks(trainer);
                // Neither the rewiring nor the masks touch the momentum.
                for (name, v) in trainer.optimizer().momentum() {
                    assert_eq!(bits(v), momentum[name], "{name}");
                }
            }
            Event::Epoch(epoch) => {
                assert_eq!(masks(trainer), current);
                let slack = if prune == DNR { 0 } else { 32 * 9 / 2 };
                let budget = trainer.pruner().unwrap().budget();
                assert!(epoch.active.abs_diff(budget) <= slack || epoch.epoch == 3);
                assert!(epoch.nonzero <= epoch.active);
            }
        });
        assert_eq!((moved, rates), (2, vec![0.5 * (1.0 - 1.0 / 3.0), 0.5 * (1.0 - 2.0 / 3.0)]));
        assert!(hidden > 0, "no momentum at pruned weights");
    }
}

#[test]
fn dynamic_l2_starts_every_epoch_at_zero_and_is_part_of_the_loss() {
    let mut trainer = trainer(&format!("warmup_epochs = 1\n{ADVERSARY}"), Some(DNR), &Device::Cpu);
    let mut seen = Vec::new();
    run(&mut trainer, |_, event| {
        if let Event::Step(step) = event {
            let l2 = step.dynamic_l2;
            let (clean, adversarial) = (step.clean_loss.unwrap(), step.adversarial_loss);
            let want = match (adversarial, l2) {
                (Some(adversarial), Some(l2)) => 0.5 * (clean + l2) + 0.5 * adversarial,
                _ => clean,
            };
            assert!((step.loss - want).abs() < 1e-12);
            seen.push(l2);
        }
    });
    assert_eq!(seen[..3], [None; 3]);
    for epoch in [&seen[3..6], &seen[6..9]] {
        assert_eq!(epoch[0], Some(0.0));
        assert!(epoch[1].unwrap() > 0.0 && epoch[2].unwrap() > 0.0);
    }
}

#[test]
fn dnr_without_its_parts_is_the_system_without_them() {
    let after = |train: &str, prune: &str| {
        let mut trainer = trainer(train, Some(prune), &Device::Cpu);
        let mut epochs = Vec::new();
        run(&mut trainer, |trainer, event| {
            if let Event::Epoch(_) = event {
                epochs.push(state_bits(trainer.model()));
            }
        });
        epochs
    };
    let dnr = after(&format!("warmup_epochs = 1\n{ADVERSARY}"), DNR);
    let clean = after("warmup_epochs = 1", DNR);
    // β = 1 never runs the attack: bit for bit DNR-C.
    assert_eq!(after(&format!("warmup_epochs = 1\nbeta = 1.0\n{ADVERSARY}"), DNR), clean);
    let without =
        after(&format!("warmup_epochs = 1\n{ADVERSARY}"), "method = 'dnr'\ndensity = 0.1");
    // The warm-up knows neither adversary nor dynamic L2.
    assert_eq!((&dnr[0], &clean[0]), (&without[0], &without[0]));
    assert!(dnr[2] != clean[2] && dnr[2] != without[2]);
}

#[test]
fn running_statistics_are_updated_clean_then_adversarial() {
    let data = Dataset::load(DATA).unwrap();
    let text = format!("max_steps = 1\n{ADVERSARY}");
    let mut trainer = trainer(&text, None, &Device::Cpu);
    let mut by_hand = trainer.model().clone();
    run(&mut trainer, |_, _| {});
    let weights = Weights::default();
    let loader = Loader::new(data.train().unwrap(), 8).unwrap().shuffle(Seed(9));
    let batch = loader.epoch(0).batch(0).unwrap();
    let x = Tensor::from_vec(batch.images, &[8, 32, 32, 1], &Device::Cpu).unwrap();
    let labels = Tensor::from_vec(batch.labels, &[8], &Device::Cpu).unwrap();
    by_hand.forward_train(&mut Tape::new(Mode::F32), &x, &weights).unwrap();
    let network = Network { model: &by_hand, weights: &weights, mode: Mode::F32 };
    let attack: AttackSettings = settings(&text).adversary.unwrap();
    let draws = Draws { seed: Seed(9), stream: "attack.start", restart: 0, turn: 0 };
    let x = adversary(&network, &x, &labels, &attack, draws).unwrap();
    by_hand.forward_train(&mut Tape::new(Mode::F32), &x, &weights).unwrap();
    for (name, want) in by_hand.running() {
        let got = &trainer.model().running()[name];
        assert_eq!(
            (bits(&got.mean), bits(&got.var)),
            (bits(&want.mean), bits(&want.var)),
            "{name}"
        );
    }
}

#[test]
fn sgd_and_adam_follow_pytorchs_arithmetic_on_every_parameter() {
    // PyTorch's rules in float64: three steps of a scalar, weight decay included.
    let (w0, gradients, decay) = (0.5f64, [0.3, -0.2, 0.1], 0.01);
    let sgd = |nesterov: bool| {
        let (mut w, mut v) = (w0, 0.0);
        for (i, g) in gradients.iter().enumerate() {
            let g = g + decay * w;
            v = if i == 0 { g } else { 0.9 * v + g };
            w -= 0.1 * if nesterov { g + 0.9 * v } else { v };
        }
        w
    };
    let adam = || {
        let (mut w, mut m, mut v) = (w0, 0.0, 0.0);
        for (i, g) in gradients.iter().enumerate() {
            let (g, t) = (g + decay * w, i as i32 + 1);
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let denominator = (v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8;
            w -= 0.1 * m / (1.0 - 0.9f64.powi(t)) / denominator;
        }
        w
    };
    for (text, want) in [
        ("kind = 'sgd'\nlr = 0.1\nweight_decay = 0.01", sgd(true)),
        ("kind = 'sgd'\nlr = 0.1\nweight_decay = 0.01\nnesterov = false", sgd(false)),
        ("kind = 'adam'\nlr = 0.1\nweight_decay = 0.01", adam()),
    ] {
        let settings: OptimizerSettings = toml::from_str(text).unwrap();
        for device in [Device::Cpu, Device::new("cuda-host").unwrap()] {
            let tensor = |x: f64| Tensor::from_vec(vec![x as f32; 3], &[3], &device).unwrap();
            let mut optimizer = Optimizer::new(settings.clone());
            // Batch norm and biases decay like the rest.
            let names = ["conv.weight", "conv.bias", "bn.weight"];
            let mut params: BTreeMap<String, Tensor> =
                names.iter().map(|name| (name.to_string(), tensor(w0))).collect();
            for g in gradients {
                let found = names.iter().map(|name| (name.to_string(), tensor(g))).collect();
                let free = |_: &str| Constraint::default();
                optimizer.step(&mut params, &found, 0.1, free).unwrap();
            }
            for (name, param) in &params {
                for got in param.to_vec::<f32>().unwrap() {
                    let error = (f64::from(got) - want).abs();
                    assert!(error < 1e-6, "{text} on {device}, {name}: {got} {want}");
                }
            }
        }
    }
}

#[test]
fn sparse_execution_trains_as_the_dense_does() {
    // Masks that never change: every pass runs over kept weights only, the weight gradient too.
    let after = |execution: &str, prune: &str| {
        let text = format!(
            "max_steps = 4\nexecution = '{execution}'\noptimizer = {{ kind = 'sgd', lr = 1e-3 }}"
        );
        let mut losses = Vec::new();
        run(&mut trainer(&text, Some(prune), &Device::Cpu), |_, event| {
            if let Event::Step(step) = event {
                losses.push(step.loss);
            }
        });
        losses
    };
    let fixed = "method = 'static'\ndensity = 0.3";
    let (sparse, dense) = (after("sparse", fixed), after("dense", fixed));
    assert_eq!((sparse.len(), dense.len()), (4, 4));
    // Other kernels sum in another order.
    assert_ne!(sparse, dense);
    for (sparse, dense) in sparse.iter().zip(&dense) {
        assert!((sparse / dense - 1.0).abs() < 1e-5, "{sparse} {dense}");
    }
    // Masks that change: the momentum of pruned weights is still there to rank by.
    let text = format!("execution = 'sparse'\n{ADVERSARY}");
    let mut trainer = trainer(&text, Some(DNR), &Device::Cpu);
    run(&mut trainer, |_, _| {});
    let (name, mask) = trainer.pruner().unwrap().masks().next().unwrap();
    let v = trainer.optimizer().momentum()[name].to_vec::<f32>().unwrap();
    let mask = mask.to_vec::<u8>().unwrap();
    assert!(v.iter().zip(mask).any(|(v, m)| m == 0 && *v != 0.0));
}

#[test]
fn weight_noise_changes_training_not_pruned_weights_and_is_drawn_by_the_seed() {
    let after = |text: &str| {
        let mut trainer = trainer(&format!("{text}\n{ADVERSARY}"), Some(DNR), &Device::Cpu);
        run(&mut trainer, |trainer, _| {
            for (name, mask) in trainer.pruner().unwrap().masks() {
                let weight = trainer.model().param(name).unwrap().to_vec::<f32>().unwrap();
                let mask = mask.to_vec::<u8>().unwrap();
                assert!(weight.iter().zip(mask).all(|(w, m)| m == 1 || *w == 0.0), "{name}");
            }
        });
        state_bits(trainer.model())
    };
    let noisy = after("weight_noise = 0.25");
    assert!(noisy == after("weight_noise = 0.25") && noisy != after(""));
}

#[test]
fn the_same_seed_gives_the_same_bits_on_any_number_of_threads() {
    let result = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut trainer = trainer(ADVERSARY, Some(DNR), &Device::Cpu);
            run(&mut trainer, |_, _| {});
            (state_bits(trainer.model()), masks(&trainer))
        })
    };
    let one = result(1);
    assert!(one == result(1) && one == result(3));
}

#[test]
fn a_run_goes_on_from_its_state_with_the_same_bits() {
    let text = format!("warmup_epochs = 1\nschedule = {{ kind = 'cosine' }}\n{ADVERSARY}");
    let new = || trainer(&text, Some(DNR), &Device::Cpu);
    let mut whole = new();
    let mut states = Vec::new();
    run(&mut whole, |trainer, event| {
        if !matches!(event, Event::Rewired(..)) {
            states.push(trainer.state().unwrap());
        }
    });
    assert_eq!(states.len(), 12);
    for (tensors, json) in states {
        let mut half = new();
        half.load_state(tensors, &json).unwrap();
        run(&mut half, |_, _| {});
        assert!(state_bits(half.model()) == state_bits(whole.model()), "from {json}");
        assert_eq!((masks(&half), half.best()), (masks(&whole), whole.best()), "from {json}");
    }
}

/// The state after `epochs` epochs on the CPU: statistics and masks have settled. An untrained network's signal sinks
/// below rounding in eval mode, where pooling then picks by noise on any device.
fn settled(mut trainer: Trainer, epochs: usize) -> (BTreeMap<String, Tensor>, String) {
    let data = Dataset::load(DATA).unwrap();
    let mut state = None;
    let stopped = trainer.run(&data, true, &[], &mut |trainer, event| match event {
        Event::Epoch(epoch) if epoch.epoch == epochs => {
            state = Some(trainer.state().unwrap());
            Err(ErrorKind::Interrupted("settled".into()).into())
        }
        _ => Ok(()),
    });
    assert!(stopped.is_err());
    state.unwrap()
}

#[test]
fn kernels_train_as_the_cpu_does() {
    let host = Device::new("cuda-host").unwrap();
    for arch in ["vgg16", "resnet18"] {
        for (granularity, density) in [("irregular", 0.1), ("channel", 0.5)] {
            let prune = format!(
                "method = 'dnr'\ngranularity = '{granularity}'\ndensity = {density}\nrho = 1e-4"
            );
            let arch = format!("{arch}:width=0.0625,in_channels=1,classes=4");
            // One step an epoch; the last three rewire twice.
            let at = |lr: f64| {
                let text = format!(
                    "max_steps = 15\noptimizer = {{ kind = 'sgd', lr = {lr} }}\n{ADVERSARY}"
                );
                TrainSettings { epochs: 24, batch_size: 24, ..settings(&text) }
            };
            let state =
                settled(trainer_of(&arch, at(0.005), Some(&prune), &Device::Cpu, Seed(10)), 12);
            let result = |device: &Device| {
                let mut trainer = trainer_of(&arch, at(1e-5), Some(&prune), device, Seed(10));
                trainer.load_state(state.0.clone(), &state.1).unwrap();
                let before = masks(&trainer);
                let mut losses = Vec::new();
                run(&mut trainer, |_, event| {
                    if let Event::Step(step) = event {
                        losses.push(step.loss);
                    }
                });
                assert!(masks(&trainer) != before, "{arch} {granularity}: nothing was rewired");
                (losses, masks(&trainer))
            };
            let ((want, cpu), (got, kernels)) = (result(&Device::Cpu), result(&host));
            assert_eq!(got.len(), 3);
            let near = |(got, want): (&f64, &f64)| (got / want - 1.0).abs() < 1e-3;
            let close = got.iter().zip(&want).all(near);
            assert!(close, "{arch} {granularity}: {got:?}, on the CPU {want:?}");
            assert!(cpu == kernels, "{arch} {granularity}: masks differ");
        }
    }
}
