//! Fully connected layer.

use super::conv2d::{backward_bias, same_device};
use super::cpu;
use super::implicit_gemm::{
    COLUMNS, Packed, ROWS, THREADS, WeightProduct, blocks, int, pack_rows, pack_transposed,
};
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
    let size = checked_size(x, w, bias)?;
    let mode = tape.mode();
    let y = forward(mode, size, x, w, bias)?;
    let (x_id, w_id, bias_id) = (x.id(), w.id(), bias.map(Tensor::id));
    let saved_x = tape.tracks(w).then(|| x.clone());
    let saved_w = tape.tracks(x).then(|| w.clone());
    let inputs: Vec<_> = [Some(x), Some(w), bias].into_iter().flatten().collect();
    tape.push(&inputs, &y, move |dy, gradients| {
        if let Some(w) = &saved_w {
            gradients.add(x_id, backward_input(mode, size, dy, w)?)?;
        }
        if let Some(x) = &saved_x {
            gradients.add(w_id, backward_weight(mode, size, x, dy)?)?;
        }
        match bias_id.filter(|&id| gradients.wants(id)) {
            Some(id) => gradients.add(id, backward_bias(dy)?),
            None => Ok(()),
        }
    });
    Ok(y)
}

/// `[N, F, O]` of fitting operands.
fn checked_size(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<[usize; 3]> {
    let [n, f] = x.dims2("linear", "x")?;
    let [o, _] = w.dims2("linear", "w")?;
    w.expect_shape("linear", "w", &[o, f])?;
    if let Some(bias) = bias {
        bias.expect_shape("linear", "bias", &[o])?;
    }
    for (operand, what) in [(Some(x), "x"), (Some(w), "w"), (bias, "bias")] {
        let Some(operand) = operand else { continue };
        operand.expect_dtype("linear", DType::F32)?;
        same_device("linear", what, x, operand)?;
    }
    Ok([n, f, o])
}

/// `y = x · wᵀ + bias` for checked operands.
fn forward(
    mode: Mode,
    size: [usize; 3],
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let mut y = x.empty_like(&[size[0], size[2]], DType::F32)?;
    match x.on() {
        On::Cpu => {
            let bias = bias.map(Tensor::cpu).transpose()?;
            cpu::linear::forward(size, x.cpu()?, w.cpu()?, bias, mode, y.cpu_mut()?);
        }
        On::Gpu(gpu) => {
            let x = pack_rows(gpu, mode, x, size[0], size[1], None)?;
            let w = pack_rows(gpu, mode, w, size[2], size[1], None)?;
            product(gpu, mode, [size[0], x.channels, size[2]], &x, &w, bias, &y)?;
        }
    }
    Ok(y)
}

/// dx of [`linear`].
fn backward_input(mode: Mode, size: [usize; 3], dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let mut dx = dy.empty_like(&size[..2], DType::F32)?;
    match dy.on() {
        On::Cpu => cpu::linear::backward_input(size, dy.cpu()?, w.cpu()?, mode, dx.cpu_mut()?),
        On::Gpu(gpu) => {
            let [n, f, o] = size;
            let dy = pack_rows(gpu, mode, dy, n, o, None)?;
            let w = pack_transposed(gpu, mode, w, [o, 1, f])?;
            product(gpu, mode, [n, dy.channels, f], &dy, &w, None, &dx)?;
        }
    }
    Ok(dx)
}

/// dw of [`linear`].
fn backward_weight(mode: Mode, size: [usize; 3], x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let mut dw = dy.empty_like(&[size[2], size[1]], DType::F32)?;
    match dy.on() {
        On::Cpu => {
            cpu::linear::backward_weight(size, x.cpu()?, dy.cpu()?, mode, dw.cpu_mut()?);
        }
        On::Gpu(gpu) => {
            let [n, f, o] = size;
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

/// `out[m, n] = bias[n] + Σ_k a[m, k] · b[n, k]` for packed rows of `depth` elements.
fn product(
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
