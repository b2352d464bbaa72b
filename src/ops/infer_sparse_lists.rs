//! Inference with irregularly masked filters on CUDA cores, with the sum, ReLU and pooling behind the convolution.

mod pack;
#[cfg(test)]
mod tests;

use super::implicit_gemm::{blocks, int, ints};
use super::infer_planes::{expect_planes, images_of, on_gpu};
use super::plane_tile::{FITS, PlaneTile};
use super::product::same_device;
use crate::cpu::conv_shape::ConvShape;
use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::{Error, Mode, Result};
use pack::{OP, Packed, Split};

/// The kept weights of a layer's filters, each with the place of its input, and the bias. The lists are packed for one layer and
/// one number of images, because these decide the tile in shared memory.
///
/// Packed on the device, by `kernels/infer_sparse_lists_pack.cu`.
#[derive(Clone)]
pub struct FilterLists {
    mode: Mode,
    /// Of one image.
    shape: ConvShape,
    tile: PlaneTile,
    split: Split,
    kept: usize,
    rows: Tensor,
    counts: Tensor,
    starts: Tensor,
    entries: Tensor,
    bias: Tensor,
}

impl FilterLists {
    /// Packs the weights of `w` that are not 0, rounded to `mode`, for `images` images of `height` × `width`. Other numbers of
    /// images run too, but their work is spread less evenly.
    ///
    /// Shapes: w `[K, R, S, C]`, bias `[K]`, both f32.
    /// Errors: [`crate::ErrorKind::Shape`] where operands do not fit, have no elements, or the filter with its outputs
    /// exceeds 48 KiB of shared memory for a channel; [`crate::ErrorKind::Param`] for a stride of 0;
    /// [`crate::ErrorKind::Device`] on `cpu`.
    pub fn new(
        w: &Tensor,
        bias: &Tensor,
        images: usize,
        [height, width]: [usize; 2],
        [stride, padding]: [usize; 2],
        mode: Mode,
    ) -> Result<Self> {
        on_gpu(OP, w)?;
        let [k, r, s, c] = w.dims4(OP, "w")?;
        w.expect_dtype(OP, DType::F32)?;
        bias.expect_shape(OP, "bias", &[k])?;
        bias.expect_dtype(OP, DType::F32)?;
        same_device(OP, "bias", w, bias)?;
        if stride == 0 {
            return Err(Error::param(format!("{OP}: stride"), stride, "at least 1"));
        }
        let shape = ConvShape { n: 1, h: height, w: width, c, k, r, s, stride, pad: padding };
        if w.is_empty() || shape.p() == 0 || shape.q() == 0 {
            let room = [height, width].map(|extent| extent + 2 * padding);
            let want = format!("filters of 1 to {} by 1 to {}", room[0], room[1]);
            return Err(Error::shape(OP, "w", want, w.shape()));
        }
        let image_blocks = images.div_ceil(images_of(mode.storage()));
        let Some(tile) = pack::tile(&shape, image_blocks, mode.storage()) else {
            return Err(Error::shape(OP, "w", FITS, w.shape()));
        };
        let split = Split::of(k, tile.count(image_blocks, &shape));
        let Packed { rows, counts, starts, entries, kept } =
            pack::pack(w, &shape, &tile, split, mode)?;
        Ok(Self {
            mode,
            shape,
            tile,
            split,
            kept,
            rows,
            counts,
            starts,
            entries,
            bias: bias.clone(),
        })
    }

    /// Number of weights that are not 0.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Shape of the output planes for `x`'s: `[blocks, K, P, Q, images]`, halved with `pool`.
    pub fn output_shape(&self, x: &Tensor, pool: bool) -> Vec<usize> {
        let halved = |extent: usize| if pool { extent / 2 } else { extent };
        let blocks = x.shape().first().copied().unwrap_or(0);
        let (p, q) = (halved(self.shape.p()), halved(self.shape.q()));
        vec![blocks, self.shape.k, p, q, images_of(self.mode.storage())]
    }
}

/// `y = pool?(relu?(x ∗ w + bias + residual?))`. Residual, ReLU and pooling are optional. x is rounded to the filter's mode,
/// products are exact, sums are f32 and in bf16 rounded at the end. Pooling takes the largest of each 2 × 2 outputs and leaves
/// out an odd last row or column.
///
/// Shapes: planes ([`crate::ops::planes_shape`]) in the mode's storage type: x `[blocks, C, H, W, images]`, residual
/// `[blocks, K, P, Q, images]`, y [`FilterLists::output_shape`]. The images that fill up the last block are computed too; their
/// results mean nothing.
/// Errors: [`crate::ErrorKind::Shape`], [`crate::ErrorKind::Device`] where operands do not fit the filter.
/// Source: `kernels/infer_sparse_lists.cu`.
pub fn infer_sparse_lists(
    x: &Tensor,
    filter: &FilterLists,
    residual: Option<&Tensor>,
    relu: bool,
    pool: bool,
    y: &mut Tensor,
) -> Result<()> {
    let FilterLists { shape, tile, split, .. } = filter;
    let ConvShape { h, w, c, k, stride, pad, .. } = *shape;
    let (p, q) = (shape.p(), shape.q());
    let storage = filter.mode.storage();
    let image_blocks = expect_planes(OP, x, storage, [c, h, w])?;
    let unpooled = [image_blocks, k, p, q, images_of(storage)];
    if let Some(residual) = residual {
        residual.expect_shape(OP, "residual", &unpooled)?;
    }
    y.expect_shape(OP, "y", &filter.output_shape(x, pool))?;
    for (operand, what) in [(Some(&*y), "y"), (residual, "residual")] {
        let Some(operand) = operand else { continue };
        operand.expect_dtype(OP, storage)?;
        same_device(OP, what, x, operand)?;
    }
    same_device(OP, "filter", x, &filter.rows)?;
    if y.is_empty() {
        return Ok(());
    }
    int(x.len())?;
    int(unpooled.iter().product())?;
    y.make_unique()?;
    let name = match filter.mode {
        Mode::F32 => "infer_sparse_lists_f32",
        Mode::Tf32 => "infer_sparse_lists_tf32",
        Mode::Bf16 => "infer_sparse_lists_bf16",
    };
    let launch = Launch::new(name)
        .grid(blocks(tile.count(image_blocks, shape), 1)?, blocks(split.warps, split.together)?, 1)
        .block(32 * split.together as u32, 1, 1)
        .shared(int(tile.shared_bytes())? as u32)
        .arg(x)
        .arg(&filter.entries)
        .arg(&filter.counts)
        .arg(&filter.starts)
        .arg(&filter.rows)
        .arg(&filter.bias)
        .arg(&residual)
        .arg(&*y);
    let [relu, pool] = [relu, pool].map(usize::from);
    let lists = [split.warps, tile.chunks, tile.chunk];
    let layer = [image_blocks, c, h, w, k, p, q, stride, pad];
    ints(launch, &[&lists[..], &layer, &tile.arguments(), &[relu, pool]].concat())?
        .run(on_gpu(OP, x)?)
}
