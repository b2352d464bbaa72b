//! The driver of every pruning method: masks on the device, and what happens to them.

use super::budget::{Correction, LayerCount, Move, Rounding};
use super::layers::{Prunable, companions};
use super::mask::{Granularity, empty_filters};
use super::method::{Method, Redistribution, Rewiring, Start};
use super::{PruneSettings, budget, fixed, magnitude};
use crate::nn::Model;
use crate::{DType, Error, Result, Seed, Tensor, ops};
use std::collections::BTreeMap;

/// The masks of a network and the method that moves them.
pub struct Pruner {
    method: Box<dyn Method>,
    granularity: Granularity,
    budget: usize,
    layers: Vec<MaskedWeight>,
    spared: Vec<String>,
    correction: Correction,
}

/// A prunable weight.
struct MaskedWeight {
    name: String,
    shape: Vec<usize>,
    mask: Tensor,
    /// Active weights, as counted when the mask was written.
    active: usize,
    /// z of the dynamic L2 term.
    anchor: Option<Tensor>,
    companions: Option<Companions>,
}

/// Biases and batch-norm scales and shifts that go with dropped filters.
struct Companions {
    names: Vec<String>,
    /// 1 for every filter with an active weight, `[K]`: made from the mask of the weight, so that no state holds it.
    mask: Tensor,
}

impl Companions {
    /// Those of a layer's `weight` with this mask.
    fn new(model: &Model, weight: &str, mask: &Tensor) -> Result<Self> {
        Ok(Self { names: companions(model, weight), mask: filter_mask(mask)? })
    }
}

impl MaskedWeight {
    /// Counts the mask again after it has changed; the companions follow it.
    fn mask_changed(&mut self) -> Result<()> {
        self.active = ops::mask_count(&self.mask)?;
        if let Some(companions) = &mut self.companions {
            companions.mask = filter_mask(&self.mask)?;
        }
        Ok(())
    }

    /// `w ← w⊙m` for the weight and its companions.
    fn apply(&self, model: &mut Model) -> Result<()> {
        ops::apply_mask(model.param_mut(&self.name)?, &self.mask)?;
        if let Some(companions) = &self.companions {
            for name in &companions.names {
                ops::apply_mask(model.param_mut(name)?, &companions.mask)?;
            }
        }
        Ok(())
    }
}

/// What a rewiring did.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewired {
    /// The prune rate.
    pub rate: f64,
    /// Weights that left the masks.
    pub dropped: usize,
    /// Weights that entered them.
    pub grown: usize,
    /// Active weights by layer, after it.
    pub active: Vec<(String, usize)>,
}

impl Pruner {
    /// Masks of step 0 for `model`, whose weights stay as they are until [`Self::apply`].
    ///
    /// Errors: [`crate::ErrorKind::Param`] for settings that are wrong or a density that cannot be met.
    pub fn new(settings: &PruneSettings, model: &Model, seed: Seed) -> Result<Self> {
        Self::of(settings.build()?, settings.granularity, settings.density, model, seed)
    }

    /// [`Self::new`] of any method.
    pub(crate) fn of(
        method: Box<dyn Method>,
        granularity: Granularity,
        density: f64,
        model: &Model,
        seed: Seed,
    ) -> Result<Self> {
        let Prunable { names, spared } = Prunable::of(model, method.as_ref(), granularity)?;
        let weights = names.iter().map(|name| model.param(name)).collect::<Result<Vec<_>>>()?;
        let shapes: Vec<Vec<usize>> = weights.iter().map(|w| w.shape().to_vec()).collect();
        let budget = match method.start() {
            Start::Nonzeros => fixed::nonzeros(&weights)?,
            _ => check_density(&shapes, granularity, density)?,
        };
        let masks = match method.start() {
            Start::Random(draw) => {
                let masks = draw.masks(&shapes, granularity, density, seed);
                let upload = |(mask, weight): (Vec<u8>, &&Tensor)| {
                    Tensor::from_vec(mask, weight.shape(), &weight.device())
                };
                masks.into_iter().zip(&weights).map(upload).collect::<Result<Vec<_>>>()?
            }
            Start::Magnitude(scope) => magnitude::masks(&weights, granularity, scope, density)?,
            Start::Nonzeros => fixed::masks(&weights)?,
        };
        let layer = |((name, shape), mask): ((String, Vec<usize>), Tensor)| {
            let active = ops::mask_count(&mask)?;
            let accompanied = match method.start() {
                Start::Nonzeros => fixed::silent(model, &companions(model, &name), &mask)?,
                _ => granularity == Granularity::Filter && !method.keep_bn(),
            };
            let companions =
                accompanied.then(|| Companions::new(model, &name, &mask)).transpose()?;
            Ok(MaskedWeight { name, shape, mask, active, anchor: None, companions })
        };
        let layers =
            names.into_iter().zip(shapes).zip(masks).map(layer).collect::<Result<Vec<_>>>()?;
        Ok(Self { method, granularity, budget, layers, spared, correction: Correction::default() })
    }

    /// The method's keys, complete.
    pub fn keys(&self) -> Result<toml::Table> {
        self.method.keys()
    }

    /// Coefficient of the dynamic L2 term.
    pub fn rho(&self) -> f64 {
        self.method.rho()
    }

    /// B: active weights that the density asks for.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Names of the weights that were left out because they produce the logits, although their kind of layer is pruned: a logit
    /// without its filter would be constant.
    pub fn spared(&self) -> &[String] {
        &self.spared
    }

    /// Weights that could be pruned.
    pub fn prunable(&self) -> usize {
        self.layers.iter().map(|l| l.mask.len()).sum()
    }

    /// Ones in the masks.
    pub fn active(&self) -> usize {
        self.layers.iter().map(|l| l.active).sum()
    }

    /// Active weights by layer, in the order they run.
    pub fn active_by_layer(&self) -> Vec<(String, usize)> {
        self.layers.iter().map(|l| (l.name.clone(), l.active)).collect()
    }

    /// Whether the masks stay as they are in training.
    pub fn is_static(&self) -> bool {
        !self.method.moves()
    }

    /// Filters without an active weight.
    pub fn empty_filters(&self) -> Result<usize> {
        let empty = |l: &MaskedWeight| Ok(empty_filters(&l.shape, &l.mask.to_vec::<u8>()?));
        self.layers.iter().map(empty).sum()
    }

    /// The mask of a parameter, if it has one.
    pub fn mask(&self, name: &str) -> Option<&Tensor> {
        self.layers.iter().find_map(|layer| match &layer.companions {
            _ if layer.name == name => Some(&layer.mask),
            Some(companions) if companions.names.iter().any(|n| n == name) => {
                Some(&companions.mask)
            }
            _ => None,
        })
    }

    /// z of a parameter, if there is a dynamic L2 term and it was anchored.
    pub fn anchor_of(&self, name: &str) -> Option<&Tensor> {
        self.layers.iter().find(|l| l.name == name)?.anchor.as_ref()
    }

    /// Names of the pruned weights with their masks, in the order they run.
    pub fn masks(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.layers.iter().map(|l| (l.name.as_str(), &l.mask))
    }

    /// `w ← w⊙m` for every masked parameter.
    pub fn apply(&self, model: &mut Model) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.apply(model))
    }

    /// `z ← w⊙m`, at the start of an epoch; the weights are masked already.
    pub fn anchor(&mut self, model: &Model) -> Result<()> {
        if self.method.rho() > 0.0 {
            for layer in &mut self.layers {
                layer.anchor = Some(model.param(&layer.name)?.detach());
            }
        }
        Ok(())
    }

    /// `(rho/2)·Σ(w⊙m − z)²`; 0 before the first [`Self::anchor`].
    pub fn dynamic_l2(&self, model: &Model) -> Result<f64> {
        let mut sum = 0.0;
        for layer in &self.layers {
            if let Some(anchor) = &layer.anchor {
                sum += ops::squared_distance(model.param(&layer.name)?, &layer.mask, anchor)?;
            }
        }
        Ok(self.method.rho() / 2.0 * sum)
    }

    /// What the method does after epoch `epoch` (from 1) of `epochs`, if it does anything.
    ///
    /// `momentum` holds the momentum of every weight by name; it is read, never written.
    /// Errors: [`crate::ErrorKind::Param`] where the exact mode misses its density.
    pub fn rewire(
        &mut self,
        model: &mut Model,
        momentum: &BTreeMap<String, Tensor>,
        epoch: usize,
        epochs: usize,
    ) -> Result<Option<Rewired>> {
        if self.is_static() || self.budget == self.prunable() {
            return Ok(None);
        }
        let Some(rewiring) = self.method.rewiring(epoch, epochs) else { return Ok(None) };
        let momentum = |name: &str| {
            let found = momentum.get(name);
            found.ok_or_else(|| Error::param("train.optimizer", name, "one with momentum"))
        };
        let counts = self.counts(model, &rewiring, momentum)?;
        let whole = self.granularity != Granularity::Irregular;
        let Rewiring { rate, rounding, .. } = rewiring;
        let moves = budget::moves(&counts, self.budget, rate, whole, rounding, &self.correction);
        let (mut dropped, mut grown) = (0, 0);
        for ((layer, count), step) in self.layers.iter_mut().zip(&counts).zip(moves) {
            let weight = model.param(&layer.name)?;
            let score = momentum(&layer.name)?;
            if whole {
                layer.mask = rewire_units(self.granularity, &layer.mask, weight, score, step)?;
            } else {
                ops::prune_smallest(&mut layer.mask, weight, layer.active - step.keep)?;
                ops::regrow_largest(&mut layer.mask, score, step.grow)?;
            }
            dropped += layer.active.saturating_sub(step.keep * count.unit);
            grown += step.grow * count.unit;
            layer.mask_changed()?;
            layer.apply(model)?;
        }
        self.check_budget(rounding, &counts)?;
        self.correction.update(self.budget as f64 - self.active() as f64);
        Ok(Some(Rewired { rate, dropped, grown, active: self.active_by_layer() }))
    }

    fn counts<'a>(
        &self,
        model: &Model,
        rewiring: &Rewiring,
        momentum: impl Fn(&str) -> Result<&'a Tensor>,
    ) -> Result<Vec<LayerCount>> {
        let count = |layer: &MaskedWeight| {
            let units = self.granularity.units(&layer.shape);
            let salience = match rewiring.redistribution {
                Redistribution::Momentum => {
                    ops::masked_abs_mean(momentum(&layer.name)?, &layer.mask)?
                }
                Redistribution::Magnitude => {
                    ops::masked_abs_mean(model.param(&layer.name)?, &layer.mask)?
                }
                Redistribution::Nonzeros => layer.active as f64,
                Redistribution::None => layer.mask.len() as f64,
            };
            let active_units = match self.granularity {
                Granularity::Irregular => layer.active,
                other => {
                    let active = other.active_units(&layer.shape, &layer.mask.to_vec::<u8>()?);
                    active.into_iter().filter(|&a| a).count()
                }
            };
            let weights = layer.mask.len();
            let unit = weights / units;
            Ok(LayerCount { weights, unit, active: layer.active, active_units, salience })
        };
        self.layers.iter().map(count).collect()
    }

    /// The exact mode's promise: Σn = B, with units of several weights |Σn − B| of at most half the largest unit.
    fn check_budget(&self, rounding: Rounding, counts: &[LayerCount]) -> Result<()> {
        let off = self.active().abs_diff(self.budget);
        let slack = match self.granularity {
            Granularity::Irregular => 0,
            _ => counts.iter().map(|c| c.unit).max().unwrap_or(0),
        };
        if rounding == Rounding::Reference || 2 * off <= slack {
            return Ok(());
        }
        let want = format!("{} active weights, not {}", self.budget, self.active());
        Err(Error::param("prune.density", self.budget as f64 / self.prunable() as f64, want))
    }

    /// Everything that a resumed run needs, by name.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for layer in &self.layers {
            state.insert(format!("mask.{}", layer.name), layer.mask.clone());
            if let Some(anchor) = &layer.anchor {
                state.insert(format!("anchor.{}", layer.name), anchor.clone());
            }
        }
        let numbers = [vec![self.correction.offset], self.correction.history.clone()].concat();
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let len = bytes.len();
        state.insert("correction".into(), Tensor::from_vec(bytes, &[len], &crate::Device::Cpu)?);
        Ok(state)
    }

    /// Takes [`Self::state`] back.
    ///
    /// Errors: [`crate::ErrorKind::Param`] or [`crate::ErrorKind::Shape`] for a state of another network.
    pub fn load_state(&mut self, mut state: BTreeMap<String, Tensor>) -> Result<()> {
        let missing = |name: &str| Error::param("state", name, "in the checkpoint");
        for layer in &mut self.layers {
            let name = format!("mask.{}", layer.name);
            let mask = state.remove(&name).ok_or_else(|| missing(&name))?;
            mask.expect_dtype("mask", DType::U8)?;
            layer.mask.assign(&mask)?;
            layer.mask_changed()?;
            if let Some(anchor) = state.remove(&format!("anchor.{}", layer.name)) {
                anchor.expect_shape("anchor", "z", &layer.shape)?;
                layer.anchor = Some(anchor.to_device(&layer.mask.device())?);
            }
        }
        let bytes = state.remove("correction").ok_or_else(|| missing("correction"))?;
        let bytes = bytes.to_vec::<u8>()?;
        let numbers: Vec<f64> =
            bytes.as_chunks().0.iter().map(|&word| f64::from_le_bytes(word)).collect();
        let (offset, history) = numbers.split_first().ok_or_else(|| missing("correction"))?;
        self.correction = Correction { offset: *offset, history: history.to_vec() };
        Ok(())
    }
}

/// 1 for every filter with an active weight, `[K]`.
fn filter_mask(mask: &Tensor) -> Result<Tensor> {
    let kept = Granularity::Filter.active_units(mask.shape(), &mask.to_vec::<u8>()?);
    let kept: Vec<u8> = kept.into_iter().map(u8::from).collect();
    let len = kept.len();
    Tensor::from_vec(kept, &[len], &mask.device())
}

/// B = Σ round(d·|l|), refused where it is below one channel a layer.
fn check_density(shapes: &[Vec<usize>], granularity: Granularity, density: f64) -> Result<usize> {
    let sizes: Vec<usize> = shapes.iter().map(|shape| shape.iter().product()).collect();
    let budget = budget::initial_weights(&sizes, density).iter().sum();
    let least: usize = sizes.iter().zip(shapes).map(|(size, s)| size / granularity.units(s)).sum();
    if granularity != Granularity::Irregular && budget < least {
        let total: usize = sizes.iter().sum();
        let want = format!(
            "at least {:.4}, one {} a layer",
            least as f64 / total as f64,
            granularity.name()
        );
        return Err(Error::param("prune.density", density, want));
    }
    Ok(budget)
}

/// Keeps the active units of largest ‖w‖, then grows the inactive ones of largest ‖momentum‖; of equal ones
/// the lower index is dropped and grown first. A kept unit is active as a whole.
fn rewire_units(
    granularity: Granularity,
    mask: &Tensor,
    weight: &Tensor,
    momentum: &Tensor,
    step: Move,
) -> Result<Tensor> {
    let mut active = granularity.active_units(mask.shape(), &mask.to_vec::<u8>()?);
    let norms = norms(weight, granularity)?;
    let mut order: Vec<usize> = (0..active.len()).filter(|&unit| active[unit]).collect();
    order.sort_by(|&a, &b| norms[a].total_cmp(&norms[b]));
    let drop = order.len().saturating_sub(step.keep);
    order[..drop].iter().for_each(|&unit| active[unit] = false);
    let norms = self::norms(momentum, granularity)?;
    let mut order: Vec<usize> = (0..active.len()).filter(|&unit| !active[unit]).collect();
    order.sort_by(|&a, &b| norms[b].total_cmp(&norms[a]));
    order.iter().take(step.grow).for_each(|&unit| active[unit] = true);
    Tensor::from_vec(granularity.mask(mask.shape(), &active), mask.shape(), &mask.device())
}

/// What units rank by: the sum of squares, or the mean; units of one layer have equally many weights.
fn norms(tensor: &Tensor, granularity: Granularity) -> Result<Vec<f64>> {
    match granularity {
        Granularity::Channel => ops::channel_norms(tensor),
        Granularity::Filter => ops::filter_norms(tensor),
        _ => magnitude::scores(tensor, granularity),
    }
}
