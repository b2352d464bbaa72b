//! Weight gradient of the kept weights only: for each the product of two planes, `dw = Σ dy[plane k] · x[plane c, shifted]`.
//!
//! A task owns some filters and walks over the images in pieces whose input planes fit the cache; in a piece,
//! [`TOGETHER`] weights of one filter share what they read of the output gradient.

use super::KeptWeights;
use super::kernel::{SparseTiles, TOGETHER, WeightDots};
use super::planes::Geometry;
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::isa::Isa;
use crate::cpu::scratch::{self, Shared};
use crate::cpu::split::split;
use rayon::prelude::*;

/// Filters of a task.
const FILTERS: usize = 16;
/// Floats of the input planes of a piece.
const PIECE: usize = 1 << 18;

/// Gradient of the filter where it is kept, 0 elsewhere.
pub(crate) fn backward_weight(
    filter: &KeptWeights,
    shape: &ConvShape,
    x: &[f32],
    dy: &[f32],
    mode: Mode,
    dw: &mut [f32],
) {
    backward_weight_on(Isa::detect(), filter, shape, x, dy, mode, dw);
}

/// [`backward_weight`] with the instructions of `isa`.
pub(in crate::cpu) fn backward_weight_on(
    isa: Isa,
    filter: &KeptWeights,
    shape: &ConvShape,
    x: &[f32],
    dy: &[f32],
    mode: Mode,
    dw: &mut [f32],
) {
    filter.expect(shape);
    assert!(x.len() == shape.input_len() && dy.len() == shape.output_len());
    assert!(dw.len() == shape.filter_len());
    dw.fill(0.0);
    let geometry = Geometry::forward(shape, isa.lanes());
    if filter.kept() == 0 || geometry.output_len() == 0 || shape.n == 0 {
        return;
    }
    let blocks = geometry.blocks();
    scratch::with(blocks * geometry.input_len(), |inputs| {
        geometry.pack(x, mode, inputs);
        scratch::with(blocks * geometry.output_len(), |outputs| {
            geometry.pack_output(dy, mode, outputs);
            run(SparseTiles::of(isa), &geometry, filter, inputs, outputs, dw);
        });
    });
}

fn run(
    tiles: &SparseTiles,
    geometry: &Geometry,
    filter: &KeptWeights,
    inputs: &[f32],
    outputs: &[f32],
    dw: &mut [f32],
) {
    let phase = &geometry.phases[0];
    let per_filter = filter.dims[1] * filter.dims[2] * filter.dims[3];
    let rows = (PIECE / (geometry.input.channels * geometry.row()).max(1)).clamp(1, phase.rows);
    let dw = Shared::new(dw);
    let tasks: Vec<_> = split(filter.dims[0], FILTERS).collect();
    tasks.par_iter().with_max_len(1).for_each(|filters| {
        let start = filters.start * per_filter;
        // SAFETY: these filters are this task's alone.
        let dw = unsafe { dw.part(start, filters.len() * per_filter) };
        for block in 0..geometry.blocks() {
            let input = &inputs[block * geometry.input_len()..][..geometry.input_len()];
            let output = &outputs[block * geometry.output_len()..][..geometry.output_len()];
            for rows in split(phase.rows, rows) {
                for k in filters.clone() {
                    let entries = &filter.forward.entries
                        [filter.forward.starts[k]..filter.forward.starts[k + 1]];
                    for entries in entries.chunks(TOGETHER) {
                        let offset =
                            |entry: &super::KeptEntry| phase.offsets[entry.source as usize];
                        let mut offsets = [offset(&entries[0]); TOGETHER];
                        offsets.iter_mut().zip(entries).for_each(|(o, entry)| *o = offset(entry));
                        let dots = WeightDots {
                            input: &input[rows.start * geometry.row()..],
                            input_row: geometry.row(),
                            output: &output[k * phase.plane() + rows.start * phase.row..],
                            output_row: phase.row,
                            rows: rows.len(),
                            offsets,
                        };
                        // SAFETY: the rows lie in the plane of the gradient; shifted by the offset of a tap they
                        // lie in the block of the input, whose slack takes the last vector.
                        let sums = unsafe { tiles.dots(&dots) };
                        for (entry, sum) in entries.iter().zip(sums) {
                            dw[entry.weight as usize - start] += sum;
                        }
                    }
                }
            }
        }
    });
}
