//! Dynamic network rewiring: a sparse network from the first step on, rewired after every epoch.
//!
//! Prune rate after epoch i of E: `p = p0·(1 − i/E)`; dropped: smallest |w| (channels: Frobenius norm);
//! regrown: largest |momentum|, layers sharing by their mean |momentum|. Between rewirings the dynamic
//! L2 term holds active weights near z, their values at the start of the epoch.
//! Source: Kundu, Nazemi, Beerel & Pedram, ASP-DAC 2021, arXiv 2011.03083.

use super::budget::Rounding;
use super::mask::{Draw, Granularity};
use super::method::{
    Method, MethodEntry, Redistribution, Rewiring, Start, build, check_share, keys,
};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The line in the registry.
pub const ENTRY: MethodEntry = MethodEntry {
    name: "dnr",
    summary: "sparse from the start, rewired by momentum after every epoch, with dynamic L2",
    source: "arXiv 2011.03083",
    post_training: false,
    build: build::<Dnr>,
};

/// `[prune] method = "dnr"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Dnr {
    /// `exact` meets the density at every rewiring, `reference` follows the published code.
    mode: Rounding,
    /// Prune rate at the start.
    p0: f64,
    /// Dynamic L2; the paper: 1e-4.
    rho: f64,
    /// Whether the first convolution is pruned.
    first_conv: bool,
    /// Masks at step 0: `covered` (the default of `exact`), `uniform`, `bernoulli` (that of `reference`).
    #[serde(skip_serializing_if = "Option::is_none")]
    init: Option<Draw>,
}

impl Default for Dnr {
    fn default() -> Self {
        Self { mode: Rounding::Exact, p0: 0.5, rho: 0.0, first_conv: true, init: None }
    }
}

impl Method for Dnr {
    fn keys(&self) -> Result<toml::Table> {
        let Start::Random(draw) = self.start() else { return keys(self) };
        keys(&Self { init: Some(draw), ..self.clone() })
    }

    fn check(&self) -> Result<()> {
        check_share("prune.p0", self.p0)?;
        if self.rho.is_finite() && self.rho >= 0.0 {
            return Ok(());
        }
        Err(Error::param("prune.rho", self.rho, "finite and at least 0"))
    }

    fn granularities(&self) -> &'static [Granularity] {
        &[Granularity::Irregular, Granularity::Channel]
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

    /// None after the last epoch: what was measured is what is saved.
    fn rewiring(&self, epoch: usize, epochs: usize) -> Option<Rewiring> {
        (epoch < epochs).then(|| Rewiring {
            rate: self.p0 * (1.0 - epoch as f64 / epochs as f64),
            rounding: self.mode,
            redistribution: Redistribution::Momentum,
        })
    }

    fn rho(&self) -> f64 {
        self.rho
    }

    fn first_conv(&self) -> bool {
        self.first_conv
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_falls_linearly_and_the_last_epoch_rewires_nothing() {
        let dnr = Dnr::default();
        assert_eq!(dnr.rewiring(1, 4).map(|r| r.rate), Some(0.375));
        assert_eq!(dnr.rewiring(3, 4).map(|r| r.rate), Some(0.125));
        assert_eq!(dnr.rewiring(4, 4), None);
    }
}
