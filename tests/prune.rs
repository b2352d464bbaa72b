//! Pruning: every rewiring against a sort, the budget, and what holds for every method.

use crate::fixture::{fresh_seed, network_of};
use rewire::nn::Model;
use rewire::prune::budget::{self, Correction, LayerCount, Rounding};
use rewire::prune::{Granularity, METHODS, PruneSettings, Pruner};
use rewire::{Device, Seed, Tensor};
use std::collections::BTreeMap;

const ARCH: &str = "vgg16:width=0.0625,in_channels=2";

fn settings(text: &str) -> PruneSettings {
    toml::from_str(text).unwrap()
}

fn devices() -> [Device; 2] {
    [Device::Cpu, Device::new("cuda-host").unwrap()]
}

/// Momentum with many ties, also at 0.
fn momentum(model: &Model, seed: Seed, step: u64) -> BTreeMap<String, Tensor> {
    let values = |(i, (name, tensor)): (usize, (&String, &Tensor))| {
        let rng = seed.stream("momentum", step, i as u32);
        let scale = 1.0 + i as f32;
        let values = (0..tensor.len()).map(|k| ((rng.uniform(k) * 41.0).floor() - 20.0) * scale);
        let tensor = Tensor::from_vec(values.collect(), tensor.shape(), model.device()).unwrap();
        (name.clone(), tensor)
    };
    model.params().iter().enumerate().map(values).collect()
}

/// Gives every active weight a new value with ties; some become 0 though active.
fn train(model: &mut Model, pruner: &Pruner, seed: Seed, step: u64) {
    let masks: Vec<(String, Vec<u8>)> = masks(pruner);
    for (i, (name, mask)) in masks.iter().enumerate() {
        let rng = seed.stream("weights", step, i as u32);
        let value = |(k, &m): (usize, &u8)| match m {
            0 => 0.0,
            _ => (rng.uniform(k) * 21.0).floor() - 10.0,
        };
        let values: Vec<f32> = mask.iter().enumerate().map(value).collect();
        let device = model.device().clone();
        let weight = model.param_mut(name).unwrap();
        let new = Tensor::from_vec(values, weight.shape(), &device).unwrap();
        weight.assign(&new).unwrap();
    }
}

fn masks(pruner: &Pruner) -> Vec<(String, Vec<u8>)> {
    pruner.masks().map(|(name, mask)| (name.to_owned(), mask.to_vec().unwrap())).collect()
}

fn values(model: &Model, name: &str) -> Vec<f32> {
    model.param(name).unwrap().to_vec().unwrap()
}

/// Positions where `pick` holds, by rising `key`; of equal ones the lower first.
fn ranked(len: usize, pick: impl Fn(usize) -> bool, key: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).filter(|&i| pick(i)).collect();
    order.sort_by(|&a, &b| key(a).total_cmp(&key(b)));
    order
}

/// What the masks must be after a rewiring, by sorting.
fn oracle(
    model: &Model,
    before: &[(String, Vec<u8>)],
    momentum: &BTreeMap<String, Tensor>,
    granularity: Granularity,
    total: usize,
    rate: f64,
) -> Vec<Vec<u8>> {
    let shape = |name: &str| model.param(name).unwrap().shape().to_vec();
    let score = |name: &str| momentum[name].to_vec::<f32>().unwrap();
    let counts: Vec<LayerCount> = before
        .iter()
        .map(|(name, mask)| {
            let units = granularity.active_units(&shape(name), mask);
            let active = mask.iter().filter(|&&m| m != 0).count();
            let sum: f64 = score(name)
                .iter()
                .zip(mask)
                .filter(|(_, m)| **m != 0)
                .map(|(x, _)| f64::from(x.abs()))
                .sum();
            LayerCount {
                weights: mask.len(),
                unit: mask.len() / units.len(),
                active,
                active_units: units.iter().filter(|&&a| a).count(),
                salience: sum / active as f64,
            }
        })
        .collect();
    let channels = granularity == Granularity::Channel;
    let moves =
        budget::moves(&counts, total, rate, channels, Rounding::Exact, &Correction::default());
    let masks = before.iter().zip(moves).map(|((name, mask), step)| {
        let shape = shape(name);
        let unit = granularity.unit_of(&shape);
        let norms = |x: &[f32]| {
            let mut norms = vec![0.0; granularity.units(&shape)];
            x.iter().enumerate().for_each(|(i, &x)| norms[unit(i)] += f64::from(x).powi(2));
            norms
        };
        let (weight, score) = (norms(&values(model, name)), norms(&score(name)));
        let mut active = granularity.active_units(&shape, mask);
        let drop = ranked(active.len(), |i| active[i], |i| weight[i]);
        drop[..drop.len() - step.keep].iter().for_each(|&i| active[i] = false);
        let grow = ranked(active.len(), |i| !active[i], |i| -score[i]);
        grow[..step.grow].iter().for_each(|&i| active[i] = true);
        granularity.mask(&shape, &active)
    });
    masks.collect()
}

#[test]
fn a_rewiring_equals_a_sort_and_meets_the_budget() {
    let seed = fresh_seed();
    for device in devices() {
        for (granularity, density) in [("irregular", 0.1), ("channel", 0.5)] {
            let at = format!("seed {}, {granularity} on {device}", seed.0);
            let prune = settings(&format!(
                "method = 'dnr'\ngranularity = '{granularity}'\ndensity = {density}"
            ));
            let mut model = network_of(ARCH, &device);
            let mut pruner = Pruner::new(&prune, &model, seed).unwrap();
            let epochs = 4;
            for epoch in 1..=epochs {
                train(&mut model, &pruner, seed, epoch as u64);
                let before = masks(&pruner);
                let momentum = momentum(&model, seed, epoch as u64);
                let old = model.clone();
                let rewired = pruner.rewire(&mut model, &momentum, epoch, epochs).unwrap();
                if epoch == epochs {
                    assert!(rewired.is_none() && masks(&pruner) == before, "{at}");
                    continue;
                }
                let rate = 0.5 * (1.0 - epoch as f64 / epochs as f64);
                let budget = pruner.budget();
                let want = oracle(&old, &before, &momentum, prune.granularity, budget, rate);
                for ((name, mask), want) in masks(&pruner).iter().zip(&want) {
                    assert!(mask == want, "{at}, epoch {epoch}: {name}");
                }
                let largest = match prune.granularity {
                    Granularity::Channel => 32 * 9,
                    _ => 0,
                };
                assert!(2 * pruner.active().abs_diff(budget) <= largest, "{at}");
                survivors_are_untouched(&old, &model, &before, &masks(&pruner), &at);
            }
        }
    }
}

/// Weights active before and after keep their bits; all others are 0 (a weight that was pruned and regrown
/// in the same rewiring is active before and after).
fn survivors_are_untouched(
    old: &Model,
    new: &Model,
    before: &[(String, Vec<u8>)],
    after: &[(String, Vec<u8>)],
    at: &str,
) {
    for ((name, before), (_, after)) in before.iter().zip(after) {
        let (old, new) = (values(old, name), values(new, name));
        for i in 0..old.len() {
            let want = if before[i] & after[i] == 1 { old[i].to_bits() } else { 0 };
            assert_eq!(new[i].to_bits(), want, "{at}: {name}[{i}]");
        }
    }
}

#[test]
fn after_the_first_rewiring_channels_are_whole_also_from_single_weights() {
    for mode in ["exact", "reference"] {
        let prune = settings(&format!(
            "method = 'dnr'\ngranularity = 'channel'\ndensity = 0.5\nmode = '{mode}'\ninit = 'bernoulli'"
        ));
        let mut model = network_of(ARCH, &Device::Cpu);
        let mut pruner = Pruner::new(&prune, &model, Seed(4)).unwrap();
        let momentum = momentum(&model, Seed(4), 0);
        pruner.apply(&mut model).unwrap();
        pruner.rewire(&mut model, &momentum, 1, 10).unwrap();
        for (name, mask) in masks(&pruner) {
            let shape = model.param(&name).unwrap().shape().to_vec();
            let active = Granularity::Channel.active_units(&shape, &mask);
            assert_eq!(Granularity::Channel.mask(&shape, &active), mask, "{mode}: {name}");
            assert!(active.contains(&true), "{mode}: {name}");
        }
    }
}

#[test]
fn the_reference_mode_keeps_near_its_budget() {
    for (granularity, density, bound) in [("irregular", 0.05, 1e-3), ("irregular", 0.5, 1e-3)] {
        let prune = settings(&format!(
            "method = 'dnr'\ngranularity = '{granularity}'\ndensity = {density}\nmode = 'reference'"
        ));
        let mut model = network_of("vgg16:width=0.125", &Device::Cpu);
        let mut pruner = Pruner::new(&prune, &model, Seed(8)).unwrap();
        for epoch in 1..30 {
            train(&mut model, &pruner, Seed(8), epoch as u64);
            let momentum = momentum(&model, Seed(8), epoch as u64);
            pruner.rewire(&mut model, &momentum, epoch, 30).unwrap();
        }
        let error = (pruner.active() as f64 / pruner.budget() as f64 - 1.0).abs();
        assert!(error <= bound, "{granularity} {density}: {error}");
    }
}

#[test]
fn every_method_meets_its_density_and_keeps_its_keys() {
    for entry in METHODS {
        for granularity in Granularity::ALL {
            let name = granularity.name();
            let text = format!("method = '{}'\ngranularity = '{name}'\ndensity = 0.3", entry.name);
            let mut prune = settings(&text);
            let Ok(method) = prune.build() else { continue };
            prune.keys = method.keys().unwrap();
            let written = toml::to_string(&prune).unwrap();
            assert_eq!(settings(&written), prune, "{}: {written}", entry.name);
            let mut model = network_of(ARCH, &Device::Cpu);
            let pruner = Pruner::new(&prune, &model, Seed(2)).unwrap();
            for ((layer, active), (_, mask)) in pruner.active_by_layer().iter().zip(masks(&pruner))
            {
                assert!(mask.iter().all(|&m| m <= 1) && *active >= 1);
                let shape = model.param(layer).unwrap().shape().to_vec();
                let unit = mask.len() / granularity.units(&shape);
                let off = (0.3 * mask.len() as f64 - *active as f64).abs();
                assert!(off <= unit as f64, "{} {name}: {layer} {active}", entry.name);
            }
            pruner.apply(&mut model).unwrap();
            for (layer, mask) in masks(&pruner) {
                let pruned = values(&model, &layer).into_iter().zip(mask).filter(|(_, m)| *m == 0);
                assert!(pruned.into_iter().all(|(w, _)| w.to_bits() == 0));
            }
            let again = Pruner::new(&prune, &network_of(ARCH, &Device::Cpu), Seed(2)).unwrap();
            assert_eq!(masks(&pruner), masks(&again), "{}", entry.name);
            prune.keys.insert("nonsense".into(), 1.into());
            let error = prune.build().err().unwrap().to_string();
            assert!(error.contains("nonsense"), "{error}");
        }
    }
}

#[test]
fn magnitude_keeps_the_largest_of_a_layer_or_of_the_network() {
    let model = network_of(ARCH, &Device::Cpu);
    for scope in ["layer", "global"] {
        let prune = settings(&format!("method = 'magnitude'\ndensity = 0.25\nscope = '{scope}'"));
        let pruner = Pruner::new(&prune, &model, Seed(0)).unwrap();
        let total: usize = pruner.prunable();
        assert!(pruner.active().abs_diff(total / 4) <= 13, "{scope}: {}", pruner.active());
        let (mut least_kept, mut most_dropped) = (f32::INFINITY, 0.0f32);
        for (name, mask) in masks(&pruner) {
            if scope == "layer" {
                (least_kept, most_dropped) = (f32::INFINITY, 0.0);
            }
            for (w, m) in values(&model, &name).into_iter().zip(mask) {
                if m == 1 {
                    least_kept = least_kept.min(w.abs());
                } else {
                    most_dropped = most_dropped.max(w.abs());
                }
            }
            assert!(scope == "global" || least_kept >= most_dropped, "{name}");
        }
        assert!(least_kept >= most_dropped, "{scope}");
    }
}

#[test]
fn a_pruned_filter_is_exactly_zero_unless_batch_norm_is_kept() {
    for keep_bn in [false, true] {
        let mut model = network_of("resnet18:width=0.0625", &Device::Cpu);
        let prune = settings(&format!(
            "method = 'magnitude'\ngranularity = 'filter'\ndensity = 0.5\nkeep_bn = {keep_bn}"
        ));
        let pruner = Pruner::new(&prune, &model, Seed(0)).unwrap();
        pruner.apply(&mut model).unwrap();
        for name in ["bn1.weight", "bn1.bias", "layer2.0.downsample.1.weight"] {
            let zeros = values(&model, name).iter().filter(|v| **v == 0.0).count();
            assert_eq!(zeros > 0, !keep_bn, "{name}");
        }
        let dead = values(&model, "conv1.weight")
            .chunks(27)
            .filter(|f| f.iter().all(|w| *w == 0.0))
            .count();
        assert_eq!(dead, 2);
    }
}

#[test]
fn linear_layers_and_the_first_convolution_are_where_the_method_says() {
    let model = network_of(ARCH, &Device::Cpu);
    let names = |text: &str| {
        let pruner = Pruner::new(&settings(text), &model, Seed(0)).unwrap();
        pruner.masks().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    let dnr = names("method = 'dnr'\ndensity = 0.5");
    assert_eq!((dnr.len(), dnr[0].as_str()), (13, "features.0.weight"));
    let without = names("method = 'dnr'\ndensity = 0.5\nfirst_conv = false");
    assert_eq!(without[..], dnr[1..]);
    let naive = names("method = 'sparse-learning'\ndensity = 0.5");
    assert_eq!(naive.last().unwrap(), "classifier.weight");
}

#[test]
fn a_full_network_is_never_rewired() {
    let mut model = network_of(ARCH, &Device::Cpu);
    let momentum = momentum(&model, Seed(1), 0);
    let mut pruner =
        Pruner::new(&settings("method = 'dnr'\ndensity = 1.0"), &model, Seed(1)).unwrap();
    assert_eq!(pruner.rewire(&mut model, &momentum, 1, 5).unwrap(), None);
    assert_eq!(pruner.active(), pruner.prunable());
}

#[test]
fn what_cannot_be_pruned_is_refused_by_name() {
    let model = network_of(ARCH, &Device::Cpu);
    for (text, word) in [
        ("method = 'dnr'\ngranularity = 'channel'\ndensity = 0.001", "at least 0.0"),
        ("method = 'dnr'\ngranularity = 'filter'\ndensity = 0.5", "prune.granularity"),
        ("method = 'dnr'\ndensity = 0", "prune.density"),
        ("method = 'dnr'\ndensity = 1.5", "prune.density"),
        ("method = 'dnr'\ndensity = nan", "prune.density"),
        ("method = 'dnr'\ndensity = 0.5\np0 = 2.0", "prune.p0"),
        ("method = 'dnr'\ndensity = 0.5\nrho = -1.0", "prune.rho"),
        ("method = 'dnr'\ndensity = 0.5\nmode = 'sloppy'", "sloppy"),
        ("method = 'none'\ndensity = 0.5", "prune.method"),
    ] {
        let error = Pruner::new(&settings(text), &model, Seed(0)).err().unwrap().to_string();
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn the_state_of_a_pruner_goes_on_with_the_same_masks() {
    let prune = settings("method = 'dnr'\ndensity = 0.2\nmode = 'reference'\nrho = 1e-4");
    let mut model = network_of(ARCH, &Device::Cpu);
    let mut pruner = Pruner::new(&prune, &model, Seed(5)).unwrap();
    pruner.apply(&mut model).unwrap();
    let [first, second] = [1, 2].map(|step| momentum(&model, Seed(5), step));
    pruner.rewire(&mut model, &first, 1, 9).unwrap();
    pruner.anchor(&model).unwrap();
    let mut other = Pruner::new(&prune, &model, Seed(6)).unwrap();
    other.load_state(pruner.state().unwrap()).unwrap();
    let mut twin = model.clone();
    pruner.rewire(&mut model, &second, 2, 9).unwrap();
    other.rewire(&mut twin, &second, 2, 9).unwrap();
    assert_eq!(masks(&pruner), masks(&other));
    assert!(pruner.dynamic_l2(&model).unwrap() > 0.0);
    assert_eq!(pruner.dynamic_l2(&model).unwrap(), other.dynamic_l2(&twin).unwrap());
}
