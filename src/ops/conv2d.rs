//! Two-dimensional convolution, dense.

use super::implicit_gemm::{ImplicitGemm, operand_type};
use super::product::{Product, check_operands, record};
use crate::cpu;
use crate::cpu::conv_shape::ConvShape;
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Mode, Result, Tape};

/// Convolution: `y[n,p,q,k] = bias[k] + Σ_{r,s,c} x[n, p·stride − padding + r, q·stride − padding + s, c] · w[k,r,s,c]`,
/// with zeros outside the input. Products of operands rounded to the tape's [`Mode`], sums in f32.
///
/// Shapes: x `[N, H, W, C]`, w `[K, R, S, C]`, bias `[K]`, y `[N, P, Q, K]` with `P = (H + 2·padding − R) / stride + 1`; f32, w
/// also of the [`ops::operand_type`](crate::ops::operand_type) of the mode.
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
    let filter = operand_type(tape.mode(), w);
    let shape = checked_shape("conv2d", x, (w, filter), bias, stride, padding, channels)?;
    let conv = Conv2d { mode: tape.mode(), shape };
    let y = conv.forward(x, w, bias)?;
    record(tape, conv, [x, w], bias, &y);
    Ok(y)
}

/// The geometry of `op` over an input of which `channels` channels are read, with every operand checked; the filter is
/// f32 or of the type beside it.
pub(super) fn checked_shape(
    op: &'static str,
    x: &Tensor,
    (w, filter): (&Tensor, DType),
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
    let filter = if w.dtype() == filter { filter } else { DType::F32 };
    check_operands(op, x, (w, filter), bias, k)?;
    Ok(shape)
}

/// A checked convolution.
struct Conv2d {
    mode: Mode,
    shape: ConvShape,
}

impl Conv2d {
    fn forward(&self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (mode, shape) = (self.mode, &self.shape);
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
}

impl Product for Conv2d {
    fn backward_input(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
        let (mode, shape) = (self.mode, &self.shape);
        let mut dx = dy.empty_like(&[shape.n, shape.h, shape.w, shape.c], DType::F32)?;
        match dy.on() {
            On::Cpu => cpu::conv2d::backward_input(shape, dy.cpu()?, w.cpu()?, mode, dx.cpu_mut()?),
            On::Gpu(gpu) => ImplicitGemm { gpu, mode, shape }.backward_input(dy, w, None, &dx)?,
        }
        Ok(dx)
    }

    fn backward_weight(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (mode, shape) = (self.mode, &self.shape);
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
}
