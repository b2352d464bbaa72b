//! The part of a compiled layer that layers on blocks of images and layers on single images share.

use super::layout::Layout;
use super::lists::KeptLists;
use super::tiles::ListTiles;
use crate::cpu::finish::Finish;

/// A layer's filters, compiled for its layouts.
pub(super) struct CompiledFilters {
    pub(super) tiles: &'static ListTiles,
    pub(super) input: Layout,
    pub(super) output: Layout,
    pub(super) finish: Finish,
    pub(super) bias: Vec<f32>,
    pub(super) lists: KeptLists,
}

impl CompiledFilters {
    /// What results are at least: 0 for ReLU, −∞ for none.
    pub(super) fn floor(&self) -> f32 {
        if self.finish.relu { 0.0 } else { f32::NEG_INFINITY }
    }
}
