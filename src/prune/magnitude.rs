//! Magnitude pruning: the weights, or groups of weights, of smallest norm go, once.
//!
//! Score of a weight: |w|; of a group: the root of the mean of its squares, so that groups of different
//! sizes compare. Equal scores: the lower index goes first. In training the masks then stay fixed.
//! Source: Han et al. 2015, arXiv 1506.02626; for groups Li et al. 2017, arXiv 1608.08710, with L2 norms.

use super::budget;
use super::mask::{Granularity, Scope};
use super::method::{LinearLayers, Method, MethodEntry, Start, build, keys};
use crate::ops;
use crate::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// The line in the registry.
pub const ENTRY: MethodEntry = MethodEntry {
    name: "magnitude",
    summary: "keep the weights (or groups) of largest norm",
    source: "arXiv 1506.02626",
    post_training: true,
    build: build::<Magnitude>,
};

/// `[prune] method = "magnitude"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Magnitude {
    /// `layer` or `global`.
    scope: Scope,
    /// Whether the first convolution is pruned.
    first_conv: bool,
    /// Whether dropped filters keep their bias and batch-norm scale and shift.
    keep_bn: bool,
    /// Whether linear layers are pruned, but for the one that produces the logits.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    linear: bool,
}

impl Default for Magnitude {
    fn default() -> Self {
        Self { scope: Scope::Layer, first_conv: true, keep_bn: false, linear: false }
    }
}

impl Method for Magnitude {
    fn keys(&self) -> Result<toml::Table> {
        keys(self)
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn granularities(&self) -> &'static [Granularity] {
        &Granularity::ALL
    }

    fn start(&self) -> Start {
        Start::Magnitude(self.scope)
    }

    fn first_conv(&self) -> bool {
        self.first_conv
    }

    fn linear(&self) -> LinearLayers {
        if self.linear { LinearLayers::Hidden } else { LinearLayers::None }
    }

    fn keep_bn(&self) -> bool {
        self.keep_bn
    }
}

/// Masks that keep the share `density` of largest norm.
pub fn masks(
    weights: &[&Tensor],
    granularity: Granularity,
    scope: Scope,
    density: f64,
) -> Result<Vec<Tensor>> {
    match (scope, granularity) {
        (Scope::Layer, Granularity::Irregular) => weights_by_layer(weights, density),
        (Scope::Layer, _) => {
            let units: Vec<usize> = weights.iter().map(|w| granularity.units(w.shape())).collect();
            let keep = budget::initial_units(&units, density);
            let mask = |(weight, keep): (&&Tensor, usize)| {
                let scores = scores(weight, granularity)?;
                let mut order: Vec<usize> = (0..scores.len()).collect();
                order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
                let mut active = vec![true; scores.len()];
                order[..scores.len() - keep].iter().for_each(|&unit| active[unit] = false);
                tensor(weight, granularity, &active)
            };
            weights.iter().zip(keep).map(mask).collect()
        }
        (Scope::Global, _) => over_the_network(weights, granularity, density),
    }
}

fn weights_by_layer(weights: &[&Tensor], density: f64) -> Result<Vec<Tensor>> {
    let sizes: Vec<usize> = weights.iter().map(|w| w.len()).collect();
    let mask = |(weight, keep): (&&Tensor, usize)| {
        let ones = vec![1u8; weight.len()];
        let mut mask = Tensor::from_vec(ones, weight.shape(), &weight.device())?;
        ops::prune_smallest(&mut mask, weight, weight.len() - keep)?;
        Ok(mask)
    };
    weights.iter().zip(budget::initial_weights(&sizes, density)).map(mask).collect()
}

/// Drops units in the order of their scores until the kept weights are as near to the target as whole
/// units allow.
fn over_the_network(
    weights: &[&Tensor],
    granularity: Granularity,
    density: f64,
) -> Result<Vec<Tensor>> {
    let scores = weights.iter().map(|w| scores(w, granularity)).collect::<Result<Vec<_>>>()?;
    let mut order: Vec<(f64, usize, usize)> = Vec::new();
    for (layer, scores) in scores.iter().enumerate() {
        order.extend(scores.iter().enumerate().map(|(unit, &score)| (score, layer, unit)));
    }
    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut active: Vec<Vec<bool>> = scores.iter().map(|s| vec![true; s.len()]).collect();
    let mut left: Vec<usize> = scores.iter().map(Vec::len).collect();
    let mut kept: usize = weights.iter().map(|w| w.len()).sum();
    let target = budget::round_half_up(density * kept as f64);
    for (_, layer, unit) in order {
        let cost = weights[layer].len() / scores[layer].len();
        if kept <= target {
            break;
        }
        // A unit of which less than half would have to go stays.
        if left[layer] > 1 && 2 * (kept - target) >= cost {
            active[layer][unit] = false;
            left[layer] -= 1;
            kept -= cost;
        }
    }
    weights.iter().zip(active).map(|(w, active)| tensor(w, granularity, &active)).collect()
}

/// Mean square of every unit.
pub fn scores(weight: &Tensor, granularity: Granularity) -> Result<Vec<f64>> {
    let mut scores = vec![0.0; granularity.units(weight.shape())];
    let unit = granularity.unit_of(weight.shape());
    let each = weight.len() as f64 / scores.len() as f64;
    for (i, w) in weight.to_vec::<f32>()?.into_iter().enumerate() {
        scores[unit(i)] += f64::from(w).powi(2) / each;
    }
    Ok(scores)
}

fn tensor(weight: &Tensor, granularity: Granularity, active: &[bool]) -> Result<Tensor> {
    let mask = granularity.mask(weight.shape(), active);
    Tensor::from_vec(mask, weight.shape(), &weight.device())
}
