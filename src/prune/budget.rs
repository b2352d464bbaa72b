//! How many units every layer drops and regrows at one rewiring: arithmetic on counts alone.
//!
//! A *unit* is what the granularity keeps or drops as one: a weight, a kernel, a filter or an input channel. Layer l has |l| weights, n_l of them
//! active, z_l = |l| − n_l free; B is the number of active weights that the network as a whole may have.
//! Source: Kundu et al., DNR, ASP-DAC 2021, algorithm 1; Dettmers & Zettlemoyer, arXiv 1907.04840.

use serde::{Deserialize, Serialize};

/// How the counts are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// Largest remainder: the active weights sum to B after every rewiring (channels: as near as whole channels allow).
    #[default]
    Exact,
    /// Every count is rounded by itself, as the published code does, and an additive correction pulls
    /// the sum back to B over the epochs.
    Reference,
}

/// One prunable layer, counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerCount {
    /// Weights, |l|.
    pub weights: usize,
    /// Weights in a unit, S_l.
    pub unit: usize,
    /// Active weights, n_l.
    pub active: usize,
    /// Units with at least one active weight.
    pub active_units: usize,
    /// How much the layer asks for growth, v_l >= 0: mean |momentum| over its active weights.
    pub salience: f64,
}

impl LayerCount {
    /// Units of the layer, active or not.
    pub fn units(&self) -> usize {
        self.weights / self.unit
    }

    fn free(&self) -> usize {
        self.weights - self.active
    }
}

/// What one layer does at a rewiring, in units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Active units that stay.
    pub keep: usize,
    /// Units that become active, those just dropped included.
    pub grow: usize,
}

/// The additive correction of [`Rounding::Reference`]: A and the history of B − Σn_l.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Correction {
    /// A, in weights.
    pub offset: f64,
    /// B − Σn_l after every rewiring so far.
    pub history: Vec<f64>,
}

impl Correction {
    /// A ← A/4 + 3/4·(B − Σn_l) + mean of the history, the newest included.
    pub fn update(&mut self, missing: f64) {
        self.history.push(missing);
        let mean = self.history.iter().sum::<f64>() / self.history.len() as f64;
        self.offset = 0.25 * self.offset + 0.75 * missing + mean;
    }
}

/// round(d·|l|) active weights in every layer, half up, and at least one; where that one exceeds the
/// share, the surplus comes out of the largest layer. B is the sum.
pub fn initial_weights(sizes: &[usize], density: f64) -> Vec<usize> {
    let target: usize = sizes.iter().map(|&size| round_half_up(density * size as f64)).sum();
    let mut counts: Vec<usize> =
        sizes.iter().map(|&size| round_half_up(density * size as f64).clamp(1, size)).collect();
    let surplus = counts.iter().sum::<usize>().saturating_sub(target);
    if let Some(largest) = (0..sizes.len()).max_by_key(|&l| (sizes[l], usize::MAX - l)) {
        counts[largest] -= surplus.min(counts[largest] - 1);
    }
    counts
}

/// round(d·units) active units in every layer, half up, and at least one.
pub fn initial_units(units: &[usize], density: f64) -> Vec<usize> {
    units.iter().map(|&n| round_half_up(density * n as f64).clamp(1, n)).collect()
}

/// The nearest integer; halves go up.
pub fn round_half_up(x: f64) -> usize {
    (x + 0.5).floor() as usize
}

/// The moves of one rewiring at prune rate `rate`.
///
/// `whole` says whether units are of several weights, such as input channels. The correction is read in reference mode only.
pub fn moves(
    layers: &[LayerCount],
    budget: usize,
    rate: f64,
    whole: bool,
    rounding: Rounding,
    correction: &Correction,
) -> Vec<Move> {
    let shares = shares(layers);
    let drops = drops(layers, &shares, rate);
    match (rounding, whole) {
        (Rounding::Exact, false) => exact_weights(layers, budget, &shares, &drops),
        (Rounding::Exact, true) => exact_channels(layers, budget, rate, &shares, &drops),
        (Rounding::Reference, false) => reference_weights(layers, &shares, &drops, correction),
        (Rounding::Reference, true) => reference_channels(layers, &shares, &drops, correction),
    }
}

/// s_l = v_l / Σv, or |l| / Σ|l| where no layer has any momentum.
fn shares(layers: &[LayerCount]) -> Vec<f64> {
    let salience: f64 = layers.iter().map(|l| l.salience).sum();
    if salience > 0.0 {
        return layers.iter().map(|l| l.salience / salience).collect();
    }
    let weights: usize = layers.iter().map(|l| l.weights).sum();
    layers.iter().map(|l| l.weights as f64 / weights as f64).collect()
}

/// k_l = ceil(p_l·n_l), never the last weight. A layer that asks for more than its share and is less
/// than 20 % free drops no larger share than it has free.
fn drops(layers: &[LayerCount], shares: &[f64], rate: f64) -> Vec<usize> {
    let mean = 1.0 / layers.len() as f64;
    let drop = |(layer, &share): (&LayerCount, &f64)| {
        let free = layer.free() as f64 / layer.weights as f64;
        let rate = if free < 0.2 && share > mean { rate.min(free) } else { rate };
        // 1e-9: p·n that is an integer up to rounding counts as that integer.
        let drop = (rate * layer.active as f64 - 1e-9).ceil().max(0.0) as usize;
        drop.min(layer.active.saturating_sub(1))
    };
    layers.iter().zip(shares).map(drop).collect()
}

fn exact_weights(
    layers: &[LayerCount],
    budget: usize,
    shares: &[f64],
    drops: &[usize],
) -> Vec<Move> {
    let mut keep: Vec<usize> = layers.iter().zip(drops).map(|(l, k)| l.active - k).collect();
    // Masks drawn weight by weight may hold more than B: the fullest layers give the excess.
    let mut excess = keep.iter().sum::<usize>().saturating_sub(budget);
    for l in falling(keep.iter().map(|&keep| keep as f64)) {
        let gives = excess.min(keep[l].saturating_sub(1));
        keep[l] -= gives;
        excess -= gives;
    }
    let total = budget.saturating_sub(keep.iter().sum());
    let room: Vec<usize> = layers.iter().zip(&keep).map(|(l, keep)| l.weights - keep).collect();
    let (wanted, caps) = fill(shares, total, &room);
    let mut grow: Vec<usize> = wanted.iter().map(|r| r.floor() as usize).collect();
    let mut missing = total.min(caps.iter().sum()).saturating_sub(grow.iter().sum());
    let order = falling(wanted.iter().map(|r| r - r.floor()));
    while missing > 0 {
        for &l in &order {
            if missing > 0 && grow[l] < caps[l] {
                grow[l] += 1;
                missing -= 1;
            }
        }
    }
    zip_moves(keep.into_iter(), grow)
}

fn exact_channels(
    layers: &[LayerCount],
    budget: usize,
    rate: f64,
    shares: &[f64],
    drops: &[usize],
) -> Vec<Move> {
    let largest = layers.iter().map(|l| l.unit).max().unwrap_or(0);
    let mut keep: Vec<usize> = Vec::with_capacity(layers.len());
    for (layer, drop) in layers.iter().zip(drops) {
        let whole = layer.active == layer.active_units * layer.unit;
        let alone = whole && rate * (layer.active_units as f64) < 0.5;
        let left = round_half_up((layer.active - drop) as f64 / layer.unit as f64);
        keep.push(if alone { layer.active_units } else { left.clamp(1, layer.active_units) });
    }
    let cost = |counts: &[usize]| counts.iter().zip(layers).map(|(n, l)| n * l.unit).sum::<usize>();
    // Rounding up everywhere may leave more than the budget allows: the layer that was rounded up
    // most gives a channel.
    while 2 * cost(&keep) > 2 * budget + largest {
        let surplus = |l: usize| {
            keep[l] as f64 - (layers[l].active - drops[l]) as f64 / layers[l].unit as f64
        };
        let order = falling((0..layers.len()).map(surplus));
        let Some(&l) = order.iter().find(|&&l| keep[l] > 1) else { break };
        keep[l] -= 1;
    }
    let total = budget.saturating_sub(cost(&keep));
    let room: Vec<usize> =
        layers.iter().zip(&keep).map(|(l, keep)| l.weights - keep * l.unit).collect();
    let wanted: Vec<f64> = fill(shares, total, &room)
        .0
        .iter()
        .zip(layers)
        .map(|(weights, layer)| weights / layer.unit as f64)
        .collect();
    let mut grow: Vec<usize> = wanted.iter().map(|r| r.floor() as usize).collect();
    let order = falling(wanted.iter().map(|r| r - r.floor()));
    let mut reached = cost(&keep) + cost(&grow);
    let mut progress = true;
    while reached < budget && progress {
        progress = false;
        for &l in &order {
            let fits = 2 * (reached + layers[l].unit) <= 2 * budget + largest;
            if reached < budget && fits && keep[l] + grow[l] < layers[l].units() {
                grow[l] += 1;
                reached += layers[l].unit;
                progress = true;
            }
        }
    }
    zip_moves(keep.into_iter(), grow)
}

fn reference_weights(
    layers: &[LayerCount],
    shares: &[f64],
    drops: &[usize],
    correction: &Correction,
) -> Vec<Move> {
    let grow = reference_growth(layers, shares, drops, drops.iter().sum(), correction);
    let keep = layers.iter().zip(drops).map(|(l, k)| l.active - k);
    zip_moves(keep, grow.iter().map(|r| r.floor() as usize).collect())
}

/// Thresholds at linearly interpolated percentiles, strictly above: both counts round up.
fn reference_channels(
    layers: &[LayerCount],
    shares: &[f64],
    drops: &[usize],
    correction: &Correction,
) -> Vec<Move> {
    let mut keep: Vec<usize> = Vec::with_capacity(layers.len());
    for (layer, drop) in layers.iter().zip(drops) {
        let gone = layer.free() + drop;
        let above = layer.units() - 1 - (layer.units() - 1) * gone / layer.weights;
        keep.push(above.clamp(1, layer.active_units.max(1)));
    }
    let active: usize = layers.iter().map(|l| l.active).sum();
    let kept: usize = layers.iter().zip(&keep).map(|(l, keep)| keep * l.unit).sum();
    let removed = active.saturating_sub(kept);
    let wanted = reference_growth(layers, shares, drops, removed, correction);
    let grow = wanted.iter().zip(layers).zip(&keep).map(|((&r, layer), keep)| {
        let grow = ((layer.units() - 1) as f64 * r / layer.weights as f64 - 1e-9).ceil();
        // A layer of one channel has it already; any other grows one for any r > 0.
        (grow.max(0.0) as usize).min(layer.units() - keep)
    });
    let grow = grow.collect();
    zip_moves(keep.into_iter(), grow)
}

/// ceil(s_l·(R + A)), clamped to 0.99 of the free positions; the overflow is spread over all layers
/// until none is left.
fn reference_growth(
    layers: &[LayerCount],
    shares: &[f64],
    drops: &[usize],
    removed: usize,
    correction: &Correction,
) -> Vec<f64> {
    let total = removed as f64 + correction.offset;
    let mut grow: Vec<f64> = shares.iter().map(|s| (s * total).ceil().max(0.0)).collect();
    for _ in 0..1000 {
        let mut overflow = 0.0;
        for ((grow, layer), drop) in grow.iter_mut().zip(layers).zip(drops) {
            let cap = 0.99 * (layer.free() + drop) as f64;
            overflow += (*grow - cap).max(0.0);
            *grow = grow.min(cap);
        }
        if overflow == 0.0 {
            break;
        }
        grow.iter_mut().for_each(|r| *r += overflow / layers.len() as f64);
    }
    for ((grow, layer), drop) in grow.iter_mut().zip(layers).zip(drops) {
        *grow = grow.min(0.99 * (layer.free() + drop) as f64);
    }
    grow
}

/// Water-filling: `total` split by `shares`, each part at most 99 % of its `room` (all of it where the
/// total would not fit otherwise); what a full layer cannot take goes in equal parts to those with room.
/// Returns the parts and the caps that held.
fn fill(shares: &[f64], total: usize, room: &[usize]) -> (Vec<f64>, Vec<usize>) {
    let most: Vec<usize> = room.iter().map(|room| room * 99 / 100).collect();
    let caps = if most.iter().sum::<usize>() >= total { most } else { room.to_vec() };
    let mut parts: Vec<f64> = shares.iter().map(|s| s * total as f64).collect();
    // Every round fills at least one more layer, so their number bounds the rounds.
    for _ in 0..=parts.len() {
        let mut overflow = 0.0;
        for (part, &cap) in parts.iter_mut().zip(&caps) {
            overflow += (*part - cap as f64).max(0.0);
            *part = part.min(cap as f64);
        }
        let open: Vec<usize> = (0..parts.len()).filter(|&l| parts[l] < caps[l] as f64).collect();
        if overflow == 0.0 || open.is_empty() {
            break;
        }
        open.iter().for_each(|&l| parts[l] += overflow / open.len() as f64);
    }
    for (part, &cap) in parts.iter_mut().zip(&caps) {
        *part = part.min(cap as f64);
    }
    (parts, caps)
}

/// Layers from the largest to the smallest value; equal ones by index.
fn falling(values: impl Iterator<Item = f64>) -> Vec<usize> {
    let values: Vec<f64> = values.collect();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

fn zip_moves(keep: impl Iterator<Item = usize>, grow: Vec<usize>) -> Vec<Move> {
    keep.zip(grow).map(|(keep, grow)| Move { keep, grow }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

    /// Filters, input channels and R·S of VGG16's convolutions.
    const VGG16: [(usize, usize); 13] = [
        (64, 3),
        (64, 64),
        (128, 64),
        (128, 128),
        (256, 128),
        (256, 256),
        (256, 256),
        (512, 256),
        (512, 512),
        (512, 512),
        (512, 512),
        (512, 512),
        (512, 512),
    ];

    fn vgg16(channels: bool, density: f64) -> (Vec<LayerCount>, usize) {
        let sizes: Vec<usize> = VGG16.iter().map(|(m, n)| m * n * 9).collect();
        let counts = initial_weights(&sizes, density);
        let layers = VGG16.iter().zip(&counts).map(|(&(m, n), &active)| LayerCount {
            weights: m * n * 9,
            unit: if channels { m * 9 } else { 1 },
            active,
            active_units: if channels { n } else { active },
            salience: 1.0,
        });
        (layers.collect(), counts.iter().sum())
    }

    /// Rewires `times` with random saliences and calls `check` with the total after each.
    fn simulate(
        channels: bool,
        density: f64,
        rounding: Rounding,
        times: usize,
        mut check: impl FnMut(usize, usize, &[LayerCount]),
    ) {
        let (mut layers, budget) = vgg16(channels, density);
        let mut correction = Correction::default();
        for i in 1..=times {
            let random = Seed(7).stream("salience", i as u64, 0);
            for (l, layer) in layers.iter_mut().enumerate() {
                layer.salience = f64::from(random.uniform(l)) + 0.01;
            }
            let rate = 0.5 * (1.0 - i as f64 / (times + 1) as f64);
            let moves = moves(&layers, budget, rate, channels, rounding, &correction);
            for (layer, Move { keep, grow }) in layers.iter_mut().zip(moves) {
                assert!(keep + grow <= layer.units() && keep >= 1, "{layer:?} {keep} {grow}");
                layer.active_units = keep + grow;
                layer.active = layer.active_units * layer.unit;
            }
            let total = layers.iter().map(|l| l.active).sum::<usize>();
            correction.update(budget as f64 - total as f64);
            check(total, budget, &layers);
        }
    }

    #[test]
    fn exact_weights_meet_the_budget_at_every_rewiring() {
        for density in [0.001, 0.05, 0.5, 0.97] {
            simulate(false, density, Rounding::Exact, 40, |total, budget, _| {
                assert_eq!(total, budget, "density {density}");
            });
        }
    }

    #[test]
    fn exact_channels_come_within_half_the_largest_channel() {
        for density in [0.05, 0.1, 0.5, 0.9] {
            simulate(true, density, Rounding::Exact, 40, |total, budget, _| {
                assert!(2 * total.abs_diff(budget) <= 512 * 9, "{density}: {total} of {budget}");
            });
        }
    }

    #[test]
    fn the_reference_stays_near_the_budget() {
        for (channels, density, bound) in
            [(false, 0.05, 1e-3), (false, 0.5, 1e-3), (true, 0.05, 0.05), (true, 0.5, 0.01)]
        {
            let mut seen = 0;
            simulate(channels, density, Rounding::Reference, 60, |total, budget, _| {
                seen += 1;
                let error = (total as f64 / budget as f64 - 1.0).abs();
                assert!(seen <= 20 || error <= bound, "rewiring {seen} at {density}: {error}");
            });
        }
    }

    #[test]
    fn only_the_ratios_of_saliences_matter() {
        let (mut layers, budget) = vgg16(false, 0.1);
        for (l, layer) in layers.iter_mut().enumerate() {
            layer.salience = 1.0 + l as f64;
        }
        let of = |layers: &[LayerCount]| {
            moves(layers, budget, 0.25, false, Rounding::Exact, &Correction::default())
        };
        let before = of(&layers);
        layers.iter_mut().for_each(|layer| layer.salience *= 1024.0);
        assert_eq!(before, of(&layers));
        // A more salient layer never grows fewer weights, unless it is full.
        for pair in before.windows(2).zip(layers.windows(2)) {
            let ([a, b], [_, layer]) = pair else { unreachable!() };
            let full = (b.keep + b.grow) as f64 >= 0.99 * layer.weights as f64 - 1.0;
            assert!(b.grow >= a.grow || full, "{a:?} {b:?}");
        }
    }

    #[test]
    fn without_momentum_growth_goes_by_size() {
        let layer = |weights, active| LayerCount {
            weights,
            unit: 1,
            active,
            active_units: active,
            salience: 0.0,
        };
        let layers = [layer(100, 20), layer(300, 60)];
        let moves = moves(&layers, 80, 0.5, false, Rounding::Exact, &Correction::default());
        assert_eq!(moves, [Move { keep: 10, grow: 10 }, Move { keep: 30, grow: 30 }]);
    }

    #[test]
    fn a_full_layer_gives_its_overflow_to_those_with_room() {
        let (parts, caps) = fill(&[0.8, 0.1, 0.1], 100, &[20, 200, 30]);
        assert_eq!(caps, [19, 198, 29]);
        assert_eq!(parts[0], 19.0);
        assert_eq!(parts[2], 29.0);
        assert!((parts.iter().sum::<f64>() - 100.0).abs() < 1e-9, "{parts:?}");
    }

    #[test]
    fn a_last_weight_is_never_dropped_and_negative_growth_is_none() {
        let layers =
            [LayerCount { weights: 9, unit: 1, active: 1, active_units: 1, salience: 1.0 }];
        let correction = Correction { offset: -50.0, history: vec![] };
        let moves = moves(&layers, 1, 0.5, false, Rounding::Reference, &correction);
        assert_eq!(moves, [Move { keep: 1, grow: 0 }]);
    }

    #[test]
    fn start_counts_are_exact_and_at_least_one() {
        assert_eq!(initial_weights(&[10, 5], 0.25), [3, 1]);
        assert_eq!(initial_weights(&[4, 4, 1000], 0.01), [1, 1, 8]);
        assert_eq!(initial_units(&[3, 64], 0.5), [2, 32]);
    }
}
