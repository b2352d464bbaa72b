//! What a convolution's rows are, what they read and where their sums go.

use super::Target;
use super::layout::{Blocked, ROW, ROWS};
use super::tile::{STEP, Step};
use crate::ops::conv_shape::ConvShape;
use crate::ops::cpu::conv2d::split;
use crate::ops::cpu::taps::{Axis, Group};
use std::ops::Range;

/// The units of a convolution.
pub(super) struct Units {
    /// What units of a class go over.
    pub(super) classes: Vec<Vec<Step>>,
    /// Neighbours of one class are multiplied together.
    pub(super) all: Vec<Unit>,
    pub(super) runs: Vec<Run>,
}

/// 16 rows that are multiplied together, all of which the same taps reach.
pub(super) struct Unit {
    pub(super) class: usize,
    /// Row of x that the first of them reads through tap (0, 0); taps that are left out may lie before x.
    pub(super) x: isize,
    /// Its part of the runs.
    pub(super) runs: Range<usize>,
    /// Whether another one before it has written there, and the larger stays.
    pub(super) largest: bool,
}

/// Results behind each other.
pub(super) struct Run {
    /// Row of the unit.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Row of the first panel in a blocked result, else pixel.
    pub(super) y: usize,
}

impl Units {
    /// With `pool` the units of a window of the maximum follow each other, else those of a class.
    pub(super) fn of(shape: &ConvShape, pool: bool, from: &Blocked, to: &Target) -> Self {
        let units = match from.grouped {
            true => Self::of_groups(shape, pool, from, to),
            false => Self::of_images(shape, from, to),
        };
        let last = (ROWS - 1) * if from.grouped { 1 } else { shape.stride };
        for unit in &units.all {
            let steps = units.classes[unit.class].iter();
            let mut rows = steps.map(|step| unit.x + step.x / (2 * ROW as isize));
            let inside = |row: isize| row >= 0 && row as usize + last < from.rows();
            assert!(rows.all(inside), "a unit reads beside its activation");
        }
        units
    }

    /// The images of a group at one pixel.
    fn of_groups(shape: &ConvShape, pool: bool, from: &Blocked, to: &Target) -> Self {
        let &ConvShape { h, w, r, s, stride, pad, .. } = shape;
        let (p, q) = (shape.p(), shape.q());
        let lines = Axis::forward(h, p, r, stride, pad).groups();
        let columns = Axis::forward(w, q, s, stride, pad).groups();
        let pairs = lines.iter().flat_map(|y| columns.iter().map(move |x| (y, x)));
        let classes = pairs.map(|(y, x)| steps(shape, from, &y.taps, &x.taps)).collect();
        let (line_of, column_of) = (positions(&lines, p), positions(&columns, q));
        let class = |y: usize, x: usize| line_of[y] * columns.len() + column_of[x];
        let mut pixels: Vec<_> = (0..p).flat_map(|y| (0..q).map(move |x| (y, x))).collect();
        if pool {
            pixels.retain(|&(y, x)| y < p / 2 * 2 && x < q / 2 * 2);
            pixels.sort_by_key(|&(y, x)| (y / 2, x / 2, y, x));
        } else {
            pixels.sort_by_cached_key(|&(y, x)| class(y, x));
        }
        let (mut all, mut runs) = (Vec::new(), Vec::new());
        let groups = |at| (0..from.groups()).map(move |group| (at, group));
        for ((y, x), group) in pixels.into_iter().flat_map(groups) {
            let (count, at) = match to {
                Target::Blocked(to) if pool => (ROWS, to.at(group, y / 2, x / 2)),
                Target::Blocked(to) => (ROWS, to.at(group, y, x)),
                Target::Nhwc => (ROWS.min(from.n - group * ROWS), (group * ROWS * p + y) * q + x),
            };
            runs.push(Run { first: 0, count, y: at });
            all.push(Unit {
                class: class(y, x),
                x: read(shape, from, group, y, x),
                runs: runs.len() - 1..runs.len(),
                largest: pool && (y % 2, x % 2) != (0, 0),
            });
        }
        Self { classes, all, runs }
    }

    /// Neighbouring pixels: of a line, or with stride 1 of an image, where what lies in the halo between its lines is computed for
    /// nothing.
    fn of_images(shape: &ConvShape, from: &Blocked, to: &Target) -> Self {
        let (p, q, stride) = (shape.p(), shape.q(), shape.stride);
        let taps = |taps| (0..taps).collect::<Vec<_>>();
        let classes = vec![steps(shape, from, &taps(shape.r), &taps(shape.s))];
        let (parts, pitch) = if stride == 1 { (1, from.line) } else { (p, q.max(1)) };
        let len = match stride {
            1 if p * q > 0 => (p - 1) * pitch + q,
            1 => 0,
            _ => q,
        };
        let (mut all, mut runs) = (Vec::new(), Vec::<Run>::new());
        let images = (0..from.groups()).flat_map(|image| (0..parts).map(move |part| (image, part)));
        for (image, part) in images {
            for places in split(len, ROWS) {
                let start = runs.len();
                for (row, place) in places.clone().enumerate() {
                    let (y, x) = (part + place / pitch, place % pitch);
                    if x >= q {
                        continue;
                    }
                    match runs[start..].last_mut() {
                        Some(run) if x > 0 && run.first + run.count == row => run.count += 1,
                        _ => {
                            let y = match to {
                                Target::Blocked(to) => to.at(image, y, x),
                                Target::Nhwc => (image * p + y) * q + x,
                            };
                            runs.push(Run { first: row, count: 1, y });
                        }
                    }
                }
                let x = read(shape, from, image, part, 0) + (places.start * stride) as isize;
                all.push(Unit { class: 0, x, runs: start..runs.len(), largest: false });
            }
        }
        Self { classes, all, runs }
    }
}

/// What is multiplied for some taps.
fn steps(shape: &ConvShape, from: &Blocked, rows: &[usize], columns: &[usize]) -> Vec<Step> {
    let taps = rows.iter().flat_map(|&r| columns.iter().map(move |&s| (r, s)));
    let steps = taps.flat_map(|(r, s)| (0..from.blocks()).map(move |block| (r, s, block)));
    let step = |(r, s, block): (usize, usize, usize)| Step {
        x: ((r * from.line + s * from.pixel + block * from.block) * 2 * ROW) as isize,
        w: ((r * shape.s + s) * from.blocks() + block) * 2 * STEP,
    };
    steps.map(step).collect()
}

/// The row that pixel (y, x) of the result reads through tap (0, 0).
fn read(shape: &ConvShape, from: &Blocked, group: usize, y: usize, x: usize) -> isize {
    let at = |place: usize| (place * shape.stride) as isize - shape.pad as isize;
    from.at(group, 0, 0) as isize + at(y) * from.line as isize + at(x) * from.pixel as isize
}

/// The group that each pixel of an axis is in.
fn positions(groups: &[Group], len: usize) -> Vec<usize> {
    let mut positions = vec![0; len];
    for (i, group) in groups.iter().enumerate() {
        group.pixels.iter().for_each(|&pixel| positions[pixel] = i);
    }
    positions
}
