//! Sparse networks from scratch ("sparse momentum"): DNR's rewiring without robustness and dynamic L2.
//!
//! Prune rate after epoch i of E: cosine `η + (p0 − η)(1 + cos(π·i/E))/2` with η = 0.005, or linear.
//! Linear layers are pruned too.
//! Source: Dettmers & Zettlemoyer 2019, arXiv 1907.04840.

use super::budget::Rounding;
use super::mask::{Draw, Granularity};
use super::method::{
    LinearLayers, Method, MethodEntry, Redistribution, Rewiring, Start, build, check_share, keys,
};
use crate::Result;
use serde::{Deserialize, Serialize};

/// The line in the registry.
pub const ENTRY: MethodEntry = MethodEntry {
    name: "sparse-learning",
    summary: "sparse momentum: rewired by momentum after every epoch, clean training",
    source: "arXiv 1907.04840",
    post_training: false,
    build: build::<SparseLearning>,
};

/// How the prune rate falls over the epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Decay {
    Cosine,
    Linear,
}

/// The prune rate that cosine decay ends at.
const LEAST: f64 = 0.005;

/// `[prune] method = "sparse-learning"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SparseLearning {
    /// As for `dnr`.
    mode: Rounding,
    /// Prune rate at the start.
    p0: f64,
    /// `cosine` or `linear`.
    decay: Decay,
    /// `momentum`, `magnitude`, `nonzeros` or `none`.
    redistribution: Redistribution,
    /// Whether the first convolution is pruned.
    first_conv: bool,
    /// Whether linear layers are pruned.
    linear: bool,
    /// As for `dnr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    init: Option<Draw>,
}

impl Default for SparseLearning {
    fn default() -> Self {
        Self {
            mode: Rounding::Exact,
            p0: 0.5,
            decay: Decay::Cosine,
            redistribution: Redistribution::Momentum,
            first_conv: true,
            linear: true,
            init: None,
        }
    }
}

impl Method for SparseLearning {
    fn keys(&self) -> Result<toml::Table> {
        let Start::Random(draw) = self.start() else { return keys(self) };
        keys(&Self { init: Some(draw), ..self.clone() })
    }

    fn check(&self) -> Result<()> {
        check_share("prune.p0", self.p0)
    }

    fn granularities(&self) -> &'static [Granularity] {
        &[Granularity::Irregular]
    }

    fn start(&self) -> Start {
        Start::Random(self.init.unwrap_or(match self.mode {
            Rounding::Exact => Draw::Covered,
            Rounding::Reference => Draw::Bernoulli,
        }))
    }

    fn moves(&self) -> bool {
        true
    }

    fn rewiring(&self, epoch: usize, epochs: usize) -> Option<Rewiring> {
        let done = epoch as f64 / epochs as f64;
        let rate = match self.decay {
            Decay::Linear => self.p0 * (1.0 - done),
            Decay::Cosine => {
                let least = LEAST.min(self.p0);
                least + (self.p0 - least) * (1.0 + (std::f64::consts::PI * done).cos()) / 2.0
            }
        };
        let (rounding, redistribution) = (self.mode, self.redistribution);
        (epoch < epochs).then_some(Rewiring { rate, rounding, redistribution })
    }

    fn first_conv(&self) -> bool {
        self.first_conv
    }

    fn linear(&self) -> LinearLayers {
        if self.linear { LinearLayers::All } else { LinearLayers::None }
    }
}
