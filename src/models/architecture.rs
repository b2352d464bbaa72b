//! What the registry knows of an architecture.

use crate::nn::{Arch, Blueprint};

/// An architecture of the registry.
pub struct Architecture {
    /// The name in `--arch`.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// Smallest height and width that its pooling leaves something of.
    pub min_size: usize,
    /// Writes its network.
    pub build: fn(&Arch) -> Blueprint,
}
