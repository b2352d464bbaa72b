//! Inference with irregularly masked filters on tensor cores, with the sum, ReLU and pooling behind the convolution.

mod pack;
#[cfg(test)]
mod tests;

use super::implicit_gemm::{blocks, int, ints};
use super::infer_planes::{expect_planes, on_gpu};
use super::plane_tile::{FEW_BLOCKS, FITS, PlaneTile};
use super::product::same_device;
use crate::cpu::conv_shape::ConvShape;
use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::{Error, Result};
use pack::{GROUP, IMAGES, OP, Packed};

pub use pack::{BankCount, SparseProduct};

/// Groups of filters that a block of threads computes, two warps each.
const BLOCK_GROUPS: usize = 4;

/// A filter with its bias, packed for one layer: the geometry decides where a column lies in shared memory.
///
/// Packed on the device, by `kernels/infer_sparse_pack.cu`.
#[derive(Clone)]
pub struct PackedSparseFilter {
    product: SparseProduct,
    /// Of one image.
    shape: ConvShape,
    tile: PlaneTile,
    kept: usize,
    columns: usize,
    blocks: usize,
    banks: BankCount,
    groups: usize,
    rows: Tensor,
    starts: Tensor,
    records: Tensor,
    bias: Tensor,
}

impl PackedSparseFilter {
    /// Packs the weights of `w` that are not 0, rounded to bf16, for inputs of `height` × `width`.
    ///
    /// Shapes: w `[K, R, S, C]`, bias `[K]`, both f32.
    /// Errors: [`crate::ErrorKind::Shape`] where operands do not fit, have no elements, or the filter with four outputs
    /// each way exceeds 48 KiB of shared memory for a channel; [`crate::ErrorKind::Param`] for a stride of 0;
    /// [`crate::ErrorKind::Device`] on `cpu`.
    /// Source: permuting columns for 2:4 sparsity: Pool and Yu 2021; without bank conflicts: Lin et al. 2023.
    pub fn new(
        w: &Tensor,
        bias: Option<&Tensor>,
        [height, width]: [usize; 2],
        stride: usize,
        padding: usize,
        product: SparseProduct,
    ) -> Result<Self> {
        on_gpu(OP, w)?;
        let [k, r, s, c] = w.dims4(OP, "w")?;
        w.expect_dtype(OP, DType::F32)?;
        if stride == 0 {
            return Err(Error::param(format!("{OP}: stride"), stride, "at least 1"));
        }
        let shape = ConvShape { n: 1, h: height, w: width, c, k, r, s, stride, pad: padding };
        if w.is_empty() || shape.p() == 0 || shape.q() == 0 {
            let room = [height, width].map(|extent| extent + 2 * padding);
            let want = format!("filters of 1 to {} by 1 to {}", room[0], room[1]);
            return Err(Error::shape(OP, "w", want, w.shape()));
        }
        let Some(tile) = pack::tile(&shape) else {
            return Err(Error::shape(OP, "w", FITS, w.shape()));
        };
        let bias = match bias {
            Some(bias) => {
                bias.expect_shape(OP, "bias", &[k])?;
                bias.expect_dtype(OP, DType::F32)?;
                same_device(OP, "bias", w, bias)?;
                bias.clone()
            }
            None => Tensor::zeros(&[k], DType::F32, &w.device())?,
        };
        let Packed { rows, starts, records, kept, columns, blocks, banks } =
            pack::pack(w, &shape, &tile, product)?;
        let groups = rows.len() / GROUP;
        Ok(Self {
            product,
            shape,
            tile,
            kept,
            columns,
            blocks,
            banks,
            groups,
            rows,
            starts,
            records,
            bias,
        })
    }

    /// Number of weights that are not 0.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Columns that are multiplied, empty places included, over all groups of 32 filters: each is 32 multiply-adds an
    /// output pixel, half of them skipped by [`SparseProduct::TwoFour`].
    pub fn places(&self) -> usize {
        self.blocks * self.product.columns()
    }

    /// Share of these places that hold no column.
    pub fn padding(&self) -> f64 {
        match self.places() {
            0 => 0.0,
            places => 1.0 - self.columns as f64 / places as f64,
        }
    }

    /// Accesses to shared memory for an output pixel, and how many more the banks make of them.
    pub fn banks(&self) -> BankCount {
        self.banks
    }

    /// Shape of the output planes for `x`'s: `[blocks, K, P, Q, 8]`, halved with `pool`.
    pub fn output_shape(&self, x: &Tensor, pool: bool) -> Vec<usize> {
        let halved = |extent: usize| if pool { extent / 2 } else { extent };
        vec![x.shape()[0], self.shape.k, halved(self.shape.p()), halved(self.shape.q()), IMAGES]
    }
}

/// `y = pool?(relu?(x ∗ w + bias + residual?))`. Residual, ReLU and pooling are optional. Sums are f32 and rounded to bf16 at
/// the end. Pooling takes the largest of each 2 × 2 outputs and leaves out an odd last row or column.
///
/// Shapes: planes ([`crate::ops::planes_shape`]), bf16: x `[blocks, C, H, W, 8]`, residual `[blocks, K, P, Q, 8]`, y
/// [`PackedSparseFilter::output_shape`]. The images that fill up the last block are computed too; their results mean nothing.
/// Errors: [`crate::ErrorKind::Shape`], [`crate::ErrorKind::Device`] where operands do not fit the filter.
/// Source: `kernels/infer_sparse_conv2d.cu`.
pub fn infer_sparse_conv2d(
    x: &Tensor,
    filter: &PackedSparseFilter,
    residual: Option<&Tensor>,
    relu: bool,
    pool: bool,
    y: &mut Tensor,
) -> Result<()> {
    let ConvShape { h, w, c, k, stride, pad, .. } = filter.shape;
    let (p, q) = (filter.shape.p(), filter.shape.q());
    let image_blocks = expect_planes(OP, x, DType::Bf16, [c, h, w])?;
    if let Some(residual) = residual {
        residual.expect_shape(OP, "residual", &[image_blocks, k, p, q, IMAGES])?;
    }
    y.expect_shape(OP, "y", &filter.output_shape(x, pool))?;
    for (operand, what) in [(Some(&*y), "y"), (residual, "residual")] {
        let Some(operand) = operand else { continue };
        operand.expect_dtype(OP, DType::Bf16)?;
        same_device(OP, what, x, operand)?;
    }
    same_device(OP, "filter", x, &filter.rows)?;
    if y.is_empty() {
        return Ok(());
    }
    int(x.len())?;
    int(image_blocks * k * p * q * IMAGES)?;
    y.make_unique()?;
    let tile = &filter.tile;
    let tiles = tile.count(image_blocks, &filter.shape);
    let groups = block_groups(filter.groups, tiles);
    let name = match filter.product {
        SparseProduct::Dense => "infer_sparse_conv2d_dense_bf16",
        SparseProduct::TwoFour => "infer_sparse_conv2d_two_four_bf16",
    };
    let launch = Launch::new(name)
        .grid(blocks(tiles, 1)?, blocks(filter.groups, groups)?, 1)
        .block(64 * groups as u32, 1, 1)
        .shared(int(tile.shared_bytes())? as u32)
        .arg(x)
        .arg(&filter.records)
        .arg(&filter.starts)
        .arg(&filter.rows)
        .arg(&filter.bias)
        .arg(&residual)
        .arg(&*y);
    let [relu, pool] = [relu, pool].map(usize::from);
    let lists = [filter.groups, tile.chunks, tile.chunk];
    let layer = [image_blocks, c, h, w, k, p, q, stride, pad];
    ints(launch, &[&lists[..], &layer, &tile.arguments(), &[relu, pool]].concat())?
        .run(on_gpu(OP, x)?)
}

/// As many groups of filters as read an input tile together, fewer where blocks would be.
fn block_groups(groups: usize, tiles: usize) -> usize {
    let mut together = groups.clamp(1, BLOCK_GROUPS);
    while together > 1 && tiles * groups.div_ceil(together) < FEW_BLOCKS {
        together /= 2;
    }
    together
}
