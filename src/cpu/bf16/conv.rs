//! The convolution.

use super::layout::{Blocked, MAX_HALO, MAX_STRIDE, ROW, ROWS, rows};
use super::tile::{AlignedSums, Bf16Isa, Bf16Tile, COLUMNS, RowTarget, STEP, SUMS, UnitRows};
use super::units::{RowGather, Target, Unit, Units};
use crate::cpu::aligned::Aligned;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::finish::Finish;
use crate::cpu::panel::pad_bias;
use crate::cpu::scratch::{self, Shared};
use crate::cpu::split::split;
use crate::cpu::team;
use half::bf16;
use std::ops::Range;

/// Filters of a panel: those of a row of the result.
const PANEL: usize = ROW;
/// Rows of activations, and of weights, that a task goes over: each a quarter of a second-level cache.
const TOGETHER: usize = 1 << 13;
/// Tasks wanted for each thread.
const TASKS: usize = 4;
/// Floats of weights up to which all panels stay in the second-level cache.
const FETCHED: usize = 1 << 16;

/// `y = pool?(relu?(x ∗ w + bias + residual?))` for one geometry.
pub(crate) struct Bf16Conv {
    isa: &'static Bf16Isa,
    finish: Finish,
    from: Blocked,
    to: Target,
    filters: usize,
    /// Pixels of an image's result.
    pixels: usize,
    /// `[panel][r · s][c / 32]`, each of [`STEP`].
    weights: Aligned,
    bias: Vec<f32>,
    gather: Option<RowGather>,
    /// Bytes from row to row of a unit.
    stride: usize,
    units: Units,
    /// Units of a task, and panels.
    parts: Vec<Range<usize>>,
    panels: Vec<Range<usize>>,
}

impl Bf16Conv {
    /// Whether this convolution can be computed here: of few images, strides and halos have a limit.
    pub(crate) fn takes(shape: &ConvShape, grouped: bool) -> bool {
        let fits = shape.r.min(shape.s) > 0 && shape.s <= shape.w + 2 * shape.pad;
        fits && (grouped || shape.stride <= MAX_STRIDE && shape.pad <= MAX_HALO)
    }

    /// Shapes: w `[k, r, s, c]`, bias `[k]`. `from` holds x `[n, h, w, c]`, with a halo of at least the padding where it is
    /// not grouped; a blocked target holds y and is grouped where `from` is. Only what is grouped is pooled here.
    pub(crate) fn new(
        shape: &ConvShape,
        w: &[f32],
        bias: &[f32],
        finish: Finish,
        from: &Blocked,
        to: Target,
    ) -> Self {
        Self::new_on(Bf16Isa::detect(), shape, w, bias, finish, from, to)
    }

    /// [`Self::new`] with the instructions of `isa`.
    pub(in crate::cpu) fn new_on(
        isa: &'static Bf16Isa,
        shape: &ConvShape,
        w: &[f32],
        bias: &[f32],
        finish: Finish,
        from: &Blocked,
        to: Target,
    ) -> Self {
        let &ConvShape { n, h, w: width, c, k, r, s, pad, .. } = shape;
        assert!(
            w.len() == shape.filter_len() && bias.len() == k && Self::takes(shape, from.grouped)
        );
        assert!([n, h, width, c] == [from.n, from.h, from.w, from.c]);
        assert!(from.grouped || pad * (from.line + 1) <= from.origin);
        let edge = |edge: usize| if finish.pool { edge / 2 } else { edge };
        if let Target::Blocked(to) = &to {
            assert!([n, edge(shape.p()), edge(shape.q()), k] == [to.n, to.h, to.w, to.c]);
            assert!(to.grouped == from.grouped);
        }
        assert!(!finish.pool || from.grouped && matches!(to, Target::Blocked(_)));
        let units = Units::of(shape, finish.pool, from, &to);
        let gather = RowGather::of(shape, from, units.all.len());
        let units = gather.as_ref().map_or(units, |gather| Units::of_gathered(gather, &to));
        // Windows of the maximum stay together.
        let fewest = if finish.pool { 4 * from.groups().max(1) } else { 2 };
        let depth = r * s * from.blocks();
        let count = k.div_ceil(PANEL);
        let mut panels = (TOGETHER * ROW / (depth * STEP).max(1)).clamp(1, count.max(1));
        let rows = ROWS * from.blocks() * shape.stride.pow(2);
        let mut together = (TOGETHER / rows.max(1)).max(1).next_multiple_of(fewest);
        let tasks = |panels: usize, together: usize| {
            count.div_ceil(panels) * units.all.len().div_ceil(together)
        };
        let wanted = TASKS * team::threads();
        while panels > 1 && tasks(panels, together) < wanted {
            panels = panels.div_ceil(2);
        }
        while together > fewest && tasks(panels, together) < wanted {
            together = (together / 2).next_multiple_of(fewest);
        }
        Self {
            isa,
            finish,
            from: from.clone(),
            to,
            filters: k,
            pixels: shape.p() * shape.q(),
            weights: pack(shape, w),
            bias: pad_bias(bias, PANEL),
            stride: 2 * ROW * if from.grouped || gather.is_some() { 1 } else { shape.stride },
            gather,
            parts: split(units.all.len().div_ceil(fewest), together / fewest)
                .map(|part| part.start * fewest..(part.end * fewest).min(units.all.len()))
                .collect(),
            panels: split(count, panels).collect(),
            units,
        }
    }

    /// x, and residual and y where these are blocked, as the memory of their layouts.
    pub(crate) fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        assert!(x.len() == self.from.len() && (residual.is_none() || !self.finish.pool));
        if let Target::Blocked(to) = &self.to {
            assert!(
                y.len() == to.len() && residual.is_none_or(|residual| residual.len() == y.len())
            );
        } else {
            assert!(residual.is_none() && y.len() == self.from.n * self.pixels * self.filters);
        }
        match &self.gather {
            None => self.multiply(x, residual, y),
            Some(gather) => scratch::with(gather.len(), |rows| {
                gather.run(x, rows);
                self.multiply(rows, residual, y);
            }),
        }
    }

    fn multiply(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let (y, parts) = (Shared::new(y), self.parts.len());
        // Neighbouring tasks, which one core takes, share weights.
        team::for_each(parts * self.panels.len(), |task| {
            let (units, panels) =
                (&self.units.all[self.parts[task % parts].clone()], &self.panels[task / parts]);
            // Each part of a panel's units asks for a share of the next one.
            let share = (task % parts, parts);
            self.isa.with(|| self.task(units, panels.clone(), share, x, residual, &y));
        });
    }

    fn task(
        &self,
        units: &[Unit],
        panels: Range<usize>,
        (part, parts): (usize, usize),
        x: &[f32],
        residual: Option<&[f32]>,
        y: &Shared,
    ) {
        let x = rows(x).as_flattened();
        let weights = rows(&self.weights).as_flattened();
        let depth = self.weights.len() * 2 / self.filters.div_ceil(PANEL);
        let mut sums = AlignedSums([0.0; 4 * SUMS]);
        let steps = self.steps(units).max(1);
        for panel in panels {
            // The next panel's weights come meanwhile, if they may be beyond the second cache.
            let there =
                self.weights.len() > FETCHED && (panel + 2) * depth <= self.weights.len() * 2;
            let share = |part: usize| depth * (panel + 1) + depth * part / parts / ROW * ROW;
            let mut fetch = if there { share(part)..share(part + 1) } else { 0..0 };
            let lines = (fetch.len() / ROW).div_ceil(steps);
            let mut rest = units;
            while let Some(first) = rest.first() {
                let pair = rest.get(1).is_some_and(|second| second.class == first.class);
                let (these, others) = rest.split_at(1 + usize::from(pair));
                let second = these[these.len() - 1].x;
                // Without steps nothing is read.
                let start = |row: usize| x.get(row * ROW..).unwrap_or_default().as_ptr();
                let starts = [first.x, second].map(start);
                let steps = &self.units.classes[first.class];
                let mut tile = Bf16Tile {
                    x: &starts[..these.len()],
                    stride: self.stride,
                    steps,
                    w: weights[panel * depth..].as_ptr(),
                    halves: self.filters_of(panel).div_ceil(COLUMNS),
                    fetch: weights.as_ptr().wrapping_add(fetch.start),
                    lines: if fetch.is_empty() { 0 } else { lines },
                    sums: &mut sums.0,
                };
                fetch.start += lines * steps.len() * ROW;
                // SAFETY: `Units` has checked that the rows of every step lie inside x, whose length is that of its
                // layout or of what was gathered; `pack` has placed the weights.
                unsafe { self.isa.tile(&mut tile) };
                for (unit, sums) in these.iter().zip(sums.0.as_chunks::<{ 2 * SUMS }>().0) {
                    self.write(unit, sums, panel, residual, y);
                }
                rest = others;
            }
        }
    }

    /// Steps that one panel takes for some units.
    fn steps(&self, units: &[Unit]) -> usize {
        let pairs = units.chunk_by(|a, b| a.class == b.class);
        pairs.map(|alike| alike.len().div_ceil(2) * self.units.classes[alike[0].class].len()).sum()
    }

    fn filters_of(&self, panel: usize) -> usize {
        (self.filters - panel * PANEL).min(PANEL)
    }

    fn write(
        &self,
        unit: &Unit,
        sums: &[f32; 2 * SUMS],
        panel: usize,
        residual: Option<&[f32]>,
        y: &Shared,
    ) {
        let filters = self.filters_of(panel);
        for run in &self.units.runs[unit.runs.clone()] {
            let (residual, y) = match &self.to {
                Target::Blocked(to) => {
                    let row = run.y + panel * to.block;
                    let residual =
                        residual.map(|residual| rows(residual)[row..][..run.count].as_ptr());
                    let y = y.rest(row * ROW / 2).ptr().cast::<bf16>();
                    (residual.map(<*const _>::cast), RowTarget::Blocked(y, unit.largest))
                }
                Target::Nhwc => {
                    let y = y.rest(run.y * self.filters + panel * PANEL).ptr();
                    // The images of a group are a whole image apart.
                    let apart = if self.from.grouped { self.pixels } else { 1 };
                    (None, RowTarget::Floats(y, apart * self.filters))
                }
            };
            let rows = UnitRows {
                sums,
                filters,
                first: run.first,
                count: run.count,
                bias: self.bias[panel * PANEL..][..PANEL].as_ptr(),
                residual,
                relu: self.finish.relu,
                y,
            };
            // SAFETY: runs are rows of y, each of one unit, and the panel's filters are this task's.
            unsafe { self.isa.write(&rows) };
        }
    }
}

/// `[panel][r · s][c / 32]` of `[half][channel / 2][filter][2]`, zeros behind the last channel and filter.
fn pack(shape: &ConvShape, w: &[f32]) -> Aligned {
    let &ConvShape { c, k, r, s, .. } = shape;
    let blocks = c.div_ceil(ROW);
    let panel = r * s * blocks * STEP;
    let mut packed = Aligned::zeros(k.div_ceil(PANEL) * panel / 2);
    let to: &mut [bf16] = bytemuck::cast_slice_mut(&mut packed);
    for (row, from) in w.chunks_exact(c.max(1)).enumerate() {
        let (filter, tap) = (row / (r * s), row % (r * s));
        let (half, column) = (filter % PANEL / COLUMNS, filter % COLUMNS);
        let start = filter / PANEL * panel + tap * blocks * STEP + half * STEP / 2 + 2 * column;
        for (channel, &weight) in from.iter().enumerate() {
            let pair = channel % ROW / 2 * 2 * COLUMNS;
            to[start + channel / ROW * STEP + pair + channel % 2] = bf16::from_f32(weight);
        }
    }
    packed
}
