//! Pruning: which weights stay. A method says when and how much; the driver [`Pruner`] selects, applies
//! and checks the budget.
//!
//! A method is a file here and a line in [`METHODS`].

pub mod budget;
mod dnr;
mod driver;
mod fixed;
mod layers;
mod magnitude;
mod mask;
mod method;
mod shrink;
mod sparse_learning;
mod static_mask;
#[cfg(test)]
pub(crate) mod tests;

pub use driver::{Pruner, Rewired};
pub use mask::{Draw, Granularity, Scope, empty_filters};
pub use method::{LinearLayers, Method, MethodEntry, Redistribution, Rewiring, Start};
pub use shrink::shrink;

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Every method.
pub const METHODS: &[MethodEntry] =
    &[dnr::ENTRY, sparse_learning::ENTRY, magnitude::ENTRY, static_mask::ENTRY, fixed::ENTRY];

/// `[prune]` of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PruneSettings {
    /// A name of [`METHODS`].
    pub method: String,
    /// What is kept or dropped as one.
    #[serde(default)]
    pub granularity: Granularity,
    /// Kept share of the prunable weights; 0, as where the key is absent, for the method `fixed`, whose masks give it.
    #[serde(default, skip_serializing_if = "absent")]
    pub density: f64,
    /// The method's own keys.
    #[serde(flatten)]
    pub keys: toml::Table,
}

fn absent(density: &f64) -> bool {
    *density == 0.0
}

impl PruneSettings {
    /// The method, its keys checked.
    ///
    /// Errors: [`crate::ErrorKind::Param`] that names the key.
    pub fn build(&self) -> Result<Box<dyn Method>> {
        let entry = METHODS.iter().find(|entry| entry.name == self.method).ok_or_else(|| {
            let names: Vec<&str> = METHODS.iter().map(|entry| entry.name).collect();
            Error::param("prune.method", &self.method, format!("one of {}", names.join(", ")))
        })?;
        let method = (entry.build)(self.keys.clone())?;
        let given = method.start() != Start::Nonzeros;
        if given && !(self.density > 0.0 && self.density <= 1.0) {
            return Err(Error::param("prune.density", self.density, "above 0 and at most 1"));
        }
        if !given && self.density != 0.0 {
            let want =
                format!("absent for {}: the zeros of the initial weights give it", self.method);
            return Err(Error::param("prune.density", self.density, want));
        }
        let known = method.granularities();
        if !known.contains(&self.granularity) {
            let names: Vec<&str> = known.iter().map(|g| g.name()).collect();
            let want = format!("{} for {}", names.join(" or "), self.method);
            return Err(Error::param("prune.granularity", self.granularity.name(), want));
        }
        Ok(method)
    }
}
