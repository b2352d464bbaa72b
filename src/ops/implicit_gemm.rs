//! Launches of the matrix-product kernels: `kernels/conv2d.cu`, `kernels/gather_conv2d.cu`.
//!
//! The kernels read operands in rows of whole 16-byte chunks: 8 bf16 or 4 f32 channels. [`Packed`] are rows
//! that were cast or padded for it; f32 rows that fit already are read where they are.

use crate::cpu::conv_shape::ConvShape;
use crate::device::{Arg, Gpu, KernelArg, Launch};
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Mode, Result};

/// Output rows and columns of a block, as in `kernels/common/implicit_gemm.cuh`.
pub(super) const ROWS: usize = 128;
pub(super) const COLUMNS: usize = 64;
/// Filters and filter columns of a block, as in `kernels/common/implicit_gemm_weight.cuh`.
const WEIGHT_ROWS: usize = 64;
const WEIGHT_COLUMNS: usize = 128;
/// Threads of both.
pub(super) const THREADS: u32 = 128;
/// Number of thread blocks that a weight gradient is split into: two for each multiprocessor of a large GPU. The number is a
/// constant, so that the order of the sums, and with it the bits, is the same on every GPU.
const SPLIT_BLOCKS: usize = 256;
/// Steps of the sum over pixels that a split has at least.
const SPLIT_STEPS: usize = 8;

/// A convolution whose operands are checked and on `gpu`.
pub(super) struct ImplicitGemm<'a> {
    pub(super) gpu: &'a dyn Gpu,
    pub(super) mode: Mode,
    pub(super) shape: &'a ConvShape,
}

impl ImplicitGemm<'_> {
    /// `y = x ∗ w + bias`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
        y: &Tensor,
    ) -> Result<()> {
        let ConvShape { n, h, w: width, c, .. } = *self.shape;
        let x = pack_rows(self.gpu, self.mode, x, n * h * width, c, None)?;
        let name = ["conv2d_forward_f32", "conv2d_forward_tf32", "conv2d_forward_bf16"];
        let launch = Launch::new(name[self.mode as usize]).arg(&x);
        self.run_forward(launch, x.channels, w, bias, y)
    }

    /// [`Self::forward`] over the input channels `channels` of the wider `x`, gathered while they are loaded.
    pub(super) fn gather_forward(
        &self,
        x: &Tensor,
        channels: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
        y: &Tensor,
    ) -> Result<()> {
        let name = [
            "gather_conv2d_forward_f32",
            "gather_conv2d_forward_tf32",
            "gather_conv2d_forward_bf16",
        ];
        let launch = Launch::new(name[self.mode as usize])
            .arg(x)
            .arg(channels)
            .arg(&int(x.shape()[3])?)
            .arg(&int(self.shape.c)?);
        self.run_forward(launch, self.mode.storage().padded(self.shape.c), w, bias, y)
    }

    /// Everything behind the input's own arguments; the packed rows of the input have `c` channels.
    fn run_forward(
        &self,
        launch: Launch,
        c: usize,
        w: &Tensor,
        bias: Option<&Tensor>,
        y: &Tensor,
    ) -> Result<()> {
        let shape = self.shape;
        let filter_rows = shape.k * shape.r * shape.s;
        let filter = pack_rows(self.gpu, self.mode, w, filter_rows, shape.c, None)?;
        let launch = launch.arg(&filter).arg(&bias).arg(y);
        let rows = shape.n * shape.p() * shape.q();
        let geometry = [shape.h, shape.w, c, shape.p(), shape.q(), shape.k];
        self.tiles(launch.arg(&int(rows)?), [rows, shape.k, 1], geometry)
    }

    /// `dx = dy ∗ᵀ w`. With `channels`, column j of the product goes to channel `channels[j]` of the wider `dx`.
    pub(super) fn backward_input(
        &self,
        dy: &Tensor,
        w: &Tensor,
        channels: Option<&Tensor>,
        dx: &Tensor,
    ) -> Result<()> {
        let shape = self.shape;
        let (p, q) = (shape.p(), shape.q());
        let dy = pack_rows(self.gpu, self.mode, dy, shape.n * p * q, shape.k, None)?;
        let filter =
            pack_transposed(self.gpu, self.mode, w, [shape.k, shape.r * shape.s, shape.c])?;
        let name = [
            "conv2d_backward_input_f32",
            "conv2d_backward_input_tf32",
            "conv2d_backward_input_bf16",
        ];
        let launch = Launch::new(name[self.mode as usize])
            .arg(&dy)
            .arg(&filter)
            .arg(&channels)
            .arg(dx)
            .arg(&int(dx.shape()[3])?);
        let geometry = [p, q, dy.channels, shape.h, shape.w, shape.c];
        // The pixels of each phase modulo the stride are a product of their own.
        let phase = |extent: usize| extent.div_ceil(shape.stride);
        let rows = shape.n * phase(shape.h) * phase(shape.w);
        self.tiles(launch, [rows, shape.c, shape.stride * shape.stride], geometry)
    }

    /// One launch over all tiles of `products` products of `rows` × `columns`; `geometry` is input height, width
    /// and channels, output height, width and channels.
    fn tiles(
        &self,
        launch: Launch,
        [rows, columns, products]: [usize; 3],
        geometry: [usize; 6],
    ) -> Result<()> {
        if rows == 0 || columns == 0 {
            return Ok(());
        }
        let ConvShape { n, r, s, stride, pad, .. } = *self.shape;
        let mut launch = launch
            .grid(blocks(rows, ROWS)?, blocks(columns, COLUMNS)?, blocks(products, 1)?)
            .block(THREADS, 1, 1)
            .arg(&int(n)?);
        for value in geometry.into_iter().chain([r, s, stride, pad]) {
            launch = launch.arg(&int(value)?);
        }
        launch.run(self.gpu)
    }

    /// `dw = dy ∗ x`, over the input channels `channels` of a wider `x` where given; with `mask`, the
    /// gradient is computed for all weights and stored where the mask is 1, zeros elsewhere.
    pub(super) fn backward_weight(
        &self,
        x: &Tensor,
        channels: Option<&Tensor>,
        dy: &Tensor,
        mask: Option<&Tensor>,
        dw: &Tensor,
    ) -> Result<()> {
        let ConvShape { n, h, w, c, k, r, s, stride, pad } = *self.shape;
        let (p, q) = (self.shape.p(), self.shape.q());
        let x = pack_rows(self.gpu, self.mode, x, n * h * w, c, channels)?;
        let dy = pack_rows(self.gpu, self.mode, dy, n * p * q, k, None)?;
        let name = [
            "conv2d_backward_weight_f32",
            "conv2d_backward_weight_tf32",
            "conv2d_backward_weight_bf16",
        ];
        let geometry = [n, h, w, x.channels, c, p, q, dy.channels, k, r, s, stride, pad];
        let launch = Launch::new(name[self.mode as usize]).arg(&dy).arg(&x);
        let product = WeightProduct { pixels: n * p * q, rows: k, columns: r * s * x.channels };
        product.run(self.gpu, self.mode, launch, &geometry, mask, dw)
    }
}

/// `dw[rows, columns] = Σ_pixels`, cut into splits whose results a second kernel adds in order.
pub(super) struct WeightProduct {
    pub(super) pixels: usize,
    pub(super) rows: usize,
    /// Columns of the packed rows.
    pub(super) columns: usize,
}

impl WeightProduct {
    /// Launches with the arguments `(.., partials, steps per split, geometry..)` and adds the splits up.
    pub(super) fn run(
        &self,
        gpu: &dyn Gpu,
        mode: Mode,
        mut launch: Launch,
        geometry: &[usize],
        mask: Option<&Tensor>,
        dw: &Tensor,
    ) -> Result<()> {
        if dw.is_empty() {
            return Ok(());
        }
        let steps = self.pixels.div_ceil(if mode == Mode::Bf16 { 32 } else { 16 });
        let tiles = self.rows.div_ceil(WEIGHT_ROWS) * self.columns.div_ceil(WEIGHT_COLUMNS);
        let wanted = SPLIT_BLOCKS.div_ceil(tiles).min(steps.div_ceil(SPLIT_STEPS)).max(1);
        let steps_per_split = steps.div_ceil(wanted);
        let splits = steps.div_ceil(steps_per_split.max(1)).max(1);
        let partials = if splits == 1 && mask.is_none() {
            dw.clone()
        } else {
            dw.empty_like(&[splits, dw.len()], DType::F32)?
        };
        launch = launch
            .grid(
                blocks(self.columns, WEIGHT_COLUMNS)?,
                blocks(self.rows, WEIGHT_ROWS)?,
                blocks(splits, 1)?,
            )
            .block(THREADS, 1, 1)
            .arg(&partials)
            .arg(&int(steps_per_split)?);
        for &value in geometry {
            launch = launch.arg(&int(value)?);
        }
        launch.run(gpu)?;
        if splits > 1 || mask.is_some() {
            sum_partials(gpu, &partials, mask, splits, dw)?;
        }
        Ok(())
    }
}

/// `out = mask ⊙ Σ_i partials[i]`, i ascending.
fn sum_partials(
    gpu: &dyn Gpu,
    partials: &Tensor,
    mask: Option<&Tensor>,
    count: usize,
    out: &Tensor,
) -> Result<()> {
    Launch::new("conv2d_sum_partials_f32")
        .elements(out.len())
        .arg(partials)
        .arg(&mask)
        .arg(out)
        .arg(&int(count)?)
        .arg(&(out.len() as i64))
        .run(gpu)
}

/// `db[k] = Σ_rows dy[row, k]`.
pub(super) fn backward_bias(gpu: &dyn Gpu, dy: &Tensor, db: &Tensor) -> Result<()> {
    /// Rows that one block adds.
    const ROWS: usize = 512;
    if db.is_empty() {
        return Ok(());
    }
    let rows = dy.len() / db.len();
    let count = rows.div_ceil(ROWS).max(1);
    let partials = db.empty_like(&[count, db.len()], DType::F32)?;
    Launch::new("conv2d_backward_bias_f32")
        .grid(blocks(count, 1)?, blocks(db.len(), 32)?, 1)
        .block(32, 8, 1)
        .arg(dy)
        .arg(&partials)
        .arg(&(rows as i64))
        .arg(&int(db.len())?)
        .arg(&int(ROWS)?)
        .run(gpu)?;
    sum_partials(gpu, &partials, None, count, db)
}

/// Rows of whole 16-byte chunks.
pub(super) struct Packed {
    elements: Tensor,
    /// Channels of a row, with the padding.
    pub(super) channels: usize,
}

impl KernelArg for Packed {
    fn arg(&self) -> Arg {
        self.elements.arg()
    }
}

/// The type in which a dense convolution in `mode` reads the filter `w` as it lies, without a pass before it.
pub fn operand_type(mode: Mode, w: &Tensor) -> DType {
    let whole = w.shape().last().is_some_and(|&c| c % mode.storage().padded(1) == 0);
    if matches!(w.on(), On::Gpu(_)) && whole { mode.storage() } else { DType::F32 }
}

/// The filter `w` in its [`operand_type`], for passes that read it many times: each would round it for itself.
pub fn operand(mode: Mode, w: &Tensor) -> Result<Tensor> {
    let c = w.shape().last().copied().unwrap_or(0);
    match w.on() {
        On::Gpu(gpu) if w.dtype() == DType::F32 && operand_type(mode, w) != DType::F32 => {
            pack_rows(gpu, mode, w, w.len() / c.max(1), c, None)?.elements.reshape(w.shape())
        }
        _ => Ok(w.clone()),
    }
}

/// The `c` channels `channels`, or all of them, of each of `rows` rows of `x`.
pub(super) fn pack_rows(
    gpu: &dyn Gpu,
    mode: Mode,
    x: &Tensor,
    rows: usize,
    c: usize,
    channels: Option<&Tensor>,
) -> Result<Packed> {
    let to = mode.storage().padded(c);
    if x.dtype() == mode.storage() && to == c && channels.is_none() {
        return Ok(Packed { elements: x.clone(), channels: c });
    }
    let elements = x.empty_like(&[rows, to], mode.storage())?;
    let from = if channels.is_some() { x.shape()[x.shape().len() - 1] } else { c };
    if !elements.is_empty() {
        let name = ["conv2d_pack_rows_f32", "conv2d_pack_rows_f32", "conv2d_pack_rows_bf16"];
        Launch::new(name[mode as usize])
            .elements(rows * to / mode.storage().padded(1))
            .arg(x)
            .arg(&channels)
            .arg(&elements)
            .arg(&(rows as i64))
            .arg(&int(from)?)
            .arg(&int(c)?)
            .arg(&int(to)?)
            .run(gpu)?;
    }
    Ok(Packed { elements, channels: to })
}

/// A filter `[k, taps, c]` as `[c, taps, k]`, the rows of the input gradient's product.
pub(super) fn pack_transposed(
    gpu: &dyn Gpu,
    mode: Mode,
    w: &Tensor,
    [k, taps, c]: [usize; 3],
) -> Result<Packed> {
    let to = mode.storage().padded(k);
    let elements = w.empty_like(&[c, taps, to], mode.storage())?;
    if !elements.is_empty() {
        let name = match (w.dtype(), mode.storage()) {
            (DType::Bf16, _) => "conv2d_pack_transposed_operand_bf16",
            (_, DType::Bf16) => "conv2d_pack_transposed_bf16",
            _ => "conv2d_pack_transposed_f32",
        };
        Launch::new(name)
            .grid(blocks(c, 32)?, blocks(to, 32)?, blocks(taps, 1)?)
            .block(32, 8, 1)
            .arg(w)
            .arg(&elements)
            .arg(&int(k)?)
            .arg(&int(taps)?)
            .arg(&int(c)?)
            .arg(&int(to)?)
            .run(gpu)?;
    }
    Ok(Packed { elements, channels: to })
}

/// `len` in pieces of `piece`, for one dimension of a grid.
pub(super) fn blocks(len: usize, piece: usize) -> Result<u32> {
    Ok(int(len.div_ceil(piece).max(1))? as u32)
}

/// A kernel's `int`: sizes stay below 2³¹.
pub(super) fn int(value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| {
        Error::kernel("conv2d", format!("{value} does not fit 31 bits: a smaller batch"))
    })
}

/// The launch with these sizes as its next arguments.
pub(super) fn ints(launch: Launch, sizes: &[usize]) -> Result<Launch> {
    sizes.iter().try_fold(launch, |launch, &size| Ok(launch.arg(&int(size)?)))
}
