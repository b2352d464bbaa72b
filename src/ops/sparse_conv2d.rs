//! Two-dimensional convolution with an irregularly masked filter: only the kept weights are multiplied.

use super::conv_shape::ConvShape;
use super::conv2d::{backward_bias, checked_shape, same_device};
use super::cpu::sparse;
use super::implicit_gemm::{ImplicitGemm, blocks, int};
use crate::device::{Gpu, Launch};
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Mode, Result, Tape};
use std::sync::{Arc, Mutex, PoisonError};

/// Taps that an entry of the kernels' format can tell apart.
const MAX_TAPS: usize = 64;

/// Where the kept weights of a filter are. Built once for a mask, on the mask's device; the values are read from
/// the dense filter at every call, so that training goes on underneath.
#[derive(Clone)]
pub struct SparseFilter {
    mask: Tensor,
    kept: usize,
    lists: Lists,
}

#[derive(Clone)]
enum Lists {
    /// The host's format depends on the stride: built at the first call with each.
    Cpu(Arc<Mutex<Vec<(usize, Arc<sparse::SparseFilter>)>>>),
    /// Kept elements of each filter and of each input channel.
    Gpu { filters: Rows, channels: Rows },
}

/// Compressed sparse rows of the mask, as `kernels/sparse_conv2d.cu` has them.
#[derive(Clone)]
struct Rows {
    layout: RowLayout,
    offsets: Tensor,
    columns: Tensor,
}

/// Element `column` of a row stands at `row · row_stride + column · step` in the filter.
#[derive(Clone, Copy)]
struct RowLayout {
    rows: usize,
    row_stride: usize,
    step: usize,
    len: usize,
    /// Planes that are read, where they count fastest in a column; 0 where the taps do.
    planes: usize,
}

impl SparseFilter {
    /// The format of the filter `w` where `mask` is 1.
    ///
    /// Shapes: w and mask `[K, R, S, C]`, mask u8 of 0 and 1.
    /// Errors: [`crate::ErrorKind::Shape`] where they differ or a filter has more than 64 taps.
    pub fn build(w: &Tensor, mask: &Tensor) -> Result<Self> {
        const OP: &str = "sparse filter";
        let [k, r, s, c] = w.dims4(OP, "w")?;
        mask.expect_shape(OP, "mask", w.shape())?;
        mask.expect_dtype(OP, DType::U8)?;
        if r * s > MAX_TAPS {
            return Err(Error::shape(OP, "w", format!("of at most {MAX_TAPS} taps"), w.shape()));
        }
        let (kept, lists) = match mask.on() {
            On::Cpu => {
                let kept = mask.cpu::<u8>()?.iter().filter(|&&m| m != 0).count();
                (kept, Lists::Cpu(Arc::default()))
            }
            On::Gpu(gpu) => {
                let filter = RowLayout {
                    rows: k,
                    row_stride: r * s * c,
                    step: 1,
                    len: r * s * c,
                    planes: c,
                };
                let channel =
                    RowLayout { rows: c, row_stride: 1, step: c, len: k * r * s, planes: 0 };
                let (filters, kept) = Rows::build(gpu, mask, filter)?;
                (kept, Lists::Gpu { filters, channels: Rows::build(gpu, mask, channel)?.0 })
            }
        };
        Ok(Self { mask: mask.clone(), kept, lists })
    }

    /// Number of kept weights.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// The host's format for this stride.
    fn on_cpu(&self, shape: &ConvShape) -> Result<Arc<sparse::SparseFilter>> {
        let Lists::Cpu(built) = &self.lists else {
            return Err(Error::device(
                "cpu",
                "sparse_conv2d: the filter was built on another device",
            ));
        };
        let mut built = built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, filter)) = built.iter().find(|(stride, _)| *stride == shape.stride) {
            return Ok(filter.clone());
        }
        let filter = Arc::new(sparse::SparseFilter::new(shape, self.mask.cpu()?));
        built.push((shape.stride, filter.clone()));
        Ok(filter)
    }

    /// The rows of the filters, or of the channels.
    fn on_gpu(&self, gpu: &dyn Gpu, channels: bool) -> Result<&Rows> {
        match &self.lists {
            Lists::Gpu { filters, channels: rows } => Ok(if channels { rows } else { filters }),
            Lists::Cpu(_) => Err(Error::device(
                gpu.name(),
                "sparse_conv2d: the filter was built on another device",
            )),
        }
    }
}

impl Rows {
    /// The rows and the number of their elements: counted, summed and listed by kernels.
    fn build(gpu: &dyn Gpu, mask: &Tensor, layout: RowLayout) -> Result<(Self, usize)> {
        let RowLayout { rows, row_stride, step, len, .. } = layout;
        let layout_args = |launch: Launch| -> Result<Launch> {
            let launch = launch.grid(blocks(rows, 8)?, 1, 1).arg(&int(rows)?);
            Ok(launch.arg(&int(row_stride)?).arg(&int(step)?).arg(&int(len)?))
        };
        let counts = mask.empty_like(&[rows], DType::I32)?;
        let offsets = mask.empty_like(&[rows + 1], DType::I32)?;
        layout_args(Launch::new("sparse_conv2d_count").arg(mask).arg(&counts))?.run(gpu)?;
        let scan = Launch::new("sparse_conv2d_scan").arg(&counts).arg(&offsets);
        scan.arg(&int(rows)?).run(gpu)?;
        let kept = offsets.to_vec::<i32>()?[rows] as usize;
        let columns = mask.empty_like(&[kept], DType::I32)?;
        let fill = Launch::new("sparse_conv2d_fill").arg(mask).arg(&offsets).arg(&columns);
        layout_args(fill)?.run(gpu)?;
        Ok((Self { layout, offsets, columns }, kept))
    }

    /// The kept weights as the kernels read them, rounded to the mode: `{plane · 64 + tap, value}`.
    fn entries(&self, gpu: &dyn Gpu, mode: Mode, w: &Tensor, taps: usize) -> Result<Tensor> {
        let RowLayout { rows, row_stride, step, planes, .. } = self.layout;
        let entries = w.empty_like(&[self.columns.len(), 2], DType::F32)?;
        Launch::new("sparse_conv2d_pack_entries")
            .grid(blocks(rows, 8)?, 1, 1)
            .arg(w)
            .arg(&self.offsets)
            .arg(&self.columns)
            .arg(&entries)
            .arg(&int(rows)?)
            .arg(&int(row_stride)?)
            .arg(&int(step)?)
            .arg(&int(planes)?)
            .arg(&int(taps)?)
            .arg(&(mode as i32))
            .run(gpu)?;
        Ok(entries)
    }
}

/// Convolution with the kept weights of `w`: `y = x ∗ (w ⊙ mask) + bias`, as [`super::conv2d()`] otherwise.
///
/// Shapes: x `[N, H, W, C]`, w `[K, R, S, C]`, the filter built for that shape, bias `[K]`, y `[N, P, Q, K]`.
/// Gradients: of x over the kept weights; of w where the mask is 1, zeros elsewhere; of bias. Only those asked for.
/// Errors: as [`super::conv2d()`]; [`crate::ErrorKind::Shape`] where the filter was built for another shape.
/// Source: direct sparse convolution: Park et al. 2017.
pub fn sparse_conv2d(
    tape: &mut Tape,
    x: &Tensor,
    filter: &SparseFilter,
    w: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let channels = x.dims4("sparse_conv2d", "x")?[3];
    let shape = checked_shape("sparse_conv2d", x, w, bias, stride, padding, channels)?;
    filter.mask.expect_shape("sparse_conv2d", "mask", w.shape())?;
    same_device("sparse_conv2d", "filter", x, &filter.mask)?;
    let mode = tape.mode();
    let y = forward(mode, &shape, filter, x, w, bias)?;
    let (x_id, w_id, bias_id) = (x.id(), w.id(), bias.map(Tensor::id));
    let saved_x = tape.tracks(w).then(|| x.clone());
    let saved_w = tape.tracks(x).then(|| w.clone());
    let filter = filter.clone();
    let inputs: Vec<_> = [Some(x), Some(w), bias].into_iter().flatten().collect();
    tape.push(&inputs, &y, move |dy, gradients| {
        if let Some(w) = &saved_w {
            gradients.add(x_id, backward_input(mode, &shape, &filter, dy, w)?)?;
        }
        if let Some(x) = &saved_x {
            gradients.add(w_id, backward_weight(mode, &shape, &filter, x, dy)?)?;
        }
        match bias_id.filter(|&id| gradients.wants(id)) {
            Some(id) => gradients.add(id, backward_bias(dy)?),
            None => Ok(()),
        }
    });
    Ok(y)
}

fn forward(
    mode: Mode,
    shape: &ConvShape,
    filter: &SparseFilter,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let mut y = x.empty_like(&[shape.n, shape.p(), shape.q(), shape.k], DType::F32)?;
    match x.on() {
        On::Cpu => {
            let filter = filter.on_cpu(shape)?;
            let bias = bias.map(Tensor::cpu).transpose()?;
            sparse::forward(&filter, shape, x.cpu()?, w.cpu()?, bias, mode, y.cpu_mut()?);
        }
        On::Gpu(gpu) => {
            let rows = filter.on_gpu(gpu, false)?;
            let product = PlaneProduct { gpu, mode, shape, transposed: false };
            product.run(rows, x, w, bias, &y)?;
        }
    }
    Ok(y)
}

fn backward_input(
    mode: Mode,
    shape: &ConvShape,
    filter: &SparseFilter,
    dy: &Tensor,
    w: &Tensor,
) -> Result<Tensor> {
    let mut dx = dy.empty_like(&[shape.n, shape.h, shape.w, shape.c], DType::F32)?;
    match dy.on() {
        On::Cpu => {
            let filter = filter.on_cpu(shape)?;
            sparse::backward_input(&filter, shape, dy.cpu()?, w.cpu()?, mode, dx.cpu_mut()?);
        }
        On::Gpu(gpu) => {
            let rows = filter.on_gpu(gpu, true)?;
            PlaneProduct { gpu, mode, shape, transposed: true }.run(rows, dy, w, None, &dx)?;
        }
    }
    Ok(dx)
}

fn backward_weight(
    mode: Mode,
    shape: &ConvShape,
    filter: &SparseFilter,
    x: &Tensor,
    dy: &Tensor,
) -> Result<Tensor> {
    let mut dw = dy.empty_like(&[shape.k, shape.r, shape.s, shape.c], DType::F32)?;
    match dy.on() {
        On::Cpu => {
            let filter = filter.on_cpu(shape)?;
            sparse::backward_weight(&filter, shape, x.cpu()?, dy.cpu()?, mode, dw.cpu_mut()?);
        }
        On::Gpu(gpu) => {
            let gemm = ImplicitGemm { gpu, mode, shape };
            gemm.backward_weight(x, None, dy, Some(&filter.mask), &dw)?;
        }
    }
    Ok(dw)
}

/// The forward pass or the input gradient over planes.
struct PlaneProduct<'a> {
    gpu: &'a dyn Gpu,
    mode: Mode,
    shape: &'a ConvShape,
    transposed: bool,
}

impl PlaneProduct<'_> {
    /// `y` from `x`, or dx from dy.
    fn run(
        &self,
        rows: &Rows,
        x: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
        y: &Tensor,
    ) -> Result<()> {
        if y.is_empty() {
            return Ok(());
        }
        let ConvShape { n, h, w: width, c, k, r, s, stride, pad } = *self.shape;
        let (image, filtered) = ([h, width, c], [self.shape.p(), self.shape.q(), k]);
        let (name, [from, to]) = match self.transposed {
            false => ("sparse_conv2d_forward_f32", [image, filtered]),
            true => ("sparse_conv2d_backward_input_f32", [filtered, image]),
        };
        let entries = rows.entries(self.gpu, self.mode, w, r * s)?;
        let planes = self.to_planes(x, n, from)?;
        let out = y.empty_like(y.shape(), DType::F32)?;
        let mut launch = Launch::new(name)
            .grid(blocks(to[0] * to[1] * n, 128)?, blocks(to[2], 8)?, 1)
            .arg(&planes)
            .arg(&rows.offsets)
            .arg(&entries)
            .arg(&out)
            .arg(&int(to[2])?);
        for value in [n, from[0], from[1], to[0], to[1], r, s, stride, pad] {
            launch = launch.arg(&int(value)?);
        }
        launch.run(self.gpu)?;
        self.from_planes(&out, bias, y, n, to)
    }

    /// `[n, h, w, c]` as planes `[c, h, w, n]`, rounded to the mode.
    fn to_planes(&self, x: &Tensor, n: usize, [h, w, c]: [usize; 3]) -> Result<Tensor> {
        int(x.len())?;
        let planes = x.empty_like(&[c, h, w, n], DType::F32)?;
        if !x.is_empty() {
            Launch::new("sparse_conv2d_to_planes")
                .grid(blocks(n * h * w, 32)?, blocks(c, 32)?, 1)
                .block(32, 8, 1)
                .arg(x)
                .arg(&planes)
                .arg(&int(n)?)
                .arg(&int(h * w)?)
                .arg(&int(c)?)
                .arg(&(self.mode as i32))
                .run(self.gpu)?;
        }
        Ok(planes)
    }

    /// The way back, with the bias added.
    fn from_planes(
        &self,
        planes: &Tensor,
        bias: Option<&Tensor>,
        y: &Tensor,
        n: usize,
        [h, w, c]: [usize; 3],
    ) -> Result<()> {
        Launch::new("sparse_conv2d_from_planes")
            .grid(blocks(n * h * w, 32)?, blocks(c, 32)?, 1)
            .block(32, 8, 1)
            .arg(planes)
            .arg(&bias)
            .arg(y)
            .arg(&int(n)?)
            .arg(&int(h * w)?)
            .arg(&int(c)?)
            .run(self.gpu)
    }
}
