//! Convolution with an irregularly masked filter: only the kept weights are stored and multiplied.
//!
//! Images run along the lanes: a block of images lies as planes `[channel][row][column][image]` with zeros
//! around ([`planes`]), so that each kept weight is one broadcast and one fixed offset, the same for every pixel.
//! A tile of pixels stays in registers while the list of its output channel's kept weights runs over it.

pub(super) mod kernel;
mod planes;
pub(super) mod weight;

pub(crate) use weight::backward_weight;

use super::isa::Isa;
use super::round::round;
use super::scratch::{self, Shared};
use super::split::split;
use super::term::Term;
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use kernel::{SparseTile, SparseTiles};
use planes::Geometry;
use rayon::prelude::*;
use std::ops::Range;

/// Output channels of a task.
const CHANNELS: usize = 32;

/// Where the kept weights of a `[k, r, s, c]` filter are. Made once for a mask; the values are read from
/// the dense filter at every call.
#[derive(Debug, Clone)]
pub(crate) struct KeptWeights {
    /// k, r, s, c.
    dims: [usize; 4],
    stride: usize,
    forward: EntryLists,
    backward: EntryLists,
}

/// Kept weights by the channel that is written.
#[derive(Debug, Clone, Default)]
struct EntryLists {
    /// The entries of list `i` are `starts[i]..starts[i + 1]`.
    starts: Vec<usize>,
    entries: Vec<KeptEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeptEntry {
    /// `tap · channels read + channel read`.
    source: u32,
    /// Index in the dense filter.
    weight: u32,
}

impl KeptWeights {
    /// The format of the filter of `shape` where `mask` is not 0.
    pub(crate) fn new(shape: &ConvShape, mask: &[u8]) -> Self {
        let &ConvShape { c, k, r, s, stride, .. } = shape;
        assert!(mask.len() == shape.filter_len() && u32::try_from(mask.len()).is_ok());
        let kept = |weight: usize| mask[weight] != 0;
        let at = |k: usize, tap: usize, c_in: usize| (k * r * s + tap) * c + c_in;
        let mut forward = EntryLists::new();
        for filter in 0..k {
            let all = (0..r * s).flat_map(|tap| (0..c).map(move |channel| (tap, channel)));
            forward.push(
                all.map(|(tap, channel)| (tap * c + channel, at(filter, tap, channel)))
                    .filter(|e| kept(e.1)),
            );
        }
        let mut backward = EntryLists::new();
        // An input pixel of phase (y, x) is reached by the taps of one phase: a list for each phase and channel.
        for phase in 0..stride * stride {
            let taps: Vec<usize> = (0..r * s)
                .filter(|tap| {
                    planes::reaches(shape, phase / stride, tap / s)
                        && planes::reaches(shape, phase % stride, tap % s)
                })
                .collect();
            for channel in 0..c {
                let all = taps.iter().flat_map(|&tap| (0..k).map(move |filter| (tap, filter)));
                backward.push(
                    all.map(|(tap, filter)| (tap * k + filter, at(filter, tap, channel)))
                        .filter(|e| kept(e.1)),
                );
            }
        }
        Self { dims: [k, r, s, c], stride, forward, backward }
    }

    /// Number of kept weights.
    pub(crate) fn kept(&self) -> usize {
        self.forward.entries.len()
    }

    fn expect(&self, shape: &ConvShape) {
        assert!(self.dims == [shape.k, shape.r, shape.s, shape.c] && self.stride == shape.stride);
    }
}

impl EntryLists {
    fn new() -> Self {
        Self { starts: vec![0], entries: Vec::new() }
    }

    fn push(&mut self, entries: impl Iterator<Item = (usize, usize)>) {
        self.entries.extend(
            entries
                .map(|(source, weight)| KeptEntry { source: source as u32, weight: weight as u32 }),
        );
        self.starts.push(self.entries.len());
    }
}

/// `y = x ∗ (w ⊙ mask) + bias`.
pub(crate) fn forward(
    filter: &KeptWeights,
    shape: &ConvShape,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    mode: Mode,
    y: &mut [f32],
) {
    forward_on(Isa::detect(), filter, shape, x, w, bias, mode, y);
}

/// [`forward`] with the instructions of `isa`.
#[allow(clippy::too_many_arguments)] // The operands of a convolution.
pub(super) fn forward_on(
    isa: Isa,
    filter: &KeptWeights,
    shape: &ConvShape,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    mode: Mode,
    y: &mut [f32],
) {
    filter.expect(shape);
    assert!(x.len() == shape.input_len() && y.len() == shape.output_len());
    assert!(w.len() == shape.filter_len() && bias.is_none_or(|bias| bias.len() == shape.k));
    let geometry = Geometry::forward(shape, isa.lanes());
    run(SparseTiles::of(isa), &geometry, &filter.forward, x, w, bias, mode, y);
}

/// `dx = dy ∗ᵀ (w ⊙ mask)`.
pub(crate) fn backward_input(
    filter: &KeptWeights,
    shape: &ConvShape,
    dy: &[f32],
    w: &[f32],
    mode: Mode,
    dx: &mut [f32],
) {
    backward_input_on(Isa::detect(), filter, shape, dy, w, mode, dx);
}

/// [`backward_input`] with the instructions of `isa`.
pub(super) fn backward_input_on(
    isa: Isa,
    filter: &KeptWeights,
    shape: &ConvShape,
    dy: &[f32],
    w: &[f32],
    mode: Mode,
    dx: &mut [f32],
) {
    filter.expect(shape);
    assert!(dx.len() == shape.input_len() && dy.len() == shape.output_len());
    assert!(w.len() == shape.filter_len());
    let geometry = Geometry::backward(shape, isa.lanes());
    run(SparseTiles::of(isa), &geometry, &filter.backward, dy, w, None, mode, dx);
}

/// What a task computes: some channels of one phase of one block of images.
struct SparseTask {
    block: usize,
    phase: usize,
    channels: Range<usize>,
}

#[allow(clippy::too_many_arguments)] // The operands of a convolution and where it runs.
fn run(
    tiles: &SparseTiles,
    geometry: &Geometry,
    lists: &EntryLists,
    input: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    mode: Mode,
    out: &mut [f32],
) {
    if out.is_empty() || geometry.phases.iter().all(|phase| phase.plane() == 0) {
        return;
    }
    let terms = terms(geometry, lists, w, mode);
    let channels = geometry.output.channels;
    let (blocks, phases) = (geometry.blocks(), geometry.phases.len());
    let mut tasks = Vec::new();
    for block in 0..blocks {
        for phase in 0..phases {
            let parts = split(channels, CHANNELS);
            tasks.extend(parts.map(|channels| SparseTask { block, phase, channels }));
        }
    }
    let (in_len, out_len) = (geometry.input_len(), geometry.output_len());
    scratch::with(blocks * in_len, |read| {
        geometry.pack(input, mode, read);
        scratch::with(blocks * out_len, |written| {
            let shared = Shared::new(written);
            tasks.par_iter().with_max_len(1).for_each(|task| {
                let read = &read[task.block * in_len..][..in_len];
                let phase = &geometry.phases[task.phase];
                let first =
                    task.block * out_len + phase.start + task.channels.start * phase.plane();
                // SAFETY: these channels of one phase of one block belong to this task alone.
                let planes = unsafe { shared.part(first, task.channels.len() * phase.plane()) };
                tiles.for_each_tile(phase.rows, phase.row, |shape, row, column| {
                    let planes = planes.chunks_exact_mut(phase.plane());
                    for (channel, plane) in task.channels.clone().zip(planes) {
                        let list = task.phase * channels + channel;
                        let tile = SparseTile {
                            terms: &terms[lists.starts[list]..lists.starts[list + 1]],
                            input: &read[row * geometry.row() + column..],
                            input_row: geometry.row(),
                            start: bias.map_or(0.0, |bias| bias[channel]),
                            out: &mut plane[row * phase.row + column..],
                            out_row: phase.row,
                        };
                        // SAFETY: every offset of the phase plus a pixel of its result lies in the block, whose
                        // slack takes what a row's last vector reads too far; the tile lies in the plane.
                        unsafe { tiles.tile(shape, tile) };
                    }
                });
            });
            geometry.unpack(written, out);
        });
    });
}

/// The kept weights with the offsets that this geometry gives them.
fn terms(geometry: &Geometry, lists: &EntryLists, w: &[f32], mode: Mode) -> Vec<Term> {
    const CHUNK: usize = 1 << 13;
    let per_phase = (lists.starts.len() - 1) / geometry.phases.len();
    let mut terms = vec![Term::default(); lists.entries.len()];
    for (phase, tables) in geometry.phases.iter().enumerate() {
        let range = lists.starts[phase * per_phase]..lists.starts[(phase + 1) * per_phase];
        let chunks = terms[range.clone()].par_chunks_mut(CHUNK);
        chunks.zip(lists.entries[range].par_chunks(CHUNK)).for_each(|(terms, entries)| {
            for (term, entry) in terms.iter_mut().zip(entries) {
                *term = Term {
                    weight: round(mode, w[entry.weight as usize]),
                    offset: tables.offsets[entry.source as usize],
                };
            }
        });
    }
    terms
}
