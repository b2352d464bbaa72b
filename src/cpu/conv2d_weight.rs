//! Dense convolution, weight gradient: `dw[k, r, s, c] = Σ_{n, p, q} dy[n, p, q, k] · x[n, y(p, r), x(q, s), c]`.
//!
//! A task owns a block of filters × input channels and a range of images. It walks over its pixels in pieces
//! that fit into the cache: packs them as `[pixel, image]` panels, then adds their products to its block, tap by
//! tap, over those pixels only that the tap reaches. Ranges of images, made where there are too few blocks for
//! many cores, are summed in order.

use super::isa::Isa;
use super::kernel::{DenseTile, DenseTiles, InitialSums, STEP_STRIDE, Segment};
use super::round;
use super::scratch::{self, Shared};
use super::split::split;
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use rayon::prelude::*;
use std::ops::Range;

/// Filters and channels of a block.
const FILTERS: usize = 64;
const CHANNELS: usize = 64;
/// Pixels of a piece.
const PIXELS: usize = 512;
/// Tasks wanted, and the pixels that a task must have to be worth its own sums.
const TASKS: usize = 16;
const MIN_PIXELS: usize = 1024;

/// Gradient of the filter.
pub(crate) fn backward_weight(
    shape: &ConvShape,
    x: &[f32],
    dy: &[f32],
    mode: Mode,
    dw: &mut [f32],
) {
    backward_weight_on(Isa::detect(), shape, x, dy, mode, dw);
}

/// [`backward_weight`] with the instructions of `isa`.
pub(super) fn backward_weight_on(
    isa: Isa,
    shape: &ConvShape,
    x: &[f32],
    dy: &[f32],
    mode: Mode,
    dw: &mut [f32],
) {
    assert!(x.len() == shape.input_len() && dy.len() == shape.output_len());
    assert!(dw.len() == shape.filter_len());
    let pixels = shape.n * shape.p() * shape.q();
    if pixels == 0 || dw.is_empty() {
        dw.fill(0.0);
        return;
    }
    let gradient = Gradient { tiles: DenseTiles::of(isa), shape, mode, x, dy };
    let blocks = shape.k.div_ceil(FILTERS) * shape.c.div_ceil(CHANNELS);
    let parts = TASKS.div_ceil(blocks).min(pixels.div_ceil(MIN_PIXELS)).clamp(1, shape.n);
    let images: Vec<Range<usize>> = split(shape.n, shape.n.div_ceil(parts)).collect();
    if let [all] = images.as_slice() {
        return gradient.run(std::slice::from_ref(all), &mut [dw]);
    }
    scratch::with(images.len() * dw.len(), |sums| {
        let mut sums: Vec<&mut [f32]> = sums.chunks_exact_mut(dw.len()).collect();
        gradient.run(&images, &mut sums);
        add_up(&sums, dw);
    });
}

/// `out = Σ sums`, in order.
fn add_up(sums: &[&mut [f32]], out: &mut [f32]) {
    const CHUNK: usize = 4096;
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
        let range = chunk * CHUNK..chunk * CHUNK + out.len();
        out.copy_from_slice(&sums[0][range.clone()]);
        for sum in &sums[1..] {
            out.iter_mut().zip(&sum[range.clone()]).for_each(|(out, &sum)| *out += sum);
        }
    });
}

struct Gradient<'a> {
    tiles: &'static DenseTiles,
    shape: &'a ConvShape,
    mode: Mode,
    x: &'a [f32],
    dy: &'a [f32],
}

/// Images and output rows that are packed together: whole images, or rows of one.
struct Piece {
    images: Range<usize>,
    rows: Range<usize>,
}

/// One block of the result.
struct FilterBlock {
    filters: Range<usize>,
    channels: Range<usize>,
}

impl Gradient<'_> {
    /// Writes the sum over `images[i]` to `sums[i]`.
    fn run(&self, images: &[Range<usize>], sums: &mut [&mut [f32]]) {
        let sums: Vec<Shared> = sums.iter_mut().map(|sum| Shared::new(sum)).collect();
        let mut tasks = Vec::new();
        for (images, sum) in images.iter().zip(&sums) {
            for filters in split(self.shape.k, FILTERS) {
                for channels in split(self.shape.c, CHANNELS) {
                    tasks.push((images, FilterBlock { filters: filters.clone(), channels }, sum));
                }
            }
        }
        tasks.par_iter().with_max_len(1).for_each(|(images, block, sum)| {
            for (index, piece) in self.pieces(images).into_iter().enumerate() {
                self.piece(block, &piece, index == 0, sum);
            }
        });
    }

    fn pieces(&self, images: &Range<usize>) -> Vec<Piece> {
        let (p, q) = (self.shape.p(), self.shape.q());
        if p * q * 2 <= PIXELS {
            let together = PIXELS / (p * q);
            let pieces = split(images.len(), together).map(|part| Piece {
                images: images.start + part.start..images.start + part.end,
                rows: 0..p,
            });
            return pieces.collect();
        }
        let pieces = images.clone().flat_map(|image| {
            split(p, (PIXELS / q).max(1)).map(move |rows| Piece { images: image..image + 1, rows })
        });
        pieces.collect()
    }

    /// The input rows that a piece reads.
    fn input_rows(&self, piece: &Piece) -> Range<usize> {
        let &ConvShape { h, r, stride, pad, .. } = self.shape;
        let first = (piece.rows.start * stride).saturating_sub(pad).min(h);
        let last = ((piece.rows.end - 1) * stride + r).saturating_sub(pad).min(h);
        first..last.max(first)
    }

    fn piece(&self, block: &FilterBlock, piece: &Piece, first: bool, sum: &Shared) {
        let (shape, width) = (self.shape, self.tiles.columns());
        let filters: Vec<_> = split(block.filters.len(), self.tiles.rows()).collect();
        let channels = block.channels.len().div_ceil(width);
        let input_rows = self.input_rows(piece);
        let pixels = piece.images.len() * piece.rows.len() * shape.q();
        let inputs = piece.images.len() * input_rows.len() * shape.w;
        let (a_len, b_len) = (pixels * STEP_STRIDE, inputs * width);
        scratch::with(filters.len() * a_len + channels * b_len, |memory| {
            let (a, b) = memory.split_at_mut(filters.len() * a_len);
            for (panel, a) in filters.iter().zip(a.chunks_exact_mut(a_len)) {
                let first = block.filters.start + panel.start;
                self.pack_dy(piece, first..first + panel.len(), a);
            }
            for (panel, b) in b.chunks_exact_mut(b_len.max(1)).enumerate() {
                let first = block.channels.start + panel * width;
                self.pack_x(piece, &input_rows, first..(first + width).min(block.channels.end), b);
            }
            let mut segments = Vec::new();
            for tap in 0..shape.r * shape.s {
                self.segments(piece, &input_rows, tap, &mut segments);
                for panel in 0..channels {
                    let channel = block.channels.start + panel * width;
                    let columns = (block.channels.end - channel).min(width);
                    for (filters, a) in filters.iter().zip(a.chunks_exact(a_len)) {
                        let place = |k| {
                            ((block.filters.start + k) * shape.r * shape.s + tap) * shape.c
                                + channel
                        };
                        let rows: Vec<usize> = filters.clone().map(place).collect();
                        let tile = DenseTile {
                            segments: &segments,
                            a: a.as_ptr(),
                            b: b[panel * b_len..].as_ptr(),
                            out: sum.ptr(),
                            rows: &rows,
                            columns,
                            init: if first { InitialSums::Zero } else { InitialSums::Out },
                        };
                        // SAFETY: the segments lie within the packed pixels of both panels; the rows are filters
                        // and channels of this block, which no other task writes.
                        unsafe { self.tiles.by_step(&tile) };
                    }
                }
            }
        });
    }

    /// `a[(row, q, image)][i] = dy[image, row, q, filters[i]]`.
    fn pack_dy(&self, piece: &Piece, filters: Range<usize>, a: &mut [f32]) {
        let (shape, images) = (self.shape, piece.images.len());
        let (p, q) = (shape.p(), shape.q());
        for image in 0..images {
            for (row, out_row) in piece.rows.clone().enumerate() {
                let start = ((piece.images.start + image) * p + out_row) * q * shape.k;
                for (column, dy) in
                    self.dy[start..start + q * shape.k].chunks_exact(shape.k).enumerate()
                {
                    let step = (row * q + column) * images + image;
                    let to = &mut a[step * STEP_STRIDE..][..filters.len()];
                    round::copy(self.mode, &dy[filters.clone()], to);
                }
            }
        }
    }

    /// `b[(row, phase, column, image)][j] = x[image, row, column · stride + phase, channels[j]]`: what one tap
    /// reads for successive outputs lies side by side.
    fn pack_x(&self, piece: &Piece, rows: &Range<usize>, channels: Range<usize>, b: &mut [f32]) {
        let (shape, images, width) = (self.shape, piece.images.len(), self.tiles.columns());
        for image in 0..images {
            for (row, in_row) in rows.clone().enumerate() {
                if !self.is_read(in_row, shape.r) {
                    continue;
                }
                let start = ((piece.images.start + image) * shape.h + in_row) * shape.w * shape.c;
                let line = &self.x[start..start + shape.w * shape.c];
                for (column, x) in line.chunks_exact(shape.c).enumerate() {
                    if !self.is_read(column, shape.s) {
                        continue;
                    }
                    let step = (row * shape.w + self.column(column)) * images + image;
                    let to = &mut b[step * width..][..width];
                    round::copy(self.mode, &x[channels.clone()], &mut to[..channels.len()]);
                    to[channels.len()..].fill(0.0);
                }
            }
        }
    }

    /// Whether one of the `taps` of its axis reads an input pixel; not where the stride is the larger.
    fn is_read(&self, pixel: usize, taps: usize) -> bool {
        (pixel + self.shape.pad) % self.shape.stride < taps
    }

    /// Where an input column lies in its packed row.
    fn column(&self, x: usize) -> usize {
        let &ConvShape { w, stride, .. } = self.shape;
        let (phase, index) = (x % stride, x / stride);
        // Columns of the phases before: those `x < w` with `x % stride < phase`.
        phase * (w / stride) + phase.min(w % stride) + index
    }

    /// The pixels of the piece that `tap` reaches.
    fn segments(
        &self,
        piece: &Piece,
        input_rows: &Range<usize>,
        tap: usize,
        segments: &mut Vec<Segment>,
    ) {
        let &ConvShape { w, s, stride, pad, .. } = self.shape;
        let (images, q, width) = (piece.images.len(), self.shape.q(), self.tiles.columns());
        let (r, s) = (tap / s, tap % s);
        segments.clear();
        // Outputs with 0 ≤ q · stride + s − pad < w.
        let first = pad.saturating_sub(s).div_ceil(stride).min(q);
        let last = (w + pad).saturating_sub(s).div_ceil(stride).min(q);
        if first >= last {
            return;
        }
        for (row, out_row) in piece.rows.clone().enumerate() {
            let Some(y) =
                (out_row * stride + r).checked_sub(pad).filter(|y| input_rows.contains(y))
            else {
                continue;
            };
            let column = self.column(first * stride + s - pad);
            let a = (row * q + first) * images * STEP_STRIDE;
            let b = ((y - input_rows.start) * w + column) * images * width;
            let len = (last - first) * images;
            match segments.last_mut() {
                Some(last)
                    if (last.a + last.len * STEP_STRIDE, last.b + last.len * width) == (a, b) =>
                {
                    last.len += len;
                }
                _ => segments.push(Segment { a, b, len }),
            }
        }
    }
}
