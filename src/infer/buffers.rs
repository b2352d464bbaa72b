//! The memory of a program that is being planned.

use super::layout::{Layouts, Placement};
use super::step::Slot;

/// A value, or what a step makes of one, in memory.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub(super) placement: Placement,
    pub(super) slot: Slot,
}

/// Buffers that values take turns in. Memory in which zeros must stay serves values of equal placement only.
pub(super) struct Buffers<'a> {
    layouts: &'a Layouts,
    /// Floats of each.
    pub(super) lens: Vec<usize>,
    /// The free ones, each with the placement whose zeros it holds.
    free: Vec<(usize, Option<Placement>)>,
}

impl<'a> Buffers<'a> {
    pub(super) fn new(layouts: &'a Layouts) -> Self {
        Self { layouts, lens: Vec::new(), free: Vec::new() }
    }

    /// The free buffer whose length is nearest to what is needed, made longer where it must be; a new one where none is free.
    pub(super) fn take(&mut self, placement: Placement) -> Stored {
        let len = self.layouts.get(placement.form).len(placement);
        let zeros = self.zeros(placement);
        let nearest = (0..self.free.len())
            .filter(|&i| self.free[i].1 == zeros)
            .min_by_key(|&i| self.lens[self.free[i].0].abs_diff(len));
        let buffer = match nearest {
            Some(i) => self.free.swap_remove(i).0,
            None => {
                self.lens.push(0);
                self.lens.len() - 1
            }
        };
        self.lens[buffer] = self.lens[buffer].max(len);
        Stored { placement, slot: Slot { buffer, len } }
    }

    /// Takes back what nobody reads any more.
    pub(super) fn give(&mut self, stored: Stored) {
        self.free.push((stored.slot.buffer, self.zeros(stored.placement)));
    }

    /// The placement, where its zeros must stay.
    fn zeros(&self, placement: Placement) -> Option<Placement> {
        self.layouts.get(placement.form).keeps_zeros(placement).then_some(placement)
    }
}
