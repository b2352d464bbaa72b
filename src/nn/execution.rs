//! How one pass runs the layers, where it is not the plain dense way.

use crate::Tensor;
use crate::ops::SparseFilter;
use std::collections::BTreeMap;

/// Replacements for single layers in one pass, by the name of the weight. Empty: everything runs dense.
#[derive(Default)]
pub struct Execution {
    /// Convolutions that run over their kept weights only.
    pub sparse: BTreeMap<String, SparseFilter>,
    /// Tensors that stand in for a parameter: a noisy weight, say, that the tape already leads back to it.
    pub substitutes: BTreeMap<String, Tensor>,
}
