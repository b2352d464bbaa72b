//! The layout of activations that the sparse convolutions of inference on a GPU read: planes with images innermost.
//!
//! `[image block, C, H, W, images]` in a storage type, f32 or bf16; the images of a block are 16 bytes, 4 or 8 of them.

use super::implicit_gemm::{blocks, int, ints};
use super::product::same_device;
use crate::device::{Gpu, Launch};
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Result};

/// Images side by side in planes of the storage type.
pub(super) fn images_of(dtype: DType) -> usize {
    16 / dtype.size()
}

/// Shape of the planes of `[n, h, w, c]`: `[⌈n / images⌉, c, h, w, images]`.
pub fn planes_shape([n, h, w, c]: [usize; 4], dtype: DType) -> [usize; 5] {
    let images = images_of(dtype);
    [n.div_ceil(images), c, h, w, images]
}

/// Converts rows of channels to planes. The last block of images is filled up with zeros.
///
/// Shapes: rows `[N, H, W, padded C]`, planes [`planes_shape`] of `[N, H, W, C]`, one storage type.
/// Errors: [`crate::ErrorKind::Shape`], [`crate::ErrorKind::Device`] where they do not fit.
/// Source: `kernels/infer_planes.cu`.
pub fn rows_to_planes(rows: &Tensor, planes: &mut Tensor) -> Result<()> {
    let fits = check("rows_to_planes", rows, planes)?;
    planes.make_unique()?;
    run(["infer_planes_from_rows_f32", "infer_planes_from_rows_bf16"], [rows, planes], fits)
}

/// Converts planes to rows of channels: the first N images of the planes, with zeros in the channels that pad a row.
///
/// Shapes, errors and source as [`rows_to_planes`].
pub fn planes_to_rows(planes: &Tensor, rows: &mut Tensor) -> Result<()> {
    let fits = check("planes_to_rows", rows, planes)?;
    rows.make_unique()?;
    run(["infer_planes_to_rows_f32", "infer_planes_to_rows_bf16"], [planes, rows], fits)
}

/// Images, pixels, channels and padded channels.
fn check(op: &'static str, rows: &Tensor, planes: &Tensor) -> Result<[usize; 4]> {
    let [n, h, w, stride] = rows.dims4(op, "rows")?;
    let dtype = rows.dtype();
    if !matches!(dtype, DType::F32 | DType::Bf16) {
        return Err(Error::shape(op, "dtype", "F32 or Bf16", rows.shape()));
    }
    let c = planes.shape().get(1).copied().unwrap_or(0).max(1);
    planes.expect_dtype(op, dtype)?;
    planes.expect_shape(op, "planes", &planes_shape([n, h, w, c], dtype))?;
    rows.expect_shape(op, "rows", &[n, h, w, dtype.padded(c)])?;
    same_device(op, "planes", rows, planes)?;
    Ok([n, h * w, c, stride])
}

fn run(
    [f32, bf16]: [&'static str; 2],
    [from, to]: [&Tensor; 2],
    [n, pixels, c, stride]: [usize; 4],
) -> Result<()> {
    let gpu = on_gpu("planes", from)?;
    if n * pixels == 0 {
        return Ok(());
    }
    let images = images_of(from.dtype());
    int(n.next_multiple_of(images) * pixels * stride)?;
    let launch = Launch::new(if from.dtype() == DType::Bf16 { bf16 } else { f32 })
        .grid(blocks(pixels, 8)?, blocks(stride, 32)?, blocks(n, images)?)
        .arg(from)
        .arg(to);
    ints(launch, &[n, pixels, c, stride])?.run(gpu)
}

/// Blocks of images of planes of `[c, h, w]` in a storage type.
pub(super) fn expect_planes(
    op: &'static str,
    x: &Tensor,
    dtype: DType,
    [c, h, w]: [usize; 3],
) -> Result<usize> {
    x.expect_dtype(op, dtype)?;
    let image_blocks = x.shape().first().copied().unwrap_or(0);
    x.expect_shape(op, "x", &[image_blocks, c, h, w, images_of(dtype)])?;
    Ok(image_blocks)
}

pub(super) fn on_gpu<'a>(op: &str, x: &'a Tensor) -> Result<&'a dyn Gpu> {
    match x.on() {
        On::Gpu(gpu) => Ok(gpu),
        On::Cpu => Err(Error::device("cpu", format!("{op} runs on CUDA devices"))),
    }
}
