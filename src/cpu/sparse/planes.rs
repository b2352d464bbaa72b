//! Blocks of images as planes, one image a lane.
//!
//! The operand that is read lies as `[channel][phase][row][column][image]`, with the zeros that taps reach beyond the
//! border. Phases split a strided axis, so that what one tap reads for successive outputs lies side by side. The result
//! lies as `[phase][channel][row][columns · images, rounded up to vectors]`.

use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::round::round;
use crate::cpu::scratch::Shared;
use rayon::prelude::*;

/// Images of a block, more where a row of the result stays within [`ROW`] floats.
const IMAGES: usize = 16;
const ROW: usize = 128;
/// Pixels × channels that are transposed at once.
const PATCH: usize = 16;

/// An activation `[n, h, w, channels]`.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) channels: usize,
}

/// One axis: how source pixels are laid out, and which pixels each phase of the result has.
struct PhaseAxis {
    /// Of the source: phases and entries in each, zeros included.
    phases: usize,
    len: usize,
    /// Of each source pixel: phase and entry; `None` where no tap reaches it.
    places: Vec<Option<(usize, usize)>>,
    groups: Vec<PhaseGroup>,
}

/// Result pixels `i, i + step, …` (group `i`), and the (phase, entry) that the first of them reads through each tap.
struct PhaseGroup {
    count: usize,
    taps: Vec<Option<(usize, usize)>>,
}

/// One phase of the result: the pixels of a pair of groups.
pub(super) struct Phase {
    /// Offset of its planes in a block of the result.
    pub(super) start: usize,
    /// Rows, and floats of each.
    pub(super) rows: usize,
    pub(super) row: usize,
    /// `offsets[tap · channels + channel]` from the start of a block of the source; 0 for taps of other phases.
    pub(super) offsets: Vec<u32>,
}

impl Phase {
    pub(super) fn plane(&self) -> usize {
        self.rows * self.row
    }
}

/// How one convolution, or its input gradient, lies in memory.
pub(super) struct Geometry {
    pub(super) n: usize,
    /// Images of a block.
    pub(super) images: usize,
    pub(super) input: Extent,
    pub(super) output: Extent,
    pub(super) phases: Vec<Phase>,
    /// Distance of the pixels of one phase of the result.
    step: usize,
    lanes: usize,
    rows: PhaseAxis,
    columns: PhaseAxis,
}

/// Whether filter tap `tap` reaches the input pixels `y` with `y % stride = phase`.
pub(super) fn reaches(shape: &ConvShape, phase: usize, tap: usize) -> bool {
    (phase + shape.pad) % shape.stride == tap % shape.stride
}

impl PhaseAxis {
    fn forward(input: usize, output: usize, taps: usize, stride: usize, pad: usize) -> Self {
        let phases = stride.min(taps);
        let len = output + taps.saturating_sub(1) / stride;
        let place = |y: usize| ((y + pad) % stride, (y + pad) / stride);
        let reached = |&(phase, entry): &(usize, usize)| phase < phases && entry < len;
        let places = (0..input).map(|y| Some(place(y)).filter(reached)).collect();
        let taps = (0..taps).map(|r| Some((r % stride, r / stride))).collect();
        Self { phases, len, places, groups: vec![PhaseGroup { count: output, taps }] }
    }

    fn backward(shape: &ConvShape, input: usize, output: usize, taps: usize) -> Self {
        let &ConvShape { stride, pad, .. } = shape;
        // Input `start + stride · i` reads the output gradient `i + (start + pad − r) / stride`: the lowest is `−before`.
        let below = |start: usize| {
            (0..taps)
                .filter(move |&r| reaches(shape, start, r))
                .map(move |r| r.saturating_sub(start + pad) / stride)
        };
        let before = (0..stride).flat_map(below).max().unwrap_or(0);
        let groups: Vec<PhaseGroup> = (0..stride)
            .map(|start| PhaseGroup {
                count: input.saturating_sub(start).div_ceil(stride),
                taps: (0..taps)
                    .map(|r| {
                        let entry = (start + pad + before * stride).checked_sub(r)?;
                        reaches(shape, start, r).then_some((0, entry / stride))
                    })
                    .collect(),
            })
            .collect();
        let reach = |group: &PhaseGroup| {
            let last = group.taps.iter().flatten().map(|tap| tap.1).max();
            last.map_or(0, |last| last + group.count)
        };
        let len = groups.iter().map(reach).max().unwrap_or(0).max(1);
        let places =
            (0..output).map(|p| Some((0, p + before)).filter(|place| place.1 < len)).collect();
        Self { phases: 1, len, places, groups }
    }
}

impl Geometry {
    pub(super) fn forward(shape: &ConvShape, lanes: usize) -> Self {
        let &ConvShape { h, w, c, k, r, s, stride, pad, .. } = shape;
        let (p, q) = (shape.p(), shape.q());
        let rows = PhaseAxis::forward(h, p, r, stride, pad);
        let columns = PhaseAxis::forward(w, q, s, stride, pad);
        let input = Extent { h, w, channels: c };
        Self::new(shape, input, Extent { h: p, w: q, channels: k }, 1, [rows, columns], lanes)
    }

    pub(super) fn backward(shape: &ConvShape, lanes: usize) -> Self {
        let &ConvShape { h, w, c, k, r, s, stride, .. } = shape;
        let (p, q) = (shape.p(), shape.q());
        let rows = PhaseAxis::backward(shape, h, p, r);
        let columns = PhaseAxis::backward(shape, w, q, s);
        let input = Extent { h: p, w: q, channels: k };
        Self::new(shape, input, Extent { h, w, channels: c }, stride, [rows, columns], lanes)
    }

    fn new(
        shape: &ConvShape,
        input: Extent,
        output: Extent,
        step: usize,
        [rows, columns]: [PhaseAxis; 2],
        lanes: usize,
    ) -> Self {
        let widest = columns.groups.iter().map(|group| group.count).max().unwrap_or(0);
        let mut images = shape.n.clamp(1, IMAGES);
        while images >= IMAGES && images * 2 <= shape.n && images * 2 * widest <= ROW {
            images *= 2;
        }
        let mut geometry = Self {
            n: shape.n,
            images,
            input,
            output,
            phases: Vec::new(),
            step,
            lanes,
            rows,
            columns,
        };
        let mut start = 0;
        for i in 0..geometry.rows.groups.len() {
            for j in 0..geometry.columns.groups.len() {
                let phase = geometry.phase(start, i, j);
                start += phase.plane() * output.channels;
                geometry.phases.push(phase);
            }
        }
        geometry
    }

    fn phase(&self, start: usize, i: usize, j: usize) -> Phase {
        let (rows, columns) = (&self.rows.groups[i], &self.columns.groups[j]);
        let mut offsets = Vec::new();
        for row in &rows.taps {
            for column in &columns.taps {
                let first = match (row, column) {
                    (Some(row), Some(column)) => self.place(*row, *column),
                    _ => 0,
                };
                offsets.extend((0..self.input.channels).map(|c| (c * self.plane() + first) as u32));
            }
        }
        let row = (columns.count * self.images).next_multiple_of(self.lanes);
        Phase { start, rows: rows.count, row, offsets }
    }

    /// Offset in a plane of the source of an entry of both axes.
    fn place(&self, row: (usize, usize), column: (usize, usize)) -> usize {
        let phase = row.0 * self.columns.phases + column.0;
        ((phase * self.rows.len + row.1) * self.columns.len + column.1) * self.images
    }

    pub(super) fn blocks(&self) -> usize {
        self.n.div_ceil(self.images)
    }

    /// Floats from a row of the source to the next.
    pub(super) fn row(&self) -> usize {
        self.columns.len * self.images
    }

    /// Floats of a channel of the source.
    fn plane(&self) -> usize {
        self.rows.phases * self.columns.phases * self.rows.len * self.row()
    }

    /// Floats of a block of the source; the last vector of the last row may reach into the slack.
    pub(super) fn input_len(&self) -> usize {
        (self.input.channels * self.plane()).next_multiple_of(self.lanes) + self.lanes
    }

    /// Floats of a block of the result.
    pub(super) fn output_len(&self) -> usize {
        self.phases.iter().map(Phase::plane).sum::<usize>() * self.output.channels
    }

    /// Copies an activation of the side that is read into blocks of [`Self::input_len`], rounded for `mode`.
    pub(super) fn pack(&self, input: &[f32], mode: Mode, blocks: &mut [f32]) {
        let (plane, block_len) = (self.plane(), self.input_len());
        let Extent { w, channels, .. } = self.input;
        let (shared, parts) = (Shared::new(blocks), channels.div_ceil(PATCH));
        (0..self.blocks() * parts).into_par_iter().for_each(|task| {
            let (block, first) = (task / parts, task % parts * PATCH);
            let count = (channels - first).min(PATCH);
            let end = if first + count == channels { block_len } else { (first + count) * plane };
            // SAFETY: these channels of this block are this task's alone.
            let planes =
                unsafe { shared.part(block * block_len + first * plane, end - first * plane) };
            planes.fill(0.0);
            let images = self.block(block);
            for (y, row) in self.rows.places.iter().enumerate() {
                for (x, column) in self.columns.places.iter().enumerate() {
                    let (Some(row), Some(column)) = (row, column) else { continue };
                    let place = self.place(*row, *column);
                    for (lane, n) in images.clone().enumerate() {
                        let start = ((n * self.input.h + y) * w + x) * channels + first;
                        for (i, &value) in input[start..start + count].iter().enumerate() {
                            planes[i * plane + place + lane] = round(mode, value);
                        }
                    }
                }
            }
        });
    }

    /// Copies an activation of the side that is written into blocks of [`Self::output_len`], zeros after each row;
    /// for a geometry of one phase.
    pub(super) fn pack_output(&self, output: &[f32], mode: Mode, blocks: &mut [f32]) {
        let Extent { h, w, channels } = self.output;
        let phase = &self.phases[0];
        let (plane, block_len) = (phase.plane(), self.output_len());
        let (shared, parts) = (Shared::new(blocks), channels.div_ceil(PATCH));
        (0..self.blocks() * parts).into_par_iter().for_each(|task| {
            let (block, first) = (task / parts, task % parts * PATCH);
            let count = (channels - first).min(PATCH);
            // SAFETY: these channels of this block are this task's alone.
            let planes = unsafe { shared.part(block * block_len + first * plane, count * plane) };
            planes.fill(0.0);
            let images = self.block(block);
            for y in 0..h {
                for x in 0..w {
                    let place = y * phase.row + x * self.images;
                    for (lane, n) in images.clone().enumerate() {
                        let start = ((n * h + y) * w + x) * channels + first;
                        for (i, &value) in output[start..start + count].iter().enumerate() {
                            planes[i * plane + place + lane] = round(mode, value);
                        }
                    }
                }
            }
        });
    }

    /// Copies blocks of [`Self::output_len`] to an activation of the side that is written.
    pub(super) fn unpack(&self, blocks: &[f32], output: &mut [f32]) {
        let Extent { h, w, channels } = self.output;
        let shared = Shared::new(output);
        (0..self.blocks() * h).into_par_iter().for_each(|task| {
            let (block, y) = (task / h, task % h);
            let planes = &blocks[block * self.output_len()..][..self.output_len()];
            for x in 0..w {
                let phase = &self.phases[y % self.step * self.step + x % self.step];
                let place = phase.start + y / self.step * phase.row + x / self.step * self.images;
                for first in (0..channels).step_by(PATCH) {
                    let count = (channels - first).min(PATCH);
                    for (lane, n) in self.block(block).enumerate() {
                        let start = ((n * h + y) * w + x) * channels + first;
                        // SAFETY: this row of this block's images is this task's alone.
                        let pixel = unsafe { shared.part(start, count) };
                        for (i, out) in pixel.iter_mut().enumerate() {
                            *out = planes[(first + i) * phase.plane() + place + lane];
                        }
                    }
                }
            }
        });
    }

    /// The images of a block.
    fn block(&self, block: usize) -> std::ops::Range<usize> {
        block * self.images..((block + 1) * self.images).min(self.n)
    }
}
