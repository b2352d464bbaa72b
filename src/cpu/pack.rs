//! Filters in the order that the register tile reads them: panels of some columns, zeros after the last.

use super::round;
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use rayon::prelude::*;

/// Filter in panels of output channels: `packed[k / width][r, s, c][k % width]`.
pub(super) fn forward(width: usize, shape: &ConvShape, w: &[f32], mode: Mode, packed: &mut [f32]) {
    const STEP: usize = 16;
    let depth = shape.r * shape.s * shape.c;
    if depth == 0 {
        return;
    }
    packed.par_chunks_mut(depth * width).enumerate().for_each(|(panel, packed)| {
        let filters = &w[(panel * width * depth).min(w.len())..];
        // Some steps of all filters at a time: reads and writes both stay within the first-level cache.
        for (block, packed) in packed.chunks_mut(STEP * width).enumerate() {
            let mut row = [0.0f32; STEP];
            let steps = packed.len() / width;
            for j in 0..width {
                let start = j * depth + block * STEP;
                match filters.get(start..start + steps) {
                    Some(filter) => round::copy(mode, filter, &mut row[..steps]),
                    None => row = [0.0; STEP],
                }
                for (t, &x) in row[..steps].iter().enumerate() {
                    packed[t * width + j] = x;
                }
            }
        }
    });
}

/// Filter in panels of input channels, taps from the last one down: `packed[c / width][R − 1 − r, S − 1 − s, k][c % width]`.
pub(super) fn backward(width: usize, shape: &ConvShape, w: &[f32], mode: Mode, packed: &mut [f32]) {
    let &ConvShape { c, k, .. } = shape;
    let taps = shape.r * shape.s;
    if taps * k == 0 {
        return;
    }
    packed.par_chunks_mut(taps * k * width).enumerate().for_each(|(panel, packed)| {
        let channels = panel * width..((panel + 1) * width).min(c);
        for (row, packed) in packed.chunks_exact_mut(width).enumerate() {
            let (tap, k) = (taps - 1 - row / k, row % k);
            let start = (k * taps + tap) * c;
            let filter = &w[start + channels.start..start + channels.end];
            round::copy(mode, filter, &mut packed[..channels.len()]);
            packed[channels.len()..].fill(0.0);
        }
    });
}
