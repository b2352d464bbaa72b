//! Two-dimensional convolution, dense.

use super::conv_shape::ConvShape;
use super::cpu;
use super::implicit_gemm::{self, ImplicitGemm};
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Mode, Result, Tape};

/// Convolution: `y[n,p,q,k] = bias[k] + Σ_{r,s,c} x[n, p·stride − padding + r, q·stride − padding + s, c] · w[k,r,s,c]`,
/// with zeros outside the input. Products of operands rounded to the tape's [`Mode`], sums in f32.
///
/// Shapes: x `[N, H, W, C]`, w `[K, R, S, C]`, bias `[K]`, y `[N, P, Q, K]` with `P = (H + 2·padding − R) / stride + 1`.
/// Gradients: of x, w and bias; only those that are asked for are computed, and only what they need is kept.
/// Errors: [`crate::ErrorKind::Shape`] where operands do not fit, [`crate::ErrorKind::Param`] for a stride of 0.
/// Source: PyTorch's `conv2d` (a cross-correlation); as matrix products: Chetlur et al. 2014.
///
/// ```
/// use rewire::{Device, Mode, Tape, Tensor, ops};
/// # fn main() -> rewire::Result<()> {
/// let x = Tensor::from_vec((0..16).map(|i| i as f32).collect(), &[1, 4, 4, 1], &Device::Cpu)?;
/// let mean = Tensor::from_vec(vec![0.25f32; 4], &[1, 2, 2, 1], &Device::Cpu)?;
/// let y = ops::conv2d(&mut Tape::new(Mode::F32), &x, &mean, None, 2, 0)?;
/// assert_eq!(y.shape(), [1, 2, 2, 1]);
/// assert_eq!(y.to_vec::<f32>()?, [2.5, 4.5, 10.5, 12.5]);
/// # Ok(())
/// # }
/// ```
pub fn conv2d(
    tape: &mut Tape,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let channels = x.dims4("conv2d", "x")?[3];
    let shape = checked_shape("conv2d", x, w, bias, stride, padding, channels)?;
    let mode = tape.mode();
    let y = forward(mode, &shape, x, w, bias)?;
    let (x_id, w_id, bias_id) = (x.id(), w.id(), bias.map(Tensor::id));
    let saved_x = tape.tracks(w).then(|| x.clone());
    let saved_w = tape.tracks(x).then(|| w.clone());
    let inputs = [Some(x), Some(w), bias];
    let inputs: Vec<_> = inputs.into_iter().flatten().collect();
    tape.push(&inputs, &y, move |dy, gradients| {
        if let Some(w) = &saved_w {
            gradients.add(x_id, backward_input(mode, &shape, dy, w)?)?;
        }
        if let Some(x) = &saved_x {
            gradients.add(w_id, backward_weight(mode, &shape, x, dy)?)?;
        }
        match bias_id.filter(|&id| gradients.wants(id)) {
            Some(id) => gradients.add(id, backward_bias(dy)?),
            None => Ok(()),
        }
    });
    Ok(y)
}

/// The geometry of `op` over an input of which `channels` channels are read, with every operand checked.
pub(super) fn checked_shape(
    op: &'static str,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
    channels: usize,
) -> Result<ConvShape> {
    let [n, h, width, _] = x.dims4(op, "x")?;
    let [k, r, s, _] = w.dims4(op, "w")?;
    w.expect_shape(op, "w", &[k, r, s, channels])?;
    if stride == 0 {
        return Err(Error::param(format!("{op}: stride"), stride, "at least 1"));
    }
    let shape = ConvShape { n, h, w: width, c: channels, k, r, s, stride, pad: padding };
    if r == 0 || s == 0 || shape.p() == 0 || shape.q() == 0 {
        let room = format!("filters of 1 to {} by 1 to {}", h + 2 * padding, width + 2 * padding);
        return Err(Error::shape(op, "w", room, w.shape()));
    }
    if let Some(bias) = bias {
        bias.expect_shape(op, "bias", &[k])?;
    }
    for (operand, what) in [(Some(x), "x"), (Some(w), "w"), (bias, "bias")] {
        let Some(operand) = operand else { continue };
        operand.expect_dtype(op, DType::F32)?;
        same_device(op, what, x, operand)?;
    }
    Ok(shape)
}

/// Checks that `operand`, called `what`, is where `x` is.
pub(super) fn same_device(op: &str, what: &str, x: &Tensor, operand: &Tensor) -> Result<()> {
    if x.device() == operand.device() {
        return Ok(());
    }
    let message = format!("{op}: {what} must be there with x, it is on {}", operand.device());
    Err(Error::device(x.device().to_string(), message))
}

/// `y = x ∗ w + bias` for checked operands.
fn forward(
    mode: Mode,
    shape: &ConvShape,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let mut y = x.empty_like(&[shape.n, shape.p(), shape.q(), shape.k], DType::F32)?;
    match x.on() {
        On::Cpu => {
            let bias = bias.map(Tensor::cpu).transpose()?;
            cpu::conv2d::forward(shape, x.cpu()?, w.cpu()?, bias, mode, y.cpu_mut()?);
        }
        On::Gpu(gpu) => ImplicitGemm { gpu, mode, shape }.forward(x, w, bias, &y)?,
    }
    Ok(y)
}

/// dx of [`conv2d`].
fn backward_input(mode: Mode, shape: &ConvShape, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let mut dx = dy.empty_like(&[shape.n, shape.h, shape.w, shape.c], DType::F32)?;
    match dy.on() {
        On::Cpu => cpu::conv2d::backward_input(shape, dy.cpu()?, w.cpu()?, mode, dx.cpu_mut()?),
        On::Gpu(gpu) => ImplicitGemm { gpu, mode, shape }.backward_input(dy, w, None, &dx)?,
    }
    Ok(dx)
}

/// dw of [`conv2d`].
fn backward_weight(mode: Mode, shape: &ConvShape, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let mut dw = dy.empty_like(&[shape.k, shape.r, shape.s, shape.c], DType::F32)?;
    match dy.on() {
        On::Cpu => {
            let (x, dy) = (x.cpu()?, dy.cpu()?);
            cpu::conv2d_weight::backward_weight(shape, x, dy, mode, dw.cpu_mut()?);
        }
        On::Gpu(gpu) => {
            ImplicitGemm { gpu, mode, shape }.backward_weight(x, None, dy, None, &dw)?;
        }
    }
    Ok(dw)
}

/// The gradient of a bias: `db[k] = Σ dy[.., k]`, in f32 in every mode.
pub(super) fn backward_bias(dy: &Tensor) -> Result<Tensor> {
    let k = dy.shape()[dy.shape().len() - 1];
    let mut db = dy.empty_like(&[k], DType::F32)?;
    match dy.on() {
        On::Cpu => cpu::conv2d::backward_bias(dy.cpu()?, db.cpu_mut()?),
        On::Gpu(gpu) => implicit_gemm::backward_bias(gpu, dy, &db)?,
    }
    Ok(db)
}
