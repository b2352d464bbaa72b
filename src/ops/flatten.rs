//! Images as vectors, in PyTorch's order.

use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::{On, Tensor, nhwc_to_nchw};
use crate::{Result, Tape};

/// `y[n, (c·H + h)·W + w] = x[n, h, w, c]`: the features stand as PyTorch's `flatten` of an NCHW image has them, so that
/// the weights behind it are PyTorch's.
///
/// Shapes: x [N, H, W, C], y [N, C·H·W]. Gradient: the same elements back.
pub fn flatten(tape: &mut Tape, x: &Tensor) -> Result<Tensor> {
    let [n, h, w, c] = x.dims4("flatten", "x")?;
    let y = exchanged(x, [n, h * w, c])?.reshape(&[n, c * h * w])?;
    let x_id = x.id();
    tape.push(&[x], &y, move |dy, gradients| {
        gradients.add(x_id, exchanged(dy, [n, c, h * w])?.reshape(&[n, h, w, c])?)
    });
    Ok(y)
}

/// `[n, rows, columns]` as `[n, columns, rows]`.
fn exchanged(x: &Tensor, [n, rows, columns]: [usize; 3]) -> Result<Tensor> {
    let shape = [n, columns, rows];
    match x.on() {
        On::Cpu => {
            let values = nhwc_to_nchw(x.cpu::<f32>()?, [n, columns, rows, 1]);
            Tensor::from_vec(values, &shape, &x.device())
        }
        On::Gpu(gpu) => {
            let y = x.empty_like(&shape, DType::F32)?;
            Launch::new("flatten_f32")
                .elements(y.len())
                .arg(x)
                .arg(&y)
                .arg(&(n as i32))
                .arg(&(rows as i32))
                .arg(&(columns as i32))
                .run(gpu)?;
            Ok(y)
        }
    }
}
