//! A random mask that never changes: the baseline of every method that searches for a better one.

use super::mask::{Draw, Granularity};
use super::method::{Method, MethodEntry, Start, build, keys};
use crate::Result;
use serde::{Deserialize, Serialize};

/// The line in the registry.
pub const ENTRY: MethodEntry = MethodEntry {
    name: "static",
    summary: "a random mask, drawn once",
    source: "baseline",
    post_training: false,
    build: build::<StaticMask>,
};

/// `[prune] method = "static"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StaticMask {
    /// `covered`, `uniform` or `bernoulli`.
    init: Draw,
    /// Whether the first convolution is pruned.
    first_conv: bool,
}

impl Default for StaticMask {
    fn default() -> Self {
        Self { init: Draw::Covered, first_conv: true }
    }
}

impl Method for StaticMask {
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
        Start::Random(self.init)
    }

    fn first_conv(&self) -> bool {
        self.first_conv
    }
}
