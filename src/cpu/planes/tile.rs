//! The tile that the loops over kept weights compute: its equation and where its operands lie.

use super::lists::GroupLists;
use crate::cpu::scratch::Shared;

/// One tile of pixels of a group of filters: `out[i, j] = max(floor, bias + Σ weight · input[offset + i · row + j · column]
/// + residual[i, j])` for each, or the maxima of 2×2 of these.
pub(super) struct ListTile<'a> {
    /// [`super::tiles::ListTiles::flat`]: of each list of a filter, the lanes whose pixel its taps reach in each vector of a
    /// period.
    pub(super) masks: &'a [u32],
    pub(super) lists: GroupLists<'a>,
    /// One for each filter.
    pub(super) bias: &'a [f32],
    /// 0 for ReLU, −∞ for none.
    pub(super) floor: f32,
    pub(super) pool: bool,
    /// From where a weight of offset 0 reads for pixel (0, 0).
    pub(super) input: &'a [f32],
    pub(super) row: usize,
    /// Not used where columns lie side by side.
    pub(super) column: usize,
    /// From what is added to pixel (0, 0) of the first filter; rows and columns lie as in `out`.
    pub(super) residual: Option<&'a [f32]>,
    /// From pixel (0, 0) of the first filter.
    pub(super) out: Shared,
    pub(super) out_row: usize,
    pub(super) out_column: usize,
    /// Distances of the filters.
    pub(super) out_channel: usize,
    pub(super) residual_channel: usize,
    pub(super) slice: ChannelSlice,
}

/// Which channels the lists are of.
#[derive(Clone, Copy)]
pub(super) enum ChannelSlice {
    /// All.
    All,
    /// Some. Between slices sums are kept.
    First(KeptSums),
    Middle(KeptSums),
    Last(KeptSums),
}

/// Where the sums of a tile's filters wait between slices, one filter every `channel` floats.
#[derive(Clone, Copy)]
pub(super) struct KeptSums {
    pub(super) sums: Shared,
    pub(super) channel: usize,
}

impl KeptSums {
    /// Those of a filter, counted from the tile's first.
    ///
    /// # Safety
    /// The tile has so many filters and was checked ([`ListTile::check`]).
    #[inline(always)]
    pub(super) unsafe fn of(self, filter: usize) -> *mut f32 {
        // SAFETY: inside `sums` by the caller's word.
        unsafe { self.sums.ptr().add(filter * self.channel) }
    }
}

impl ChannelSlice {
    /// One of so many.
    pub(super) fn of(slice: usize, slices: usize, sums: KeptSums) -> Self {
        match slice {
            _ if slices == 1 => Self::All,
            0 => Self::First(sums),
            _ if slice + 1 < slices => Self::Middle(sums),
            _ => Self::Last(sums),
        }
    }
}

/// Lengths of a period that [`super::tiles::ListTiles::flat`] takes.
pub(super) const PERIODS: [usize; 3] = [1, 2, 4];

/// How the columns of a tile lie in the input.
#[derive(Debug, Clone, Copy)]
pub(super) enum Columns {
    /// [`ListTile::column`] apart.
    Any,
    /// Side by side, each `2^.0` vectors: that many image blocks in one tile.
    Blocks(usize),
}

impl ListTile<'_> {
    /// Panics unless all `rows` × `columns` pixels of `width` floats lie inside their buffers: those that are read, `column` floats
    /// apart, and those that are written and kept for every filter.
    pub(super) fn check(&self, [rows, columns]: [usize; 2], width: usize, column: usize) {
        let last = self.lists.filters().checked_sub(1).expect("a tile has filters");
        let reach = (rows - 1) * self.row + (columns - 1) * column + width;
        let read = self.lists.furthest().is_none_or(|offset| offset + reach <= self.input.len());
        assert!(read, "a tile reads beside its input");
        let halves = usize::from(self.pool);
        let end = ((rows >> halves).max(1) - 1) * self.out_row
            + ((columns >> halves).max(1) - 1) * self.out_column
            + width;
        assert!(last * self.out_channel + end <= self.out.len(), "a tile writes beside its output");
        let added = |residual: &[f32]| last * self.residual_channel + end <= residual.len();
        assert!(self.residual.is_none_or(|residual| !self.pool && added(residual)));
        assert!(self.bias.len() == last + 1);
        if let ChannelSlice::First(kept) | ChannelSlice::Middle(kept) | ChannelSlice::Last(kept) =
            self.slice
        {
            assert!(last * kept.channel + rows * columns * width <= kept.sums.len());
        }
    }
}
