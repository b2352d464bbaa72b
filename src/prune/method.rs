//! What a pruning method is.

use super::budget::Rounding;
use super::mask::{Draw, Granularity, Scope};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;

/// What a pruning method decides; every implementer is the table of its own recipe keys.
pub trait Method: Debug + Send + Sync {
    /// Its keys with the defaults written out.
    fn keys(&self) -> Result<toml::Table>;

    /// Checks the values of its keys.
    fn check(&self) -> Result<()>;

    /// The granularities it is defined for.
    fn granularities(&self) -> &'static [Granularity];

    /// Where the masks of step 0 come from.
    fn start(&self) -> Start;

    /// Whether the masks move in training, in whatever epoch it may be: [`Self::rewiring`] is asked only then.
    fn moves(&self) -> bool {
        false
    }

    /// What happens to the masks after epoch `epoch` (from 1) of `epochs`; `None`: they stay.
    fn rewiring(&self, epoch: usize, epochs: usize) -> Option<Rewiring> {
        let _ = (epoch, epochs);
        None
    }

    /// Coefficient of the dynamic L2 term, `(rho/2)·Σ(w⊙m − z)²`.
    fn rho(&self) -> f64 {
        0.0
    }

    /// Whether the first convolution is pruned.
    fn first_conv(&self) -> bool {
        true
    }

    /// Whether dropped filters keep their bias and batch-norm scale and shift. A filter that is regrown from zeros needs them: with
    /// scale and shift 0 its result is 0, where ReLU passes no gradient, and it would never learn.
    fn keep_bn(&self) -> bool {
        false
    }

    /// Which linear layers are pruned too.
    fn linear(&self) -> LinearLayers {
        LinearLayers::None
    }
}

/// Which linear layers a method prunes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearLayers {
    /// None.
    None,
    /// All but the one that produces the logits.
    Hidden,
    /// All.
    All,
    /// Those that have a weight of 0.
    WithZeros,
}

/// Where the masks of step 0 come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Drawn at random.
    Random(Draw),
    /// The largest weights that the network has.
    Magnitude(Scope),
    /// The weights of the network that are not 0, whatever the density.
    Nonzeros,
}

/// One rewiring: every layer drops its smallest weights and the network regrows as many where the
/// momentum is largest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rewiring {
    /// Share of a layer's active weights to drop, p.
    pub rate: f64,
    /// How counts are rounded.
    pub rounding: Rounding,
    /// What decides how much a layer regrows.
    pub redistribution: Redistribution,
}

/// What decides a layer's share of the regrowth: v_l, divided by its sum over the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Redistribution {
    /// Mean |momentum| over its active weights.
    #[default]
    Momentum,
    /// Mean |weight| over its active weights.
    Magnitude,
    /// Number of its active weights.
    Nonzeros,
    /// Number of its weights.
    None,
}

/// An entry of [`super::METHODS`].
pub struct MethodEntry {
    /// The name in `[prune] method`.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// Where it is published.
    pub source: &'static str,
    /// Whether it prunes a trained network without training it (`rewire prune`).
    pub post_training: bool,
    /// Reads its keys.
    pub build: fn(toml::Table) -> Result<Box<dyn Method>>,
}

/// [`MethodEntry::build`] of a method that is a table of keys.
pub(super) fn build<M: Method + DeserializeOwned + 'static>(
    keys: toml::Table,
) -> Result<Box<dyn Method>> {
    let method: M =
        keys.try_into().map_err(|error: toml::de::Error| keys_error(error.message()))?;
    method.check()?;
    Ok(Box::new(method))
}

/// [`Method::keys`] of a method that is a table of keys.
pub(super) fn keys(method: &impl Serialize) -> Result<toml::Table> {
    toml::Table::try_from(method).map_err(|error| keys_error(&error.to_string()))
}

fn keys_error(message: &str) -> Error {
    Error::param("[prune]", message.replace('\n', " "), "the method's own keys")
}

/// Checks a rate that must lie in [0, 1].
pub(super) fn check_share(key: &str, value: f64) -> Result<()> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::param(key, value, "from 0 to 1"))
}
