//! The kept weights of a layer, in the order that its tiles go through.

use crate::cpu::aligned::huge_pages;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::term::Term;
use std::ops::Range;

/// Floats of the first-level cache, roughly. A slice of the channels that fits stays there while the filters pass over it. The
/// second-level cache gives a third as many loads (`cargo bench -- machine`), and loads bound everything here.
const FIRST_CACHE: usize = 12 << 10;

/// Where the weights of a tap read: channel 0, and the distance of the channels.
pub(super) struct Offsets {
    pub(super) taps: Vec<usize>,
    pub(super) channel: usize,
}

/// The order of the kept weights: by groups of filters, within a group by slices of the channels, within a slice by filters.
/// In a slice a filter has one list, one list for each column of taps, or one list for each tap.
pub(super) struct ListOrder {
    pub(super) filters: usize,
    pub(super) groups: usize,
    pub(super) slices: usize,
    pub(super) lists: usize,
    /// Whether every other filter goes through the channels backwards: the input that the last list ended with is still in the
    /// first cache. Never where the slices depend on the number of images, which would sum in another order then.
    pub(super) turns: bool,
}

impl ListOrder {
    /// The filters of a group.
    pub(super) fn group(&self, group: usize) -> Range<usize> {
        self.filters * group / self.groups..self.filters * (group + 1) / self.groups
    }
}

/// The number of slices of the channels, where a tile reads `read` floats in all: as many as bring each slice near
/// [`FIRST_CACHE`]. There are fewer slices where filters would keep fewer than `least` weights in a slice, because then it does not
/// pay to keep the sums in memory between slices.
pub(super) fn slices(read: usize, kept: usize, filters: usize, least: usize) -> usize {
    let near = (read + FIRST_CACHE / 2) / FIRST_CACHE;
    near.min(kept / (least * filters).max(1)).max(1)
}

/// All lists of a layer.
pub(super) struct KeptLists {
    pub(super) order: ListOrder,
    terms: Vec<Term>,
    /// Of all lists, and the end of the last: ascending.
    starts: Vec<u32>,
    furthest: Option<usize>,
}

/// The lists of a group's filters in a slice of the channels.
#[derive(Clone, Copy)]
pub(super) struct GroupLists<'a> {
    filters: usize,
    /// Lists of each filter.
    each: usize,
    /// Of the whole layer.
    terms: &'a [Term],
    /// List `i` is `terms[starts[i]..starts[i + 1]]`: `filters · each + 1`, ascending and at most the number of terms.
    starts: &'a [u32],
    furthest: Option<usize>,
}

impl KeptLists {
    /// The `kept` weights of `[k, r, s, c]`.
    pub(super) fn new(
        shape: &ConvShape,
        weight: &[f32],
        kept: usize,
        offsets: &Offsets,
        order: ListOrder,
    ) -> Self {
        let &ConvShape { c, k, r, s, .. } = shape;
        let mut terms = Vec::with_capacity(kept);
        huge_pages(&terms);
        let mut starts = Vec::with_capacity(k * order.slices * order.lists + 1);
        starts.push(0);
        for group in 0..order.groups {
            for slice in 0..order.slices {
                let channels = c * slice / order.slices..c * (slice + 1) / order.slices;
                for filter in order.group(group) {
                    for list in 0..order.lists {
                        for i in 0..channels.len() {
                            let back = order.turns && filter % 2 == 1;
                            let channel = if back { c - 1 - i } else { channels.start + i };
                            for tap in (list..r * s).step_by(order.lists) {
                                let offset = offsets.taps[tap] + channel * offsets.channel;
                                let offset = u32::try_from(offset)
                                    .expect("a group of images has less than 2^32 floats");
                                let weight = weight[(filter * r * s + tap) * c + channel];
                                if weight != 0.0 {
                                    terms.push(Term { weight, offset });
                                }
                            }
                        }
                        starts.push(
                            u32::try_from(terms.len()).expect("fewer than 2^32 kept weights"),
                        );
                    }
                }
            }
        }
        let furthest = terms.iter().map(|term| term.offset as usize).max();
        Self { order, terms, starts, furthest }
    }

    /// Those of a group's filters in a slice of the channels.
    pub(super) fn of(&self, group: usize, slice: usize) -> GroupLists<'_> {
        let &ListOrder { slices, lists: each, .. } = &self.order;
        let group = self.order.group(group);
        let (first, filters) = (group.start * slices + slice * group.len(), group.len());
        let starts = &self.starts[first * each..=(first + filters) * each];
        GroupLists { filters, each, terms: &self.terms, starts, furthest: self.furthest }
    }
}

impl<'a> GroupLists<'a> {
    /// How many filters there are.
    #[inline(always)]
    pub(super) fn filters(&self) -> usize {
        self.filters
    }

    /// Lists of each filter.
    #[inline(always)]
    pub(super) fn each(&self) -> usize {
        self.each
    }

    /// The largest offset of any weight of the layer; `None` without weights.
    #[inline(always)]
    pub(super) fn furthest(&self) -> Option<usize> {
        self.furthest
    }

    /// List `i`.
    ///
    /// # Safety
    /// `i` is less than `filters · each`.
    #[inline(always)]
    pub(super) unsafe fn list(&self, i: usize) -> &'a [Term] {
        // SAFETY: `starts` has entries `i` and `i + 1`, ascending and at most the number of terms (`KeptLists`).
        unsafe {
            let (start, end) = (*self.starts.get_unchecked(i), *self.starts.get_unchecked(i + 1));
            self.terms.get_unchecked(start as usize..end as usize)
        }
    }
}
