//! How activations in bf16 lie between the layers.

use half::bf16;

/// Channels of a row, one cache line of them.
pub(super) const ROW: usize = 32;
pub(super) type Row = [bf16; ROW];
/// Rows that are multiplied together.
pub(super) const ROWS: usize = 16;
/// Largest step between the rows that are multiplied together, the stride of a convolution of few images.
pub(super) const MAX_STRIDE: usize = 4;
/// Largest halo: every activation of few images has it.
pub(super) const MAX_HALO: usize = 8;

/// The place of every element of an activation `[n, h, w, c]` in rows of 32 channels, with zeros behind the last channel
/// (oneDNN's blocked layouts). 16 rows are multiplied together.
///
/// Many images: `[group][h][w][c / 32][16 images][32]`. The 16 rows are the images of a group at one pixel, and taps outside
/// the image are left out exactly.
///
/// Few images: `[n][c / 32][h + 2 halo][w + 2 halo][32]`. The 16 rows are neighbouring pixels. Whatever writes an activation
/// leaves the zeros of the halo alone, so memory that was zeroed once serves all activations of equal layouts, but no other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Blocked {
    pub(in crate::cpu) n: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c: usize,
    pub(super) halo: usize,
    /// Whether the images of a group are neighbouring rows.
    pub(in crate::cpu) grouped: bool,
    /// Distances in rows of pixels, lines of pixels, blocks of channels, and groups or images.
    pub(super) pixel: usize,
    pub(super) line: usize,
    pub(super) block: usize,
    pub(in crate::cpu) group: usize,
    /// Of pixel (0, 0) of the first block.
    pub(super) origin: usize,
}

impl Blocked {
    /// `halo` is at least the padding of every convolution that reads the activation; `grouped` layouts need none.
    pub(crate) fn new([n, h, w, c]: [usize; 4], grouped: bool, halo: usize) -> Self {
        let blocks = c.div_ceil(ROW);
        let layout = Self { n, h, w, c, halo, ..Self::default() };
        if grouped {
            let (pixel, block) = (blocks * ROWS, ROWS);
            let (line, group) = (w * pixel, h * w * pixel);
            return Self { grouped, halo: 0, pixel, line, block, group, ..layout };
        }
        let line = w + 2 * halo;
        let block = (h + 2 * halo) * line;
        let (group, origin) = (blocks * block, halo * (line + 1));
        Self { pixel: 1, line, block, group, origin, ..layout }
    }

    /// The same layout for other extents.
    pub(crate) fn resized(&self, [h, w, c]: [usize; 3]) -> Self {
        Self::new([self.n, h, w, c], self.grouped, self.halo)
    }

    pub(super) fn blocks(&self) -> usize {
        self.c.div_ceil(ROW)
    }

    /// Images whose rows are neighbours.
    pub(super) fn together(&self) -> usize {
        if self.grouped { ROWS } else { 1 }
    }

    /// Groups, or images.
    pub(super) fn groups(&self) -> usize {
        if self.grouped { self.n.div_ceil(ROWS) } else { self.n }
    }

    /// Row of a pixel of the first block of a group or image.
    pub(super) fn at(&self, group: usize, y: usize, x: usize) -> usize {
        group * self.group + self.origin + y * self.line + x * self.pixel
    }

    /// Row of a pixel of an image's first block.
    pub(super) fn of_image(&self, image: usize, y: usize, x: usize) -> usize {
        match self.grouped {
            true => self.at(image / ROWS, y, x) + image % ROWS,
            false => self.at(image, y, x),
        }
    }

    /// Whether an activation's memory has zeros that must stay.
    pub(crate) fn has_halo(&self) -> bool {
        self.halo > 0
    }

    /// Number of rows, including spare rows behind the last one that may be multiplied without need.
    pub(super) fn rows(&self) -> usize {
        self.groups() * self.group + if self.grouped { 0 } else { ROWS * MAX_STRIDE }
    }

    /// The memory of an activation, in floats.
    pub(crate) fn len(&self) -> usize {
        self.rows() * ROW / 2
    }
}

/// The rows in memory that floats stand for.
pub(super) fn rows(x: &[f32]) -> &[Row] {
    bytemuck::cast_slice(x)
}

pub(super) fn rows_mut(x: &mut [f32]) -> &mut [Row] {
    bytemuck::cast_slice_mut(x)
}
