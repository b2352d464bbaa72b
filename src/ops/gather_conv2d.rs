//! Two-dimensional convolution over some of the input's channels: the dense remainder of channel pruning.

use super::conv2d::checked_shape;
use super::implicit_gemm::{ImplicitGemm, operand_type};
use super::product::{Product, record, same_device};
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::gather::{self, PickedChannels};
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Mode, Result, Tape};

/// Convolution that reads the input channels `channels`:
/// `y[n,p,q,k] = bias[k] + Σ_{r,s,i} x[n, p·stride − padding + r, q·stride − padding + s, channels[i]] · w[k,r,s,i]`.
///
/// Shapes: x `[N, H, W, C]`, w `[K, R, S, C']`, channels i32 `[C']`, distinct and below C, bias `[K]`, y `[N, P, Q, K]`.
/// Gradients: of x (0 in the channels that are not read), w and bias; only those that are asked for.
/// Errors: [`crate::ErrorKind::Shape`] where operands do not fit, [`crate::ErrorKind::Param`] for a stride of 0 and,
/// on the CPU, for an index that is not a channel; a GPU does not look at the indices first.
pub fn gather_conv2d(
    tape: &mut Tape,
    x: &Tensor,
    w: &Tensor,
    channels: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    const OP: &str = "gather_conv2d";
    channels.expect_dtype(OP, DType::I32)?;
    channels.expect_shape(OP, "channels", &[channels.len()])?;
    same_device(OP, "channels", x, channels)?;
    let filter = (w, operand_type(tape.mode(), w));
    let shape = checked_shape(OP, x, filter, bias, stride, padding, channels.len())?;
    let gather = Gather { mode: tape.mode(), shape, channels: channels.clone(), all: x.shape()[3] };
    gather.check_indices()?;
    let y = gather.forward(x, w, bias)?;
    record(tape, gather, [x, w], bias, &y);
    Ok(y)
}

/// A checked convolution over `channels` of an input of `all` channels.
struct Gather {
    mode: Mode,
    shape: ConvShape,
    channels: Tensor,
    all: usize,
}

impl Gather {
    fn check_indices(&self) -> Result<()> {
        if let On::Cpu = self.channels.on() {
            let wrong = |&&i: &&i32| usize::try_from(i).is_err() || i as usize >= self.all;
            if let Some(index) = self.channels.cpu::<i32>()?.iter().find(wrong) {
                let want = format!("from 0 to {}", self.all - 1);
                return Err(Error::param("gather_conv2d: channels", index, want));
            }
        }
        Ok(())
    }

    fn on_cpu(&self) -> Result<PickedChannels<'_>> {
        Ok(PickedChannels { all: self.all, index: self.channels.cpu()? })
    }

    fn forward(&self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (mode, shape) = (self.mode, &self.shape);
        let mut y = x.empty_like(&[shape.n, shape.p(), shape.q(), shape.k], DType::F32)?;
        match x.on() {
            On::Cpu => {
                let bias = bias.map(Tensor::cpu).transpose()?;
                let (x, w, y) = (x.cpu()?, w.cpu()?, y.cpu_mut()?);
                gather::forward(self.on_cpu()?, shape, x, w, bias, mode, y);
            }
            On::Gpu(gpu) => {
                ImplicitGemm { gpu, mode, shape }.gather_forward(x, &self.channels, w, bias, &y)?;
            }
        }
        Ok(y)
    }
}

impl Product for Gather {
    fn backward_input(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
        let (mode, shape) = (self.mode, &self.shape);
        let mut dx =
            Tensor::zeros(&[shape.n, shape.h, shape.w, self.all], DType::F32, &dy.device())?;
        match dy.on() {
            On::Cpu => {
                let (dy, w, dx) = (dy.cpu()?, w.cpu()?, dx.cpu_mut()?);
                gather::backward_input(self.on_cpu()?, shape, dy, w, mode, dx);
            }
            On::Gpu(gpu) => {
                let gemm = ImplicitGemm { gpu, mode, shape };
                gemm.backward_input(dy, w, Some(&self.channels), &dx)?;
            }
        }
        Ok(dx)
    }

    fn backward_weight(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (mode, shape) = (self.mode, &self.shape);
        let mut dw = dy.empty_like(&[shape.k, shape.r, shape.s, shape.c], DType::F32)?;
        match dy.on() {
            On::Cpu => {
                let (x, dy, dw) = (x.cpu()?, dy.cpu()?, dw.cpu_mut()?);
                gather::backward_weight(self.on_cpu()?, shape, x, dy, mode, dw);
            }
            On::Gpu(gpu) => {
                let gemm = ImplicitGemm { gpu, mode, shape };
                gemm.backward_weight(x, Some(&self.channels), dy, None, &dw)?;
            }
        }
        Ok(dw)
    }
}
