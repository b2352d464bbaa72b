//! Dense convolution, forward and input gradient: products of gathered pixels with a packed filter.
//!
//! Both are `out[row, j] = bias[j] + Σ_{tap, c} in[source(row, tap), c] · packed[tap, c, j]` over the pixels
//! `row` of one class ([`super::taps`]). A task takes a few register tiles of rows and some panels of columns,
//! copies its rows for [`STEPS`] values of (tap, c) into the cache and runs every panel over them.

use super::few_channels;
use super::isa::Isa;
use super::kernel::{DenseTile, DenseTiles, InitialSums, MAX_ROWS, ROW_STRIDE, STEPS, Segment};
use super::pack;
use super::round;
use super::scratch::{self, Shared};
use super::split::split;
use super::taps::{Axis, Group};
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use rayon::prelude::*;
use std::ops::Range;

/// Register tiles of rows in a task: their packed rows stay in the second-level cache.
const TILES: usize = 16;
/// Tasks wanted, so that many cores have work; columns are split for it, at least [`MIN_PANELS`] to a task.
const TASKS: usize = 24;
const MIN_PANELS: usize = 4;
/// A tile of few rows costs as much as one of this many: loading the panel takes as long.
const CHEAPEST_TILE: usize = 5;

/// `y = x ∗ w + bias`.
pub(crate) fn forward(
    shape: &ConvShape,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    mode: Mode,
    y: &mut [f32],
) {
    forward_on(Isa::detect(), shape, x, w, bias, mode, y);
}

/// [`forward`] with the instructions of `isa`.
pub(super) fn forward_on(
    isa: Isa,
    shape: &ConvShape,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    mode: Mode,
    y: &mut [f32],
) {
    let &ConvShape { n, h, w: width, c, k, r, s, stride, pad } = shape;
    let rows = Axis::forward(h, shape.p(), r, stride, pad);
    let columns = Axis::forward(width, shape.q(), s, stride, pad);
    assert!(x.len() == shape.input_len() && y.len() == shape.output_len());
    assert!(w.len() == shape.filter_len() && bias.is_none_or(|bias| bias.len() == k));
    let tiles = DenseTiles::of(isa);
    let product = GatheredProduct {
        tiles,
        mode,
        n,
        input: [h, width, c],
        columns: k,
        bias,
        rows,
        cols: columns,
    };
    scratch::with(product.packed_len(), |packed| {
        pack::forward(tiles.columns(), shape, w, mode, packed);
        product.run(x, packed, y);
    });
}

/// `dx = dy ∗ᵀ w`.
pub(crate) fn backward_input(shape: &ConvShape, dy: &[f32], w: &[f32], mode: Mode, dx: &mut [f32]) {
    backward_input_on(Isa::detect(), shape, dy, w, mode, dx);
}

/// [`backward_input`] with the instructions of `isa`.
pub(super) fn backward_input_on(
    isa: Isa,
    shape: &ConvShape,
    dy: &[f32],
    w: &[f32],
    mode: Mode,
    dx: &mut [f32],
) {
    let &ConvShape { n, h, w: width, c, k, r, s, stride, pad } = shape;
    let (p, q) = (shape.p(), shape.q());
    let rows = Axis::backward(h, p, r, stride, pad);
    let cols = Axis::backward(width, q, s, stride, pad);
    assert!(dx.len() == shape.input_len() && dy.len() == shape.output_len());
    assert!(w.len() == shape.filter_len());
    let tiles = DenseTiles::of(isa);
    if few_channels::fits(shape) && !dx.is_empty() {
        return few_channels::backward_input(tiles, shape, dy, w, mode, dx);
    }
    let product =
        GatheredProduct { tiles, mode, n, input: [p, q, k], columns: c, bias: None, rows, cols };
    scratch::with(product.packed_len(), |packed| {
        pack::backward(tiles.columns(), shape, w, mode, packed);
        product.run(dy, packed, dx);
    });
}

/// `db[k] = Σ_rows dy[row, k]` for `dy` of rows of `db.len()`.
pub(crate) fn backward_bias(dy: &[f32], db: &mut [f32]) {
    const ROWS: usize = 256;
    let k = db.len();
    if k == 0 {
        return;
    }
    let partial: Vec<Vec<f32>> = dy
        .par_chunks(ROWS * k)
        .map(|rows| {
            let mut sum = vec![0.0f32; k];
            for row in rows.chunks_exact(k) {
                sum.iter_mut().zip(row).for_each(|(sum, &dy)| *sum += dy);
            }
            sum
        })
        .collect();
    let mut total = vec![0.0f64; k];
    for sum in &partial {
        total.iter_mut().zip(sum).for_each(|(total, &sum)| *total += f64::from(sum));
    }
    db.iter_mut().zip(&total).for_each(|(db, &total)| *db = total as f32);
}

/// One gathered product, see the top of this file.
struct GatheredProduct<'a> {
    tiles: &'static DenseTiles,
    mode: Mode,
    n: usize,
    /// Height, width and channels of what is read.
    input: [usize; 3],
    /// Channels of what is written.
    columns: usize,
    bias: Option<&'a [f32]>,
    rows: Axis,
    cols: Axis,
}

/// Pixels with the same taps, `rows.pixels × cols.pixels` of each image.
struct PixelClass {
    rows: Group,
    cols: Group,
    /// First tap (as `r · S + s`) of each run of `run` values of (tap, c) that lie together in the input.
    runs: Vec<Source>,
    run: usize,
}

/// Which entries of the groups' `taps` a run starts from.
struct Source {
    row: usize,
    col: usize,
    tap: usize,
}

/// Part of a run: `len` values from `offset` on, the first of which is value `step` of the class.
struct RunPart<'a> {
    run: &'a Source,
    offset: usize,
    step: usize,
    len: usize,
}

struct ProductTask {
    class: usize,
    rows: Range<usize>,
    panels: Range<usize>,
}

impl GatheredProduct<'_> {
    fn panels(&self) -> usize {
        self.columns.div_ceil(self.tiles.columns())
    }

    fn depth(&self) -> usize {
        self.rows.taps * self.cols.taps * self.input[2]
    }

    fn packed_len(&self) -> usize {
        self.panels() * self.tiles.columns() * self.depth()
    }

    fn run(&self, input: &[f32], packed: &[f32], out: &mut [f32]) {
        let classes = self.classes();
        let tasks = self.tasks(&classes);
        let out = Shared::new(out);
        tasks.par_iter().with_max_len(1).for_each(|task| {
            let class = &classes[task.class];
            scratch::with(task.rows.len() * ROW_STRIDE, |gathered| {
                self.task(class, task, input, packed, gathered, &out);
            });
        });
    }

    /// Exact classes, or one with holes where the exact ones have too few pixels to fill tiles.
    fn classes(&self) -> Vec<PixelClass> {
        let (rows, cols) = (self.rows.groups(), self.cols.groups());
        let tile = self.tiles.rows();
        let cost = |pixels: usize, taps: usize| {
            let tiles = pixels.div_ceil(tile);
            if tiles == 0 { 0 } else { tiles * (pixels / tiles).max(CHEAPEST_TILE) * taps.max(1) }
        };
        let exact: usize = rows
            .iter()
            .flat_map(|row| cols.iter().map(move |col| (row, col)))
            .map(|(row, col)| {
                cost(self.n * row.pixels.len() * col.pixels.len(), row.taps.len() * col.taps.len())
            })
            .sum();
        let whole = cost(self.n * self.rows.len * self.cols.len, self.rows.taps * self.cols.taps);
        if whole <= exact {
            return vec![self.class(self.rows.whole(), self.cols.whole())];
        }
        let mut classes: Vec<PixelClass> = rows
            .iter()
            .flat_map(|row| cols.iter().map(|col| self.class(row.clone(), col.clone())))
            .collect();
        // The large ones first, so that the last tasks to end are short.
        classes.sort_by_key(|class| {
            std::cmp::Reverse(class.rows.pixels.len() * class.cols.pixels.len())
        });
        classes
    }

    fn class(&self, rows: Group, cols: Group) -> PixelClass {
        let channels = self.input[2];
        let together = cols.is_contiguous();
        let per_row = if together { 1 } else { cols.taps.len() };
        let runs = (0..rows.taps.len())
            .flat_map(|row| (0..per_row).map(move |col| (row, col)))
            .map(|(row, col)| Source {
                row,
                col,
                tap: rows.taps[row] * self.cols.taps + cols.taps[col],
            })
            .collect();
        let run = if together { cols.taps.len() * channels } else { channels };
        PixelClass { rows, cols, runs, run }
    }

    fn tasks(&self, classes: &[PixelClass]) -> Vec<ProductTask> {
        let chunk = TILES * self.tiles.rows();
        let pixels =
            |class: &PixelClass| self.n * class.rows.pixels.len() * class.cols.pixels.len();
        let chunks: usize = classes.iter().map(|class| pixels(class).div_ceil(chunk)).sum();
        let panels = self.panels();
        let parts = TASKS.div_ceil(chunks.max(1)).min(panels.div_ceil(MIN_PANELS)).max(1);
        let mut tasks = Vec::new();
        for (index, class) in classes.iter().enumerate() {
            for rows in split(pixels(class), chunk) {
                for panels in split(panels, panels.div_ceil(parts)) {
                    tasks.push(ProductTask { class: index, rows: rows.clone(), panels });
                }
            }
        }
        tasks
    }

    fn task(
        &self,
        class: &PixelClass,
        task: &ProductTask,
        input: &[f32],
        packed: &[f32],
        gathered: &mut [f32],
        out: &Shared,
    ) {
        let places: Vec<usize> =
            task.rows.clone().map(|row| self.place(class, row) * self.columns).collect();
        let depth = class.runs.len() * class.run;
        let width = self.tiles.columns();
        let mut segments = Vec::new();
        // No tap at all still writes the bias.
        let blocks = split(depth.max(1), STEPS);
        for block in blocks {
            let steps = block.start.min(depth)..block.end.min(depth);
            self.gather(class, task.rows.clone(), steps.clone(), input, gathered);
            self.segments(class, steps.clone(), &mut segments);
            for panel in task.panels.clone() {
                let column = panel * width;
                let columns = (self.columns - column).min(width);
                let init = match self.bias {
                    _ if steps.start > 0 => InitialSums::Out,
                    Some(bias) => InitialSums::Bias(bias[column..column + columns].as_ptr()),
                    None => InitialSums::Zero,
                };
                let b = &packed[panel * width * self.depth()..][..width * self.depth()];
                for tile in split(task.rows.len(), self.tiles.rows()) {
                    let tile = DenseTile {
                        segments: &segments,
                        a: gathered[tile.start * ROW_STRIDE..].as_ptr(),
                        b: b.as_ptr(),
                        out: out.rest(column).ptr(),
                        rows: &places[tile],
                        columns,
                        init,
                    };
                    // SAFETY: the segments end within `STEPS` of a gathered row and within panel `b`; `places`
                    // are pixels of the output, and no other task has both these pixels and these columns.
                    unsafe { self.tiles.by_row(&tile) };
                }
            }
        }
    }

    /// Image, row group entry and column group entry of a row of the class.
    fn locate(class: &PixelClass, row: usize) -> (usize, usize, usize) {
        let (height, width) = (class.rows.pixels.len(), class.cols.pixels.len());
        (row / (height * width), row / width % height, row % width)
    }

    /// The pixel of the output that a row of the class is.
    fn place(&self, class: &PixelClass, row: usize) -> usize {
        let (n, i, j) = Self::locate(class, row);
        (n * self.rows.len + class.rows.pixels[i]) * self.cols.len + class.cols.pixels[j]
    }

    /// Copies the values `steps` of (run, offset) of these rows side by side.
    fn gather(
        &self,
        class: &PixelClass,
        rows: Range<usize>,
        steps: Range<usize>,
        input: &[f32],
        gathered: &mut [f32],
    ) {
        let [height, width, channels] = self.input;
        let (row_taps, col_taps) = (class.rows.taps.len(), class.cols.taps.len());
        let pieces: Vec<RunPart> = class.pieces(steps.clone()).collect();
        let (mut n, mut i, mut j) = Self::locate(class, rows.start);
        for gathered in gathered.chunks_exact_mut(ROW_STRIDE).take(rows.len()) {
            let ys = &class.rows.sources[i * row_taps..][..row_taps];
            let xs = &class.cols.sources[j * col_taps..][..col_taps];
            for piece in &pieces {
                let to = &mut gathered[piece.step - steps.start..][..piece.len];
                if let (Some(y), Some(x)) = (ys[piece.run.row], xs[piece.run.col]) {
                    let start = ((n * height + y) * width + x) * channels + piece.offset;
                    round::copy(self.mode, &input[start..start + piece.len], to);
                } else {
                    to.fill(0.0);
                }
            }
            j += 1;
            if j == class.cols.pixels.len() {
                (i, j) = (i + 1, 0);
            }
            if i == class.rows.pixels.len() {
                (n, i) = (n + 1, 0);
            }
        }
    }

    /// Where the values `steps` lie in a panel of the filter.
    fn segments(&self, class: &PixelClass, steps: Range<usize>, segments: &mut Vec<Segment>) {
        segments.clear();
        let width = self.tiles.columns();
        for piece in class.pieces(steps.clone()) {
            let b = (piece.run.tap * self.input[2] + piece.offset) * width;
            match segments.last_mut() {
                Some(last) if last.b + last.len * width == b => last.len += piece.len,
                _ => segments.push(Segment { a: piece.step - steps.start, b, len: piece.len }),
            }
        }
    }
}

impl PixelClass {
    /// The parts of runs that make up the values `steps`.
    fn pieces(&self, steps: Range<usize>) -> impl Iterator<Item = RunPart<'_>> {
        let mut step = steps.start;
        std::iter::from_fn(move || {
            let (run, offset) = (self.runs.get(step.checked_div(self.run)?)?, step % self.run);
            let len = (self.run - offset).min(steps.end - step);
            let piece = RunPart { run, offset, step, len };
            step += len;
            (len > 0).then_some(piece)
        })
    }
}

const _: () = assert!(MAX_ROWS <= 16);
