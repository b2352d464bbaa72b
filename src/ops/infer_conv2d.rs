//! The convolution of inference on a GPU, with what follows it.

use super::implicit_gemm::{blocks, int, ints};
use super::packed_filter::PackedFilter;
use super::product::same_device;
use super::tile_config::{Order, TileConfig, candidates};
use crate::cpu::conv_shape::ConvShape;
use crate::device::{Gpu, Launch};
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Result};

const OP: &str = "infer_conv2d";

/// The convolution of inference on a GPU: `y = pool?(relu?(x ∗ w + bias + residual?))`.
///
/// The convolution is that of [`crate::ops::conv2d()`], which training and the CPU use. Residual, ReLU and pooling are
/// optional; pooling takes the largest of each 2×2 window.
///
/// Activations have the filter's storage type ([`crate::Mode::storage`]). Each pixel has a row of [`DType::padded`]
/// channels; those behind the last channel are 0. Shapes: x `[N, H, W, padded C]`, residual `[N, P, Q, padded K]`, y the
/// same or, with pooling, `[N, ⌊P/2⌋, ⌊Q/2⌋, padded K]`. Sums are f32 and rounded once.
#[derive(Debug, Clone)]
pub struct InferConv2d {
    /// Weights and bias.
    pub filter: PackedFilter,
    /// Step between outputs, in input pixels.
    pub stride: usize,
    /// Zeros around the input on each side.
    pub padding: usize,
    /// Whether negative results become 0.
    pub relu: bool,
    /// Whether y is the largest of 2×2 windows; an odd last row or column is left out.
    pub pool: bool,
}

impl InferConv2d {
    /// The shape of y for x `[N, H, W, padded C]`.
    ///
    /// Errors: [`crate::ErrorKind::Shape`] where x does not fit or is too small, [`crate::ErrorKind::Param`] for a
    /// stride of 0.
    pub fn output_shape(&self, x: &[usize]) -> Result<[usize; 4]> {
        let shape = self.shape(x)?;
        let side = if self.pool { 2 } else { 1 };
        let channels = self.filter.mode.storage().padded(shape.k);
        Ok([shape.n, shape.p() / side, shape.q() / side, channels])
    }

    /// The configurations that are worth measuring for x of this shape, the best guess first. There is at least one.
    ///
    /// Errors: as [`Self::output_shape`].
    pub fn configs(&self, x: &[usize]) -> Result<Vec<TileConfig>> {
        Ok(candidates(&self.shape(x)?, self.filter.mode, self.pool))
    }

    /// Writes y. Deterministic: the bits depend on `config` alone.
    ///
    /// Allocates from the device's pool in three cases: the filter gathers channels, the sum is cut into parts, or y
    /// shares its memory with another tensor. Reads nothing back, so a [`crate::device::Graph`] can record the call.
    /// Errors: [`crate::ErrorKind::Shape`] where operands do not fit, [`crate::ErrorKind::Param`] for a configuration
    /// that the mode does not have, [`crate::ErrorKind::Device`] on the CPU.
    pub fn run(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        config: TileConfig,
        y: &mut Tensor,
    ) -> Result<()> {
        let shape = self.shape(x.shape())?;
        self.check(x, residual, &shape, y)?;
        let kernel = self.kernel(config)?;
        let On::Gpu(gpu) = x.on() else {
            return Err(Error::device("cpu", "infer_conv2d is for GPUs, conv2d for the CPU"));
        };
        if y.is_empty() {
            return Ok(());
        }
        y.make_unique()?;
        let gathered;
        let x = match &self.filter.gathered {
            Some(channels) => {
                gathered = self.gather(gpu, x, channels)?;
                &gathered
            }
            None => x,
        };
        let partials = match config.in_parts(self.pool) {
            true => {
                let channels = self.filter.mode.storage().padded(shape.k);
                let sums = [config.splits, shape.n * shape.p() * shape.q(), channels];
                Some(x.empty_like(&sums, DType::F32)?)
            }
            false => None,
        };
        let launch = Launch::new(kernel).arg(x).arg(&self.filter.filter).arg(&self.filter.bias);
        let launch = launch.arg(&residual).arg(y).arg(&partials.as_ref());
        self.tiles(launch, &shape, config)?.run(gpu)?;
        match &partials {
            Some(partials) => self.reduce(partials, residual, &shape, config, y)?.run(gpu),
            None => Ok(()),
        }
    }

    fn kernel(&self, config: TileConfig) -> Result<&'static str> {
        let mode = self.filter.mode;
        let wrong = || Error::param("infer_conv2d: config", config, format!("one of mode {mode}"));
        config.tile.kernel(mode).filter(|_| config.splits > 0).ok_or_else(wrong)
    }

    /// The geometry, in channels of the packed filter.
    fn shape(&self, x: &[usize]) -> Result<ConvShape> {
        let filter = &self.filter;
        let channels = filter.mode.storage().padded(filter.input);
        let &[n, h, w, c] = x else { return Err(Error::shape(OP, "x", "of 4 dimensions", x)) };
        if c != channels {
            return Err(Error::shape(OP, "x", format!("of {channels} channels"), x));
        }
        if self.stride == 0 {
            return Err(Error::param("infer_conv2d: stride", 0, "at least 1"));
        }
        let PackedFilter { k, r, s, .. } = *filter;
        let (stride, pad) = (self.stride, self.padding);
        let shape = ConvShape { n, h, w, c: filter.columns(), k, r, s, stride, pad };
        let least = if self.pool { 2 } else { 1 };
        if r * s == 0 || shape.p() < least || shape.q() < least {
            let want = format!("large enough for {r} x {s} filters and {least} x {least} outputs");
            return Err(Error::shape(OP, "x", want, x));
        }
        Ok(shape)
    }

    fn check(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        shape: &ConvShape,
        y: &Tensor,
    ) -> Result<()> {
        let storage = self.filter.mode.storage();
        let unpooled = [shape.n, shape.p(), shape.q(), storage.padded(shape.k)];
        if let Some(residual) = residual {
            residual.expect_shape(OP, "residual", &unpooled)?;
        }
        y.expect_shape(OP, "y", &self.output_shape(x.shape())?)?;
        for (operand, what) in [(Some(x), "x"), (residual, "residual"), (Some(y), "y")] {
            let Some(operand) = operand else { continue };
            operand.expect_dtype(OP, storage)?;
            same_device(OP, what, &self.filter.filter, operand)?;
        }
        // Kernels count chunks and rows in 31 bits, a tile's rows beyond the last one among them.
        for len in [x.len(), self.filter.filter.len(), unpooled.iter().product()] {
            int(len + 256)?;
        }
        Ok(())
    }

    /// The filter's channels of x as a tensor of their own.
    fn gather(&self, gpu: &dyn Gpu, x: &Tensor, channels: &Tensor) -> Result<Tensor> {
        let [n, h, w, from] = x.dims4(OP, "x")?;
        let to = self.filter.columns();
        let out = x.empty_like(&[n, h, w, to], x.dtype())?;
        let name =
            ["infer_conv2d_gather_f32", "infer_conv2d_gather_f32", "infer_conv2d_gather_bf16"];
        let launch = Launch::new(name[self.filter.mode as usize])
            .elements(out.len() * x.dtype().size() / 16)
            .arg(x)
            .arg(channels)
            .arg(&out)
            .arg(&((n * h * w) as i64));
        ints(launch, &[from, channels.len(), to])?.run(gpu)?;
        Ok(out)
    }

    /// `RowOrder` of kernels/common/ordered_rows.cuh.
    fn order(&self, config: TileConfig) -> usize {
        match config.order {
            Order::Images if self.pool && !config.in_parts(self.pool) => 1,
            Order::Images => 0,
            Order::Positions => 2,
        }
    }

    /// Grid, block and geometry behind the operands.
    fn tiles(&self, launch: Launch, shape: &ConvShape, config: TileConfig) -> Result<Launch> {
        let ConvShape { n, h, w, c, k, r, s, stride, pad } = *shape;
        let (p, q, order, tile) = (shape.p(), shape.q(), self.order(config), config.tile);
        let rows = if order == 1 { 4 * n * (p / 2) * (q / 2) } else { n * p * q };
        let grid = int(rows.div_ceil(tile.rows()) * k.div_ceil(tile.columns()))?;
        let chunks = c * self.filter.mode.storage().size() / 16;
        let launch = launch
            .grid(grid as u32, 1, blocks(config.splits, 1)?)
            .block(tile.threads(), 1, 1)
            .shared(tile.shared());
        let relu = usize::from(self.relu);
        ints(launch, &[n, h, w, chunks, p, q, k, r, s, stride, pad, order, relu])
    }

    /// The second kernel: adds the parts up and does what follows the sum.
    fn reduce(
        &self,
        partials: &Tensor,
        residual: Option<&Tensor>,
        shape: &ConvShape,
        config: TileConfig,
        y: &Tensor,
    ) -> Result<Launch> {
        let names =
            ["infer_conv2d_reduce_f32", "infer_conv2d_reduce_f32", "infer_conv2d_reduce_bf16"];
        let launch = Launch::new(names[self.filter.mode as usize])
            .elements(y.len() * y.dtype().size() / 16)
            .arg(partials)
            .arg(&self.filter.bias)
            .arg(&residual)
            .arg(y);
        let [relu, pool] = [self.relu, self.pool].map(usize::from);
        let [n, p, q] = [shape.n, shape.p(), shape.q()];
        ints(launch, &[config.splits, n, p, q, shape.k, self.order(config), relu, pool])
    }
}
