//! Two-dimensional convolution with an irregularly masked filter: only the kept weights are multiplied.

use super::conv2d::checked_shape;
use super::implicit_gemm::{ImplicitGemm, blocks, int};
use super::product::{Product, record, same_device};
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::sparse;
use crate::device::{Gpu, Launch};
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Mode, Result, Tape};
use std::sync::{Arc, Mutex, PoisonError};

/// Taps that an entry of the kernels' format can tell apart.
const MAX_TAPS: usize = 64;
/// What is wrong where a filter meets an input on another device.
const ELSEWHERE: &str = "sparse_conv2d: the filter was built on another device";

/// The positions of a filter's kept weights. They are built once for a mask, on the mask's device. The values are read from
/// the dense filter at every call, so that training can change them.
#[derive(Clone)]
pub struct SparseFilter {
    mask: Tensor,
    kept: usize,
    lists: Lists,
}

#[derive(Clone)]
enum Lists {
    /// The host's format depends on the stride: built at the first call with each.
    Cpu(Arc<Mutex<Vec<HostLists>>>),
    /// Kept elements of each filter, and of each input channel.
    Gpu(Arc<[Rows; 2]>),
}

struct HostLists {
    stride: usize,
    filter: Arc<sparse::KeptWeights>,
}

/// Compressed sparse rows of the mask, as `kernels/sparse_conv2d.cu` has them.
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
                let (channels, _) = Rows::build(gpu, mask, channel)?;
                (kept, Lists::Gpu(Arc::new([filters, channels])))
            }
        };
        Ok(Self { mask: mask.clone(), kept, lists })
    }

    /// Number of kept weights.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// The host's format for this stride.
    fn on_cpu(&self, shape: &ConvShape) -> Result<Arc<sparse::KeptWeights>> {
        let Lists::Cpu(built) = &self.lists else {
            return Err(Error::device("cpu", ELSEWHERE));
        };
        let mut built = built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lists) = built.iter().find(|lists| lists.stride == shape.stride) {
            return Ok(lists.filter.clone());
        }
        let filter = Arc::new(sparse::KeptWeights::new(shape, self.mask.cpu()?));
        built.push(HostLists { stride: shape.stride, filter: filter.clone() });
        Ok(filter)
    }

    /// The rows of the filters and of the channels.
    fn on_gpu(&self, gpu: &dyn Gpu) -> Result<&[Rows; 2]> {
        match &self.lists {
            Lists::Gpu(rows) => Ok(rows),
            Lists::Cpu(_) => Err(Error::device(gpu.name(), ELSEWHERE)),
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
    let shape =
        checked_shape("sparse_conv2d", x, (w, DType::F32), bias, stride, padding, channels)?;
    filter.mask.expect_shape("sparse_conv2d", "mask", w.shape())?;
    same_device("sparse_conv2d", "filter", x, &filter.mask)?;
    let sparse = Sparse { mode: tape.mode(), shape, filter: filter.clone() };
    let y = sparse.forward(x, w, bias)?;
    record(tape, sparse, [x, w], bias, &y);
    Ok(y)
}

/// A checked convolution with a masked filter.
struct Sparse {
    mode: Mode,
    shape: ConvShape,
    filter: SparseFilter,
}

impl Sparse {
    fn forward(&self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (mode, shape) = (self.mode, &self.shape);
        let mut y = x.empty_like(&[shape.n, shape.p(), shape.q(), shape.k], DType::F32)?;
        match x.on() {
            On::Cpu => {
                let filter = self.filter.on_cpu(shape)?;
                let bias = bias.map(Tensor::cpu).transpose()?;
                sparse::forward(&filter, shape, x.cpu()?, w.cpu()?, bias, mode, y.cpu_mut()?);
            }
            On::Gpu(gpu) => {
                let [filters, _] = self.filter.on_gpu(gpu)?;
                let product = PlaneProduct { gpu, mode, shape, transposed: false };
                product.run(filters, x, w, bias, &y)?;
            }
        }
        Ok(y)
    }
}

impl Product for Sparse {
    fn backward_input(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
        let (mode, shape) = (self.mode, &self.shape);
        let mut dx = dy.empty_like(&[shape.n, shape.h, shape.w, shape.c], DType::F32)?;
        match dy.on() {
            On::Cpu => {
                let filter = self.filter.on_cpu(shape)?;
                sparse::backward_input(&filter, shape, dy.cpu()?, w.cpu()?, mode, dx.cpu_mut()?);
            }
            On::Gpu(gpu) => {
                let [_, channels] = self.filter.on_gpu(gpu)?;
                let product = PlaneProduct { gpu, mode, shape, transposed: true };
                product.run(channels, dy, w, None, &dx)?;
            }
        }
        Ok(dx)
    }

    fn backward_weight(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (mode, shape) = (self.mode, &self.shape);
        let mut dw = dy.empty_like(&[shape.k, shape.r, shape.s, shape.c], DType::F32)?;
        match dy.on() {
            On::Cpu => {
                let filter = self.filter.on_cpu(shape)?;
                let (x, dy) = (x.cpu()?, dy.cpu()?);
                sparse::backward_weight(&filter, shape, x, dy, mode, dw.cpu_mut()?);
            }
            On::Gpu(gpu) => {
                let gemm = ImplicitGemm { gpu, mode, shape };
                gemm.backward_weight(x, None, dy, Some(&self.filter.mask), &dw)?;
            }
        }
        Ok(dw)
    }
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
        self.planes_back(&out, bias, y, n, to)
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

    /// Planes `[c, h, w, n]` as `[n, h, w, c]`, with the bias added.
    fn planes_back(
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
