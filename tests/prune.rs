//! Pruning: every rewiring against a sort, the budget, and what holds for every method.

use crate::fixture::{fresh_seed, network_of};
use rewire::nn::Model;
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

/// A layer before a rewiring as the published rules see it. Units are its weights, or its input channels.
struct Rewired {
    /// Units, N.
    units: usize,
    /// Weights in a unit, S.
    size: usize,
    /// Units with an active weight.
    active: Vec<bool>,
    /// Active weights, n.
    weights: usize,
    /// Squared norm of a unit of the weight.
    weight: Vec<f64>,
    /// Squared norm of a unit of the momentum.
    momentum: Vec<f64>,
    /// Mean |momentum| over the active weights, v.
    salience: f64,
}

impl Rewired {
    /// Of a weight `[K, R, S, C]`: with channels the unit of element i is i mod C.
    fn new(shape: &[usize], channels: bool, mask: &[u8], weight: &[f32], momentum: &[f32]) -> Self {
        let units = if channels { shape[3] } else { mask.len() };
        let squares = |x: &[f32]| {
            let mut sums = vec![0.0; units];
            x.iter().enumerate().for_each(|(i, &x)| sums[i % units] += f64::from(x) * f64::from(x));
            sums
        };
        let kept = || (0..mask.len()).filter(|&i| mask[i] == 1);
        let mut active = vec![false; units];
        kept().for_each(|i| active[i % units] = true);
        let weights = kept().count();
        let sum: f64 = kept().map(|i| f64::from(momentum[i].abs())).sum();
        Self {
            units,
            size: mask.len() / units,
            active,
            weights,
            weight: squares(weight),
            momentum: squares(momentum),
            salience: sum / weights as f64,
        }
    }

    fn len(&self) -> usize {
        self.units * self.size
    }
}

/// Parts of `total`: the same level above each share, but no part above its cap; caps are 99 % of the room, or all of
/// it where that is too little. The level is found by bisection.
fn parts(shares: &[f64], total: usize, room: &[usize]) -> (Vec<f64>, Vec<usize>) {
    let most: Vec<usize> = room.iter().map(|room| room * 99 / 100).collect();
    let caps = if most.iter().sum::<usize>() < total { room.to_vec() } else { most };
    let at = |level: f64| -> Vec<f64> {
        let part = |(share, &cap): (&f64, &usize)| (share * total as f64 + level).min(cap as f64);
        shares.iter().zip(&caps).map(part).collect()
    };
    let (mut low, mut high) = (0.0, total as f64);
    if at(low).iter().sum::<f64>() >= total as f64 - 1e-6 {
        high = low;
    }
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        match at(middle).iter().sum::<f64>() < total as f64 {
            true => low = middle,
            false => high = middle,
        }
    }
    (at(high), caps)
}

/// Units of every layer that stay and that grow in the exact mode, for B = `budget` and the prune rate p.
///
/// Irregular: k = min(⌈p·n⌉, n − 1) weights go, and R = B − Σ(n − k) are shared by v, by largest remainder. Channels:
/// round((n − k)/S) stay, all where p times their number is below ½, and R is shared likewise until B is reached, never
/// beyond B + max S/2. A layer of more than its share that is less than 20 % free has that share of it as p.
fn exact(layers: &[Rewired], budget: usize, rate: f64) -> Vec<[usize; 2]> {
    let saliences: f64 = layers.iter().map(|layer| layer.salience).sum();
    let shares: Vec<f64> = layers.iter().map(|layer| layer.salience / saliences).collect();
    let largest = layers.iter().map(|layer| layer.size).max().unwrap();
    let slack = if largest == 1 { 0 } else { largest };
    let mut keep: Vec<usize> = Vec::new();
    for (layer, share) in layers.iter().zip(&shares) {
        let free = (layer.len() - layer.weights) as f64 / layer.len() as f64;
        let full = free < 0.2 && *share > 1.0 / layers.len() as f64;
        let own = if full { rate.min(free) } else { rate };
        let gone = ((own * layer.weights as f64 - 1e-9).ceil() as usize).min(layer.weights - 1);
        let left = (layer.weights - gone) as f64 / layer.size as f64;
        let active = layer.active.iter().filter(|&&active| active).count();
        let alone = layer.size > 1 && rate * (active as f64) < 0.5;
        keep.push(if alone { active } else { ((left + 0.5).floor() as usize).clamp(1, active) });
    }
    let weights = |counts: &[usize]| -> usize {
        counts.iter().zip(layers).map(|(count, layer)| count * layer.size).sum()
    };
    let kept = weights(&keep);
    assert!(2 * kept <= 2 * budget + slack, "too much is kept: {kept} of {budget}");
    let room: Vec<usize> =
        layers.iter().zip(&keep).map(|(layer, keep)| layer.len() - keep * layer.size).collect();
    let (wanted, caps) = parts(&shares, budget.saturating_sub(kept), &room);
    let wanted: Vec<f64> =
        wanted.iter().zip(layers).map(|(part, layer)| part / layer.size as f64).collect();
    let mut grow: Vec<usize> = wanted.iter().map(|wanted| wanted.floor() as usize).collect();
    // The largest remainder first, in turns.
    let turns = ranked(layers.len(), |_| true, |l| wanted[l].floor() - wanted[l]);
    loop {
        let before = grow.clone();
        for &l in &turns {
            let (size, now) = (layers[l].size, kept + weights(&grow));
            let whole = if slack == 0 { caps[l] } else { layers[l].units - keep[l] };
            if now < budget && 2 * (now + size) <= 2 * budget + slack && grow[l] < whole {
                grow[l] += 1;
            }
        }
        if grow == before {
            return keep.into_iter().zip(grow).map(|(keep, grow)| [keep, grow]).collect();
        }
    }
}

/// What the masks must be after a rewiring by the exact mode, from the rules alone.
fn oracle(
    model: &Model,
    before: &[(String, Vec<u8>)],
    momentum: &BTreeMap<String, Tensor>,
    channels: bool,
    budget: usize,
    rate: f64,
) -> Vec<Vec<u8>> {
    let layer = |(name, mask): &(String, Vec<u8>)| {
        let shape = model.param(name).unwrap().shape();
        let momentum = momentum[name].to_vec::<f32>().unwrap();
        Rewired::new(shape, channels, mask, &values(model, name), &momentum)
    };
    let layers: Vec<Rewired> = before.iter().map(layer).collect();
    let moves = exact(&layers, budget, rate);
    let masks = layers.iter().zip(moves).map(|(layer, [keep, grow])| {
        let mut active = layer.active.clone();
        let drop = ranked(layer.units, |i| active[i], |i| layer.weight[i]);
        drop[..drop.len() - keep].iter().for_each(|&i| active[i] = false);
        let first = ranked(layer.units, |i| !active[i], |i| -layer.momentum[i]);
        first[..grow].iter().for_each(|&i| active[i] = true);
        (0..layer.len()).map(|i| u8::from(active[i % layer.units])).collect()
    });
    masks.collect()
}

#[test]
fn a_rewiring_equals_a_sort_and_meets_the_budget() {
    let seed = fresh_seed();
    for device in devices() {
        // The last of each leaves some layers less room than their share.
        for (granularity, density) in
            [("irregular", 0.1), ("irregular", 0.9), ("channel", 0.5), ("channel", 0.9)]
        {
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
                assert!(masks(&pruner) != before, "{at}, epoch {epoch}: nothing moved");
                let rate = 0.5 * (1.0 - epoch as f64 / epochs as f64);
                let budget = pruner.budget();
                let channels = prune.granularity == Granularity::Channel;
                let want = oracle(&old, &before, &momentum, channels, budget, rate);
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
        pruner.rewire(&mut model, &momentum, 1, 10).unwrap().unwrap();
        let mut dropped = 0;
        for (name, mask) in masks(&pruner) {
            // The first filter's first tap shows every channel; the others must be as it is.
            let channels = model.param(&name).unwrap().shape()[3];
            let first = &mask[..channels];
            assert!(mask.chunks(channels).all(|tap| tap == first), "{mode}: {name}");
            assert!(first.contains(&1), "{mode}: {name}");
            dropped += first.iter().filter(|&&m| m == 0).count();
        }
        assert!(dropped > 0, "{mode}");
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
            pruner.rewire(&mut model, &momentum, epoch, 30).unwrap().unwrap();
        }
        let error = (pruner.active() as f64 / pruner.budget() as f64 - 1.0).abs();
        assert!(error <= bound, "{granularity} {density}: {error}");
    }
}

/// Every method with the granularities that it is defined for.
const DEFINED: [(&str, &[&str]); 4] = [
    ("dnr", &["irregular", "channel"]),
    ("sparse-learning", &["irregular"]),
    ("magnitude", &["irregular", "kernel", "filter", "channel"]),
    ("static", &["irregular", "kernel", "filter", "channel"]),
];

#[test]
fn every_method_meets_its_density_and_keeps_its_keys() {
    // The masks of `fixed` give its density.
    let names = METHODS.iter().map(|entry| entry.name).filter(|name| *name != "fixed");
    let names: Vec<&str> = names.collect();
    assert_eq!(names, DEFINED.map(|(method, _)| method));
    for (method, defined) in DEFINED {
        for granularity in Granularity::ALL {
            let name = granularity.name();
            let text = format!("method = '{method}'\ngranularity = '{name}'\ndensity = 0.3");
            let mut prune = settings(&text);
            if !defined.contains(&name) {
                let error = prune.build().err().unwrap().to_string();
                let want = format!("must be {} for {method}", defined.join(" or "));
                assert_eq!(error, format!("prune.granularity = {name}: {want}"));
                continue;
            }
            prune.keys = prune.build().unwrap().keys().unwrap();
            let written = toml::to_string(&prune).unwrap();
            assert_eq!(settings(&written), prune, "{method}: {written}");
            let mut model = network_of(ARCH, &Device::Cpu);
            let pruner = Pruner::new(&prune, &model, Seed(2)).unwrap();
            let counts = pruner.active_by_layer();
            assert!(counts.len() >= 13, "{method} {name}: {} layers", counts.len());
            for ((layer, active), (_, mask)) in counts.iter().zip(masks(&pruner)) {
                let ones = mask.iter().filter(|&&m| m == 1).count();
                assert!(mask.iter().all(|&m| m <= 1) && ones == *active && ones >= 1);
                let shape = model.param(layer).unwrap().shape().to_vec();
                let (k, c) = (shape[0], shape[shape.len() - 1]);
                let unit = match granularity {
                    Granularity::Irregular => 1,
                    Granularity::Kernel => mask.len() / (k * c),
                    Granularity::Filter => mask.len() / k,
                    Granularity::Channel => mask.len() / c,
                };
                assert_eq!(ones % unit, 0, "{method} {name}: part of a unit in {layer}");
                let off = (0.3 * mask.len() as f64 - ones as f64).abs();
                // Half a unit by rounding, but never none at all.
                let most = if ones == unit { unit as f64 } else { unit as f64 / 2.0 + 1e-9 };
                assert!(off <= most, "{method} {name}: {layer} {active}");
            }
            pruner.apply(&mut model).unwrap();
            for (layer, mask) in masks(&pruner) {
                let pruned = values(&model, &layer).into_iter().zip(mask).filter(|(_, m)| *m == 0);
                assert!(pruned.into_iter().all(|(w, _)| w.to_bits() == 0));
            }
            let again = Pruner::new(&prune, &network_of(ARCH, &Device::Cpu), Seed(2)).unwrap();
            assert_eq!(masks(&pruner), masks(&again), "{method}");
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
        for (conv, norm) in [("conv1", "bn1"), ("layer2.0.downsample.0", "layer2.0.downsample.1")] {
            let weight = values(&model, &format!("{conv}.weight"));
            let scales = values(&model, &format!("{norm}.weight"));
            let dead: Vec<bool> = weight
                .chunks(weight.len() / scales.len())
                .map(|filter| filter.iter().all(|w| *w == 0.0))
                .collect();
            assert_eq!(dead.iter().filter(|&&dead| dead).count(), scales.len() / 2, "{conv}");
            for values in [scales, values(&model, &format!("{norm}.bias"))] {
                let zero: Vec<bool> = values.iter().map(|v| v.to_bits() == 0).collect();
                assert_eq!(
                    zero,
                    if keep_bn { vec![false; dead.len()] } else { dead.clone() },
                    "{norm}"
                );
            }
        }
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
    assert_ne!(masks(&pruner), masks(&other));
    other.load_state(pruner.state().unwrap()).unwrap();
    let mut twin = model.clone();
    pruner.rewire(&mut model, &second, 2, 9).unwrap();
    other.rewire(&mut twin, &second, 2, 9).unwrap();
    assert_eq!(masks(&pruner), masks(&other));
    assert!(pruner.dynamic_l2(&model).unwrap() > 0.0);
    assert_eq!(pruner.dynamic_l2(&model).unwrap(), other.dynamic_l2(&twin).unwrap());
}
