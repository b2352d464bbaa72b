//! The masks that a pruned network came with: what is 0 in the initial weights stays 0. So a pruned network is fine-tuned.
//!
//! Masked are all convolutions, and the linear layers that hold a zero. A layer whose empty filters have zero bias and zero
//! batch-norm scale and shift, as filter pruning leaves them, keeps those zeros, too.

use super::mask::Granularity;
use super::method::{LinearLayers, Method, MethodEntry, Start, build, keys};
use crate::nn::Model;
use crate::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};

/// The line in the registry.
pub const ENTRY: MethodEntry = MethodEntry {
    name: "fixed",
    summary: "keep the zeros of the initial weights: fine-tuning of a pruned network",
    source: "Han et al. 2015, arXiv 1506.02626",
    post_training: false,
    build: build::<Fixed>,
};

/// `[prune] method = "fixed"`; without `density`, which the weights give.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixed {}

impl Method for Fixed {
    fn keys(&self) -> Result<toml::Table> {
        keys(self)
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn granularities(&self) -> &'static [Granularity] {
        &[Granularity::Irregular]
    }

    fn start(&self) -> Start {
        Start::Nonzeros
    }

    fn linear(&self) -> LinearLayers {
        LinearLayers::WithZeros
    }
}

/// Weights that are not 0.
///
/// Errors: [`crate::ErrorKind::Param`] where none is 0.
pub(super) fn nonzeros(weights: &[&Tensor]) -> Result<usize> {
    let (mut all, mut nonzero) = (0, 0);
    for weight in weights {
        let values = weight.to_vec::<f32>()?;
        all += values.len();
        nonzero += values.iter().filter(|w| **w != 0.0).count();
    }
    if nonzero == all {
        let want = "weights of a pruned network (--init FILE): the method fixed keeps their zeros";
        return Err(Error::param("model.init", "no weight that is 0", want));
    }
    Ok(nonzero)
}

/// 1 where a weight is not 0.
pub(super) fn masks(weights: &[&Tensor]) -> Result<Vec<Tensor>> {
    let mask = |weight: &&Tensor| {
        let ones = weight.to_vec::<f32>()?.into_iter().map(|w| u8::from(w != 0.0)).collect();
        Tensor::from_vec(ones, weight.shape(), &weight.device())
    };
    weights.iter().map(mask).collect()
}

/// Whether the filters without an active weight have zeros in all `companions`, and there is such a filter.
pub(super) fn silent(model: &Model, companions: &[String], mask: &Tensor) -> Result<bool> {
    let active = Granularity::Filter.active_units(mask.shape(), &mask.to_vec::<u8>()?);
    let mut silent = active.contains(&false);
    for name in companions {
        let values = model.param(name)?.to_vec::<f32>()?;
        silent &= values.iter().zip(&active).all(|(value, active)| *active || *value == 0.0);
    }
    Ok(silent)
}
