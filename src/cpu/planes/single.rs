//! A layer on images one by one: the lanes are pixels that follow each other in a plane.
//!
//! Output pixel `i` of a plane reads pixel `i + offset` of an input plane, so rows need no gaps and planes of any width
//! fill the lanes. Where the column of a tap leads into another row, there are two remedies: the lane is masked, or the tap
//! reads a copy of the plane whose columns were moved. The layer before has written these copies. Where filter or stride
//! change the size of the plane, the copies are gathered first.

use super::compiled::CompiledFilters;
use super::layout::{Layout, period};
use super::lists::{ListOrder, Offsets, slices};
use super::plane::{max_pool_plane, spread};
use super::tile::{ChannelSlice, KeptSums, ListTile};
use super::tiles::ListTiles;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::scratch::{self, Shared};
use crate::cpu::split::{powers, split};
use crate::cpu::team;

/// Filters that a task may have, however many tasks there are then.
const FILTERS: usize = 8;
/// Tasks for each thread, where there are so many. VGG16 with 5 % of its weights took 0.51 ms with 8 tasks, 0.49 with 4 and 0.48
/// with 2. Two tasks would leave nothing to share where lists differ in length.
const TASKS: usize = 4;
/// Most floats of the planes of a task, which are read again.
const PLANES: usize = 1 << 15;
/// Fewest weights of a filter in a slice of the channels, on average. 256 → 256 filters at 8 × 8 pixels with 5 % of the weights
/// took 46 µs in one slice and 42 in two.
const TERMS: usize = 16;

/// How the planes of a layer lie.
pub(super) struct Single {
    /// Output pixels before pooling.
    p: usize,
    q: usize,
    /// For each column of taps, the lanes that it reaches in each vector of a period. Empty where copies make masks unnecessary.
    reached: Vec<u32>,
    /// Of the layout that is written.
    masks: Vec<u32>,
    gather: Option<PlaneGather>,
}

/// Copies of the input planes, `[c][row phase][s][rows][q]`. At (i, j), copy `(phase, s)` holds row `stride · i + phase − pad` and
/// column `stride · j + s − pad` of the input, or 0 outside the input.
struct PlaneGather {
    stride: usize,
    pad: usize,
    phases: usize,
    s: usize,
    rows: usize,
    q: usize,
    copy: usize,
}

/// Whether the copies of a layout serve the layer as they are.
pub(super) fn direct(shape: &ConvShape) -> bool {
    let same = 2 * shape.pad + 1;
    shape.stride == 1 && (shape.r, shape.s) == (same, same)
}

impl Single {
    /// Also where the taps read, and the order of the `kept` weights.
    pub(super) fn new(
        tiles: &ListTiles,
        shape: &ConvShape,
        kept: usize,
        input: &Layout,
        output: &Layout,
    ) -> (Self, Offsets, ListOrder) {
        let &ConvShape { w, c, k, r, s, stride, pad, .. } = shape;
        let (p, q) = (shape.p(), shape.q());
        let together = shape.n * k / (TASKS * team::threads());
        let most = (PLANES / (p * q).max(1)).max(1);
        let groups = split(k, together.max(FILTERS).min(most)).count();
        let order = |slices: usize, lists: usize| ListOrder {
            filters: k,
            groups,
            slices,
            lists,
            turns: slices == 1,
        };
        let masks = output.masks();
        if direct(shape) {
            let skip = input.halo - pad;
            if let Some(period) = period(input.lanes, w) {
                let lead = input.origin - input.halo * (w + 1);
                let tap = |tap: usize| lead + (tap / s + skip) * w + tap % s + skip;
                let reaches = |ds: usize, lane: usize| (pad..pad + w).contains(&(lane % w + ds));
                let vectors = (0..s).flat_map(|ds| (0..period).map(move |v| (ds, v)));
                let mask = |(ds, v)| {
                    let reached = |lane: &usize| reaches(ds, v * input.lanes + lane);
                    (0..input.lanes).filter(reached).map(|lane| 1 << lane).sum()
                };
                let reached = vectors.map(mask).collect();
                let offsets =
                    Offsets { taps: (0..r * s).map(tap).collect(), channel: input.channel };
                // Some rows, and those that taps reach above and below.
                let read = ((input.lanes << tiles.most()) + 2 * pad * w).min(input.channel);
                let slices = slices(c * read, kept, k, TERMS);
                return (Self { p, q, reached, masks, gather: None }, offsets, order(slices, s));
            }
            let lead = input.origin - input.halo * (input.copy + w);
            let tap = |tap: usize| lead + (tap % s + skip) * input.copy + (tap / s + skip) * w;
            let offsets = Offsets { taps: (0..r * s).map(tap).collect(), channel: input.channel };
            return (Self { p, q, reached: Vec::new(), masks, gather: None }, offsets, order(1, 1));
        }
        let phases = stride.min(r);
        let rows = p + r.saturating_sub(1) / stride;
        let copy = (rows * q).next_multiple_of(16);
        let gather = PlaneGather { stride, pad, phases, s, rows, q, copy };
        let tap = |tap: usize| {
            let (dr, ds) = (tap / s, tap % s);
            (dr % stride * s + ds) * copy + dr / stride * q
        };
        let offsets = Offsets { taps: (0..r * s).map(tap).collect(), channel: gather.channel() };
        (Self { p, q, reached: Vec::new(), masks, gather: Some(gather) }, offsets, order(1, 1))
    }

    pub(super) fn run(
        &self,
        layer: &CompiledFilters,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
    ) {
        let Some(gather) = &self.gather else {
            return self.compute(layer, x, layer.input.group, residual, y);
        };
        let image = layer.input.c * gather.channel();
        scratch::with(layer.input.n * image + layer.input.lanes, |copies| {
            gather.run(&layer.input, x, copies);
            self.compute(layer, copies, image, residual, y);
        });
    }

    /// `image` is the distance of the images in `x`.
    fn compute(
        &self,
        layer: &CompiledFilters,
        x: &[f32],
        image: usize,
        residual: Option<&[f32]>,
        y: &mut [f32],
    ) {
        let &CompiledFilters { tiles, ref output, ref lists, .. } = layer;
        let (lanes, pool) = (output.lanes, layer.finish.pool);
        let ListOrder { groups, slices, .. } = lists.order;
        let len = (self.p * self.q).next_multiple_of(lanes);
        let pooled = if pool { (output.h * output.w).next_multiple_of(lanes) } else { 0 };
        let tile = len.min(lanes << tiles.most());
        // What is written lies as it is computed.
        let direct = !pool && output.copies == 1 && len == self.p * self.q;
        let shared = Shared::new(y);
        team::for_each(output.n * groups, |task| {
            let (n, group) = (task / groups, task % groups);
            let filters = lists.order.group(group);
            let count = filters.len();
            let [planes, kept] = [if direct { 0 } else { len }, if slices > 1 { tile } else { 0 }];
            scratch::with(count * (planes + kept) + pooled, |memory| {
                let (planes, memory) = memory.split_at_mut(count * planes);
                let (sums, small) = memory.split_at_mut(count * kept);
                // Pixel (0, 0) of the first filter, and what is written from there on: the planes of the filters.
                let first = output.at(n, 0, 0) + filters.start * output.channel;
                let (out, out_channel) = match direct {
                    true => {
                        (shared.span(first, (count - 1) * output.channel + len), output.channel)
                    }
                    false => (Shared::new(planes), len),
                };
                let residual = residual.map(|residual| &residual[first..]);
                let sums = Shared::new(sums);
                for (start, vectors) in powers(len / lanes, tiles.most()) {
                    let start = start * lanes;
                    let sums = KeptSums { sums, channel: lanes << vectors };
                    for slice in 0..slices {
                        let tile = ListTile {
                            masks: &self.reached,
                            lists: lists.of(group, slice),
                            bias: &layer.bias[filters.clone()],
                            floor: layer.floor(),
                            pool: false,
                            // Without channels there is nothing to read.
                            input: x.get(n * image + start..).unwrap_or_default(),
                            row: 0,
                            column: 0,
                            residual: residual.map(|residual| &residual[start..]),
                            out: out.rest(start),
                            out_row: 0,
                            out_column: lanes,
                            out_channel,
                            residual_channel: output.channel,
                            slice: ChannelSlice::of(slice, slices, sums),
                        };
                        // SAFETY: `out` is the filters' part of the output, or memory of this task alone, as the sums are.
                        unsafe { tiles.flat(vectors, self.p * self.q, &tile) };
                    }
                }
                for (plane, k) in planes.chunks_exact(len).zip(filters) {
                    let place = output.at(n, 0, 0) + k * output.channel;
                    let plane = if pool {
                        max_pool_plane(plane, self.q, [output.h, output.w], small);
                        &*small
                    } else {
                        plane
                    };
                    // SAFETY: the copies of this image's channel are this task's alone.
                    unsafe { spread(tiles, output, &self.masks, plane, shared, place) };
                }
            });
        });
    }
}

impl PlaneGather {
    fn channel(&self) -> usize {
        self.phases * self.s * self.copy
    }

    fn run(&self, input: &Layout, x: &[f32], copies: &mut [f32]) {
        let (channel, shared) = (self.channel(), Shared::new(copies));
        team::for_each(input.n * input.c, |task| {
            let place = input.at(task / input.c, 0, 0) + task % input.c * input.channel;
            let plane = &x[place..][..input.h * input.w];
            // SAFETY: this plane's copies are this task's alone.
            let copies = unsafe { shared.part(task * channel, channel) };
            for (i, copy) in copies.chunks_exact_mut(self.copy).enumerate() {
                let (phase, s) = (i / self.s, i % self.s);
                for row in 0..self.rows {
                    let from = (row * self.stride + phase).checked_sub(self.pad);
                    let from =
                        from.filter(|&y| y < input.h).map(|y| &plane[y * input.w..][..input.w]);
                    for (j, out) in copy[row * self.q..][..self.q].iter_mut().enumerate() {
                        let column = (j * self.stride + s).checked_sub(self.pad);
                        *out = match (from, column) {
                            (Some(from), Some(column)) => from.get(column).copied().unwrap_or(0.0),
                            _ => 0.0,
                        };
                    }
                }
            }
        });
    }
}
