//! What convolutions and fully connected layers share: gradients of `y = x ∗ w + bias`, checks, the bias's gradient.

use super::implicit_gemm;
use crate::cpu;
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Result, Tape};

/// A bilinear operation on an input and weights.
pub(super) trait Product: 'static {
    /// dx from dy.
    fn backward_input(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor>;
    /// dw from dy.
    fn backward_weight(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor>;
}

/// Records `y = product(x, w) + bias`. Only the gradients that are asked for are computed: x is kept only for the gradient of
/// w, and w only for the gradient of x. An attack watches the input, so it never pays for a gradient of weights.
pub(super) fn record(
    tape: &mut Tape,
    product: impl Product,
    [x, w]: [&Tensor; 2],
    bias: Option<&Tensor>,
    y: &Tensor,
) {
    let (x_id, w_id, bias_id) = (x.id(), w.id(), bias.map(Tensor::id));
    let saved_x = tape.tracks(w).then(|| x.clone());
    let saved_w = tape.tracks(x).then(|| w.clone());
    let inputs: Vec<_> = [Some(x), Some(w), bias].into_iter().flatten().collect();
    tape.push(&inputs, y, move |dy, gradients| {
        if let Some(w) = &saved_w {
            gradients.add(x_id, product.backward_input(dy, w)?)?;
        }
        if let Some(x) = &saved_x {
            gradients.add(w_id, product.backward_weight(x, dy)?)?;
        }
        match bias_id.filter(|&id| gradients.wants(id)) {
            Some(id) => gradients.add(id, backward_bias(dy)?),
            None => Ok(()),
        }
    });
}

/// The gradient of a bias: `db[k] = Σ dy[.., k]`, in f32 in every mode.
fn backward_bias(dy: &Tensor) -> Result<Tensor> {
    let k = dy.shape()[dy.shape().len() - 1];
    let mut db = dy.empty_like(&[k], DType::F32)?;
    match dy.on() {
        On::Cpu => cpu::conv2d::backward_bias(dy.cpu()?, db.cpu_mut()?),
        On::Gpu(gpu) => implicit_gemm::backward_bias(gpu, dy, &db)?,
    }
    Ok(db)
}

/// Checks the operands of `op` besides their shapes: f32, weights of the type beside them, all on one device, a bias for each
/// of `k` outputs.
pub(super) fn check_operands(
    op: &'static str,
    x: &Tensor,
    (w, weights): (&Tensor, DType),
    bias: Option<&Tensor>,
    k: usize,
) -> Result<()> {
    if let Some(bias) = bias {
        bias.expect_shape(op, "bias", &[k])?;
    }
    let f32 = DType::F32;
    for (operand, what, dtype) in
        [(Some(x), "x", f32), (Some(w), "w", weights), (bias, "bias", f32)]
    {
        let Some(operand) = operand else { continue };
        operand.expect_dtype(op, dtype)?;
        same_device(op, what, x, operand)?;
    }
    Ok(())
}

/// Checks that `operand`, called `what`, is where `x` is.
pub(super) fn same_device(op: &str, what: &str, x: &Tensor, operand: &Tensor) -> Result<()> {
    if x.device() == operand.device() {
        return Ok(());
    }
    let message = format!("{op}: {what} must be there with x, it is on {}", operand.device());
    Err(Error::device(x.device().to_string(), message))
}
