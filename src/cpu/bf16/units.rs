//! The rows that a convolution multiplies: what each reads and where its sums go.

use super::layout::{self, Blocked, ROW, ROWS, rows_mut};
use super::tile::{STEP, TapStep};
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::split::split;
use crate::cpu::taps::{Axis, Group};
use crate::cpu::team;
use std::ops::Range;

/// Where a convolution writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Rounded.
    Blocked(Blocked),
    /// `[n, p, q, k]` in f32.
    Nhwc,
}

/// The units of a convolution.
pub(super) struct Units {
    /// The steps that the units of each class go through.
    pub(super) classes: Vec<Vec<TapStep>>,
    /// Neighbours of one class are multiplied together.
    pub(super) all: Vec<Unit>,
    pub(super) runs: Vec<RowRun>,
}

/// 16 rows that are multiplied together, all of which the same taps reach.
pub(super) struct Unit {
    pub(super) class: usize,
    /// Row of x that the first of them reads through the first step of its class, if it has steps.
    pub(super) x: usize,
    /// Its part of the runs.
    pub(super) runs: Range<usize>,
    /// Whether an earlier unit has written to the same place, where the larger value then stays.
    pub(super) largest: bool,
}

/// Rows of a unit whose results lie one behind the other.
pub(super) struct RowRun {
    /// Row of the unit.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Row of the first panel in a blocked result, else pixel.
    pub(super) y: usize,
}

/// Gathers the rows of few images in the order of the result's pixels, `[r · s][c / 32][n · p · q]`. Where planes are small or
/// strides large, units of neighbouring rows of x would mostly compute rows that nobody needs.
pub(super) struct RowGather {
    shape: ConvShape,
    from: Blocked,
    /// Those of a step, a multiple of 16.
    rows: usize,
}

impl RowGather {
    /// The gather, where it spares a sixth of the units or more.
    pub(super) fn of(shape: &ConvShape, from: &Blocked, units: usize) -> Option<Self> {
        let rows = (shape.n * shape.p() * shape.q()).next_multiple_of(ROWS);
        let spares = !from.grouped && 6 * (rows / ROWS) <= 5 * units;
        spares.then(|| Self { shape: *shape, from: from.clone(), rows })
    }

    /// The memory of the rows, in floats.
    pub(super) fn len(&self) -> usize {
        self.shape.r * self.shape.s * self.from.blocks() * self.rows * ROW / 2
    }

    /// Copies the rows. The rows that fill up the last 16 of a step keep whatever they held.
    pub(super) fn run(&self, x: &[f32], gathered: &mut [f32]) {
        let &ConvShape { n, s, stride, .. } = &self.shape;
        let (p, q, blocks) = (self.shape.p(), self.shape.q(), self.from.blocks());
        let x = layout::rows(x);
        team::for_each_chunk(gathered, (self.rows * ROW / 2).max(1), |step, gathered| {
            let (tap, block) = (step / blocks, step % blocks);
            let lines = (0..n).flat_map(|image| (0..p).map(move |y| (image, y)));
            for ((image, y), rows) in lines.zip(rows_mut(gathered).chunks_exact_mut(q.max(1))) {
                let first = read(&self.shape, &self.from, image, [y, 0], [tap / s, tap % s]);
                let first = first + block * self.from.block;
                let line = x[first..].iter().step_by(stride);
                rows.iter_mut().zip(line).for_each(|(row, x)| *row = *x);
            }
        });
    }
}

impl Units {
    /// The units of a convolution. With `pool` the units of each window of the maximum follow each other, otherwise the units of
    /// each class.
    pub(super) fn of(shape: &ConvShape, pool: bool, from: &Blocked, to: &Target) -> Self {
        let units = match from.grouped {
            true => Self::of_groups(shape, pool, from, to),
            false => Self::of_images(shape, from, to),
        };
        let last = (ROWS - 1) * if from.grouped { 1 } else { shape.stride };
        units.check(last, from.rows(), shape, from.grouped, to);
        units
    }

    /// As [`Self::of`] for rows that [`RowGather`] has written, of few images.
    pub(super) fn of_gathered(gather: &RowGather, to: &Target) -> Self {
        let RowGather { shape, from, rows } = gather;
        let step = |i: usize| TapStep { x: i * rows * 2 * ROW, w: i * 2 * STEP };
        let steps = shape.r * shape.s * from.blocks();
        let (mut all, mut runs) = (Vec::new(), Vec::<RowRun>::new());
        let (p, q) = (shape.p(), shape.q());
        for places in split(shape.n * p * q, ROWS) {
            let start = runs.len();
            for (row, place) in places.clone().enumerate() {
                let (image, y, x) = (place / (p * q), place / q % p, place % q);
                push(&mut runs, start, row, x == 0, || match to {
                    Target::Blocked(to) => to.at(image, y, x),
                    Target::Nhwc => place,
                });
            }
            let runs = start..runs.len();
            all.push(Unit { class: 0, x: places.start, runs, largest: false });
        }
        let units = Self { classes: vec![(0..steps).map(step).collect()], all, runs };
        units.check(ROWS - 1, steps * rows, shape, false, to);
        units
    }

    /// Panics where a unit, whose last row lies `last` rows behind its first, would read beyond the first `rows` rows or write
    /// outside y.
    fn check(&self, last: usize, rows: usize, shape: &ConvShape, grouped: bool, to: &Target) {
        let pixels = shape.p() * shape.q();
        // The images of a group are a whole image apart.
        let apart = if grouped { pixels } else { 1 };
        let written = |run: &RowRun| match to {
            Target::Blocked(to) => {
                run.y + to.blocks().saturating_sub(1) * to.block + run.count <= to.rows()
            }
            Target::Nhwc => run.y + run.count.saturating_sub(1) * apart < shape.n * pixels,
        };
        let inside = shape.k == 0 || self.runs.iter().all(written);
        assert!(inside, "a unit writes beside its result");
        for unit in &self.all {
            let steps = self.classes[unit.class].iter();
            let mut read = steps.map(|step| unit.x + step.x / (2 * ROW));
            assert!(read.all(|row| row + last < rows), "a unit reads beside its activation");
        }
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
        let first = |y: usize, x: usize| {
            Some([*lines[line_of[y]].taps.first()?, *columns[column_of[x]].taps.first()?])
        };
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
            runs.push(RowRun { first: 0, count, y: at });
            all.push(Unit {
                class: class(y, x),
                x: first(y, x).map_or(0, |tap| read(shape, from, group, [y, x], tap)),
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
        let (mut all, mut runs) = (Vec::new(), Vec::<RowRun>::new());
        let images = (0..from.groups()).flat_map(|image| (0..parts).map(move |part| (image, part)));
        for (image, part) in images {
            for places in split(len, ROWS) {
                let start = runs.len();
                for (row, place) in places.clone().enumerate() {
                    let (y, x) = (part + place / pitch, place % pitch);
                    if x >= q {
                        continue;
                    }
                    push(&mut runs, start, row, x == 0, || match to {
                        Target::Blocked(to) => to.at(image, y, x),
                        Target::Nhwc => (image * p + y) * q + x,
                    });
                }
                let x = read(shape, from, image, [part, 0], [0, 0]) + places.start * stride;
                all.push(Unit { class: 0, x, runs: start..runs.len(), largest: false });
            }
        }
        Self { classes, all, runs }
    }
}

/// Adds a row to the last run behind `start`, or to a new one, which a new line always begins.
fn push(runs: &mut Vec<RowRun>, start: usize, row: usize, new: bool, y: impl Fn() -> usize) {
    match runs[start..].last_mut() {
        Some(run) if !new && run.first + run.count == row => run.count += 1,
        _ => runs.push(RowRun { first: row, count: 1, y: y() }),
    }
}

/// What is multiplied for some taps, in order: none reads before the first one.
fn steps(shape: &ConvShape, from: &Blocked, rows: &[usize], columns: &[usize]) -> Vec<TapStep> {
    let taps = rows.iter().flat_map(|&r| columns.iter().map(move |&s| (r, s)));
    let steps = taps.flat_map(|(r, s)| (0..from.blocks()).map(move |block| (r, s, block)));
    let step = |(r, s, block): (usize, usize, usize)| {
        let down = (r - rows[0]) * from.line;
        let x = down + (s * from.pixel + block * from.block) - columns[0] * from.pixel;
        TapStep { x: x * 2 * ROW, w: ((r * shape.s + s) * from.blocks() + block) * 2 * STEP }
    };
    steps.map(step).collect()
}

/// The row that pixel (y, x) of the result reads through a tap that reaches it.
fn read(
    shape: &ConvShape,
    from: &Blocked,
    group: usize,
    [y, x]: [usize; 2],
    [r, s]: [usize; 2],
) -> usize {
    let &ConvShape { stride, pad, .. } = shape;
    let place = from.at(group, 0, 0) + (y * stride + r) * from.line + (x * stride + s) * from.pixel;
    place - pad * (from.line + from.pixel)
}

/// The group that each pixel of an axis is in.
fn positions(groups: &[Group], len: usize) -> Vec<usize> {
    let mut positions = vec![0; len];
    for (i, group) in groups.iter().enumerate() {
        group.pixels.iter().for_each(|&pixel| positions[pixel] = i);
    }
    positions
}
