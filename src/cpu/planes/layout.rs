//! How activations lie between the layers.

use super::tile::PERIODS;
use super::tiles::{ListTiles, most_blocks};
use crate::cpu::isa::Isa;

/// Pixels of a plane that is too small to fill a tile from one block of images.
pub(super) const SMALL: usize = 4;
/// Pixels of a plane whose channels lie apart.
const PLANE: usize = 16;
/// Floats of a cache line.
const LINE: usize = 16;

/// The place of every element of an activation `[n, h, w, c]`. Around and between the elements lie zeros, which whatever
/// writes an activation leaves alone: memory that was zeroed once serves all activations of equal layouts, but no other.
///
/// Many images lie in blocks as wide as a vector: `[block][h + 2 halo][w + 2 halo][c][image of the block]`, or, where the
/// plane has few pixels, `[group of blocks][c][h + 2 halo][w + 2 halo][block][image of the block]`. The channels of a
/// pixel lie together because a tile reads a few pixels of all channels: apart by planes, every line would be in
/// another page, which took a fifth more time.
///
/// Few images: `[n][c][h + 2 halo][w]` where rows divide a vector, or vectors a row: a tap reads a run of whole rows, moved by
/// its column, and spares the lanes that this brings into the wrong row. Else `[n][c][2 halo + 1][h + 2 halo][w]` where copy `i` of a plane
/// has its columns moved left by `i − halo` and zeros in place of what is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(super) n: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c: usize,
    pub(super) halo: usize,
    pub(super) lanes: usize,
    /// Exponent of the blocks in a group; `None` where images lie one by one.
    pub(super) blocks: Option<usize>,
    /// Copies of a plane, of one image.
    pub(super) copies: usize,
    /// Distances in floats of columns, rows, copies (0 without), channels, and groups or images.
    pub(super) column: usize,
    pub(super) row: usize,
    pub(super) copy: usize,
    pub(super) channel: usize,
    pub(super) group: usize,
    /// Of pixel (0, 0) of channel 0.
    pub(super) origin: usize,
}

impl Layout {
    /// `halo` is at least [`super::SparseLayer::halo`] of every layer that reads the activation.
    pub(crate) fn new(isa: Isa, [n, h, w, c]: [usize; 4], halo: usize) -> Self {
        let lanes = isa.lanes();
        let layout = Self { n, h, w, c, halo, lanes, ..Self::default() };
        // A block costs the same however few of its lanes hold images: VGG16's with 16 lanes took as long as six images.
        if 5 * n < 2 * lanes {
            let copies = if period(lanes, w).is_some() { 1 } else { 2 * halo + 1 };
            let copy = (h + 2 * halo) * w;
            let copy = if copies == 1 { copy } else { copy.next_multiple_of(LINE) };
            let channel = copy * copies;
            // Taps may start left of the first row.
            let origin = halo.next_multiple_of(LINE) + copies / 2 * copy + halo * w;
            let (column, row, group) = (1, w, c * channel);
            return Self { copies, column, row, copy, channel, group, origin, ..layout };
        }
        let most = if h * w <= SMALL { most_blocks(ListTiles::of(isa).most()) } else { 0 };
        let blocks = (n.div_ceil(lanes).next_power_of_two().ilog2() as usize).min(most);
        let [rows, columns] = [h + 2 * halo, w + 2 * halo];
        let [column, channel] = if h * w <= PLANE {
            [lanes << blocks, rows * columns * (lanes << blocks)]
        } else {
            // A line more, else the pixels of a tile would share cache sets.
            [c * lanes + LINE, lanes]
        };
        let row = columns * column;
        let (group, origin) = ((rows * row).max(c * channel), halo * (row + column));
        Self { blocks: Some(blocks), copies: 1, column, row, channel, group, origin, ..layout }
    }

    /// Whether images lie along the lanes.
    #[cfg(test)]
    pub(crate) fn is_batched(&self) -> bool {
        self.blocks.is_some()
    }

    /// Groups of blocks, or images where they lie one by one.
    pub(super) fn groups(&self) -> usize {
        self.blocks.map_or(self.n, |blocks| self.n.div_ceil(self.lanes << blocks))
    }

    /// Blocks of images.
    pub(super) fn images(&self) -> usize {
        self.n.div_ceil(self.lanes)
    }

    /// Floats of an activation.
    pub(crate) fn len(&self) -> usize {
        // A last vector may reach beyond the last row.
        self.groups() * self.group + self.origin + self.lanes
    }

    /// Place of a pixel of channel 0.
    pub(super) fn at(&self, image: usize, y: usize, x: usize) -> usize {
        let (group, lane) = match self.blocks {
            Some(blocks) => (image / (self.lanes << blocks), image % (self.lanes << blocks)),
            None => (image, 0),
        };
        group * self.group + self.origin + y * self.row + x * self.column + lane
    }

    /// Place of pixel (0, 0) of channel 0 of a block of images.
    pub(super) fn block(&self, block: usize) -> usize {
        self.at(block * self.lanes, 0, 0)
    }

    /// [`super::spread::Spread::masks`] of a plane.
    pub(super) fn masks(&self) -> Vec<u32> {
        let copies = self.copies;
        let vectors = (self.h * self.w).div_ceil(self.lanes);
        let mut masks = Vec::with_capacity(vectors * copies);
        for (v, copy) in (0..vectors).flat_map(|v| (0..copies).map(move |copy| (v, copy))) {
            let stays = |lane: &usize| {
                let pixel = v * self.lanes + lane;
                // Column x goes to x + middle − copy.
                let column = (pixel % self.w.max(1) + copies / 2).checked_sub(copy);
                pixel < self.h * self.w && column.is_some_and(|column| column < self.w)
            };
            masks.push((0..self.lanes).filter(stays).map(|lane| 1 << lane).sum());
        }
        masks
    }
}

/// Vectors after which rows begin at the same lanes again, where that is soon: those of a row, or one of whole rows.
pub(super) fn period(lanes: usize, w: usize) -> Option<usize> {
    let vectors = (w / lanes).max(1);
    let whole = w != 0 && (lanes.is_multiple_of(w) || w.is_multiple_of(lanes));
    (whole && PERIODS.contains(&vectors)).then_some(vectors)
}
