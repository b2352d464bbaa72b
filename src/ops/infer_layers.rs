//! The layers between the convolutions of inference on a GPU: the input, pooling, and sums and ReLUs that are not fused into a
//! convolution.
//!
//! Activations have a storage type, f32 or bf16. Each pixel has a row of [`DType::padded`] channels; those behind the last
//! channel are 0. Results go to tensors of the caller. Every function fails with [`crate::ErrorKind::Shape`] where operands
//! do not fit, and with [`crate::ErrorKind::Device`] on the CPU.

use super::implicit_gemm::{int, ints};
use super::product::same_device;
use crate::device::{Gpu, Launch};
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Result};

/// The start of a plan: `y[.., c] = (x[.., c] − mean[c]) / std[c]`, or x without `[mean, std]`, in y's storage type.
///
/// Shapes: x f32 `[N, H, W, C]`, mean and std f32 `[C]`, y `[N, H, W, padded C]`.
pub fn infer_input(x: &Tensor, by: Option<[&Tensor; 2]>, y: &mut Tensor) -> Result<()> {
    const OP: &str = "infer_input";
    let [n, h, w, c] = x.dims4(OP, "x")?;
    x.expect_dtype(OP, DType::F32)?;
    for operand in by.into_iter().flatten() {
        operand.expect_shape(OP, "mean and std", &[c])?;
        operand.expect_dtype(OP, DType::F32)?;
        same_device(OP, "mean and std", x, operand)?;
    }
    let kernel = by_storage(OP, y, ["infer_layers_input_f32", "infer_layers_input_bf16"])?;
    let to = y.dtype().padded(c);
    y.expect_shape(OP, "y", &[n, h, w, to])?;
    let Some(gpu) = ready(OP, x, y)? else { return Ok(()) };
    Launch::new(kernel)
        .elements(chunks(y))
        .arg(x)
        .arg(&by.map(|[mean, _]| mean))
        .arg(&by.map(|[_, std]| std))
        .arg(y)
        .arg(&((n * h * w) as i64))
        .arg(&int(c)?)
        .arg(&int(to)?)
        .run(gpu)
}

/// Largest of each 2×2 window, stride 2; an odd last row or column is left out.
///
/// Shapes: x `[N, H, W, padded C]`, y `[N, ⌊H/2⌋, ⌊W/2⌋, padded C]`, one storage type.
pub fn infer_max_pool2(x: &Tensor, y: &mut Tensor) -> Result<()> {
    const OP: &str = "infer_max_pool2";
    let [n, h, w, c] = rows(OP, x)?;
    y.expect_dtype(OP, x.dtype())?;
    y.expect_shape(OP, "y", &[n, h / 2, w / 2, c])?;
    let Some(gpu) = ready(OP, x, y)? else { return Ok(()) };
    let bf16 = x.dtype() == DType::Bf16;
    let kernel = if bf16 { "infer_layers_max_pool2_bf16" } else { "max_pool2_forward_f32" };
    let launch = Launch::new(kernel).elements(chunks(y)).arg(x).arg(&*y);
    // The kernel of f32 can keep positions and counts channels.
    let launch = if bf16 { launch } else { launch.arg(&None::<&Tensor>) };
    ints(launch, &[n, h, w, if bf16 { c / 8 } else { c }])?.run(gpu)
}

/// Mean of each channel over the pixels, in f32.
///
/// Shapes: x `[N, H, W, padded C]`, at least one pixel; y f32 `[N, C]`.
pub fn infer_global_avg_pool(x: &Tensor, y: &mut Tensor) -> Result<()> {
    const OP: &str = "infer_global_avg_pool";
    let [n, h, w, from] = rows(OP, x)?;
    let [_, c] = y.dims2(OP, "y")?;
    y.expect_dtype(OP, DType::F32)?;
    y.expect_shape(OP, "y", &[n, c])?;
    if h * w == 0 || x.dtype().padded(c) != from {
        let want = format!("of 1 pixel or more and {} channels", x.dtype().padded(c));
        return Err(Error::shape(OP, "x", want, x.shape()));
    }
    let kernel = by_storage(OP, x, ["infer_layers_mean_f32", "infer_layers_mean_bf16"])?;
    let Some(gpu) = ready(OP, x, y)? else { return Ok(()) };
    let launch = Launch::new(kernel).elements(n * c).arg(x).arg(y);
    ints(launch, &[n, h * w, c, from])?.run(gpu)
}

/// x without the channels that pad its rows, in f32.
///
/// Shapes: x `[N, H, W, padded C]`, y f32 `[N, H, W, C]`.
pub fn infer_image(x: &Tensor, y: &mut Tensor) -> Result<()> {
    const OP: &str = "infer_image";
    let [n, h, w, from] = rows(OP, x)?;
    let [.., c] = y.dims4(OP, "y")?;
    y.expect_dtype(OP, DType::F32)?;
    y.expect_shape(OP, "y", &[n, h, w, c])?;
    if x.dtype().padded(c) != from {
        return Err(Error::shape(
            OP,
            "x",
            format!("of {} channels", x.dtype().padded(c)),
            x.shape(),
        ));
    }
    let kernel = by_storage(OP, x, ["infer_layers_image_f32", "infer_layers_image_bf16"])?;
    let Some(gpu) = ready(OP, x, y)? else { return Ok(()) };
    Launch::new(kernel)
        .elements(y.len())
        .arg(x)
        .arg(y)
        .arg(&((n * h * w) as i64))
        .arg(&int(c)?)
        .arg(&int(from)?)
        .run(gpu)
}

/// `y = max(x, 0)`; shapes and storage types are equal.
pub fn infer_relu(x: &Tensor, y: &mut Tensor) -> Result<()> {
    elementwise("infer_relu", ["relu_forward_f32", "infer_layers_relu_bf16"], &[x], y)
}

/// `y = a + b`, rounded once; shapes and storage types are equal.
pub fn infer_add(a: &Tensor, b: &Tensor, y: &mut Tensor) -> Result<()> {
    elementwise("infer_add", ["add_forward_f32", "infer_layers_add_bf16"], &[a, b], y)
}

/// One of the kernels with the arguments `(operands.., y, len)`, `len` in elements of f32 or in chunks of bf16.
fn elementwise(
    op: &'static str,
    kernels: [&'static str; 2],
    operands: &[&Tensor],
    y: &mut Tensor,
) -> Result<()> {
    rows(op, operands[0])?;
    for operand in operands {
        operand.expect_shape(op, "operand", y.shape())?;
        operand.expect_dtype(op, y.dtype())?;
        same_device(op, "operand", operands[0], operand)?;
    }
    let kernel = by_storage(op, y, kernels)?;
    let Some(gpu) = ready(op, operands[0], y)? else { return Ok(()) };
    let len = if y.dtype() == DType::Bf16 { chunks(y) } else { y.len() };
    let launch = Launch::new(kernel).elements(chunks(y));
    operands.iter().fold(launch, |l, x| l.arg(*x)).arg(y).arg(&(len as i64)).run(gpu)
}

/// The extents of an activation with whole chunks.
fn rows(op: &'static str, x: &Tensor) -> Result<[usize; 4]> {
    let [n, h, w, c] = x.dims4(op, "x")?;
    by_storage(op, x, ["", ""])?;
    if x.dtype().padded(c) != c {
        return Err(Error::shape(op, "x", "of whole 16-byte rows", x.shape()));
    }
    Ok([n, h, w, c])
}

fn by_storage(
    op: &'static str,
    x: &Tensor,
    [f32, bf16]: [&'static str; 2],
) -> Result<&'static str> {
    match x.dtype() {
        DType::F32 => Ok(f32),
        DType::Bf16 => Ok(bf16),
        _ => Err(Error::shape(op, "dtype", "F32 or Bf16", x.shape())),
    }
}

fn chunks(x: &Tensor) -> usize {
    x.len() * x.dtype().size() / 16
}

/// Where it runs, with y ready to be written; nothing where y is empty.
fn ready<'a>(op: &'static str, x: &'a Tensor, y: &mut Tensor) -> Result<Option<&'a dyn Gpu>> {
    let On::Gpu(gpu) = x.on() else {
        return Err(Error::device("cpu", format!("{op} is for GPUs")));
    };
    same_device(op, "y", x, y)?;
    int(y.len())?;
    y.make_unique()?;
    Ok((!y.is_empty()).then_some(gpu))
}
