//! Fully connected layer.

use super::implicit_gemm::{
    COLUMNS, Packed, ROWS, THREADS, WeightProduct, blocks, int, pack_rows, pack_transposed,
};
use super::product::{Product, check_operands, record};
use crate::cpu;
use crate::device::{Gpu, Launch};
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Mode, Result, Tape};

/// Fully connected layer: `y[n,o] = bias[o] + Σ_f x[n,f] · w[o,f]`, operands rounded to the tape's [`Mode`], sums in f32.
///
/// Shapes: x `[N, F]`, w `[O, F]`, bias `[O]`, y `[N, O]`.
/// Gradients: `dx = dy · w`, `dw = dyᵀ · x`, `dbias = Σ_n dy`; only those that are asked for.
/// Errors: [`crate::ErrorKind::Shape`] where operands do not fit.
pub fn linear(tape: &mut Tape, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let [n, f] = x.dims2("linear", "x")?;
    let [o, _] = w.dims2("linear", "w")?;
    w.expect_shape("linear", "w", &[o, f])?;
    check_operands("linear", x, (w, DType::F32), bias, o)?;
    let linear = Linear { mode: tape.mode(), n, f, o };
    let y = linear.forward(x, w, bias)?;
    record(tape, linear, [x, w], bias, &y);
    Ok(y)
}

/// A checked layer: N rows of F inputs to O outputs.
struct Linear {
    mode: Mode,
    n: usize,
    f: usize,
    o: usize,
}

impl Linear {
    fn forward(&self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let &Self { mode, n, f, o } = self;
        let mut y = x.empty_like(&[n, o], DType::F32)?;
        match x.on() {
            On::Cpu => {
                let bias = bias.map(Tensor::cpu).transpose()?;
                cpu::linear::forward([n, f, o], x.cpu()?, w.cpu()?, bias, mode, y.cpu_mut()?);
            }
            On::Gpu(gpu) => {
                let a = pack_rows(gpu, mode, x, n, f, None)?;
                let b = pack_rows(gpu, mode, w, o, f, None)?;
                multiply(gpu, mode, [n, a.channels, o], &a, &b, bias, &y)?;
            }
        }
        Ok(y)
    }
}

impl Product for Linear {
    fn backward_input(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
        let &Self { mode, n, f, o } = self;
        let mut dx = dy.empty_like(&[n, f], DType::F32)?;
        match dy.on() {
            On::Cpu => {
                cpu::linear::backward_input([n, f, o], dy.cpu()?, w.cpu()?, mode, dx.cpu_mut()?);
            }
            On::Gpu(gpu) => {
                let a = pack_rows(gpu, mode, dy, n, o, None)?;
                let b = pack_transposed(gpu, mode, w, [o, 1, f])?;
                multiply(gpu, mode, [n, a.channels, f], &a, &b, None, &dx)?;
            }
        }
        Ok(dx)
    }

    fn backward_weight(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let &Self { mode, n, f, o } = self;
        let mut dw = dy.empty_like(&[o, f], DType::F32)?;
        match dy.on() {
            On::Cpu => {
                cpu::linear::backward_weight([n, f, o], x.cpu()?, dy.cpu()?, mode, dw.cpu_mut()?);
            }
            On::Gpu(gpu) => {
                let x = pack_rows(gpu, mode, x, n, f, None)?;
                let dy = pack_rows(gpu, mode, dy, n, o, None)?;
                let name = [
                    "linear_backward_weight_f32",
                    "linear_backward_weight_tf32",
                    "linear_backward_weight_bf16",
                ];
                let launch = Launch::new(name[mode as usize]).arg(&dy).arg(&x);
                let geometry = [n, x.channels, f, dy.channels, o];
                let product = WeightProduct { pixels: n, rows: o, columns: x.channels };
                product.run(gpu, mode, launch, &geometry, None, &dw)?;
            }
        }
        Ok(dw)
    }
}

/// `out[m, n] = bias[n] + Σ_k a[m, k] · b[n, k]` for packed rows of `depth` elements.
fn multiply(
    gpu: &dyn Gpu,
    mode: Mode,
    [m, depth, n]: [usize; 3],
    a: &Packed,
    b: &Packed,
    bias: Option<&Tensor>,
    out: &Tensor,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let name = ["linear_forward_f32", "linear_forward_tf32", "linear_forward_bf16"];
    Launch::new(name[mode as usize])
        .grid(blocks(m, ROWS)?, blocks(n, COLUMNS)?, 1)
        .block(THREADS, 1, 1)
        .arg(a)
        .arg(b)
        .arg(&bias)
        .arg(out)
        .arg(&int(m)?)
        .arg(&int(n)?)
        .arg(&int(depth)?)
        .run(gpu)
}
