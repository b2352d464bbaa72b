//! Pooling: `max_pool2`, `global_avg_pool`.

use super::cpu::pool2d as cpu;
use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Result, Tape};

/// Largest of each 2×2 window, stride 2; an odd last row or column is left out.
///
/// Shapes: x [N, H, W, C], H and W at least 2; y [N, ⌊H/2⌋, ⌊W/2⌋, C].
/// Gradient: to the first maximum of the window in row-major order, as in PyTorch; keeps its position (u8).
pub fn max_pool2(tape: &mut Tape, x: &Tensor) -> Result<Tensor> {
    let [n, h, w, c] = x.dims4("max_pool2", "x")?;
    if h < 2 || w < 2 {
        return Err(Error::shape("max_pool2", "x", "at least 2 high and 2 wide", x.shape()));
    }
    let shape = [n, h / 2, w / 2, c];
    let mut y = x.empty_like(&shape, DType::F32)?;
    let mut position = if tape.tracks(x) { Some(x.empty_like(&shape, DType::U8)?) } else { None };
    match x.on() {
        On::Cpu => {
            let mut unasked = vec![0; if position.is_none() { y.len() } else { 0 }];
            let position = match &mut position {
                Some(position) => position.cpu_mut()?,
                None => unasked.as_mut_slice(),
            };
            cpu::max_forward([n, h, w, c], x.cpu()?, y.cpu_mut()?, position);
        }
        On::Gpu(gpu) => Launch::new("max_pool2_forward_f32")
            .elements(y.len())
            .arg(x)
            .arg(&y)
            .arg(&position.as_ref())
            .arg(&(n as i32))
            .arg(&(h as i32))
            .arg(&(w as i32))
            .arg(&(c as i32))
            .run(gpu)?,
    }
    if let Some(position) = position {
        let x_id = x.id();
        tape.push(&[x], &y, move |dy, gradients| {
            gradients.add(x_id, max_backward(dy, &position, [n, h, w, c])?)
        });
    }
    Ok(y)
}

fn max_backward(dy: &Tensor, position: &Tensor, [n, h, w, c]: [usize; 4]) -> Result<Tensor> {
    let mut dx = dy.empty_like(&[n, h, w, c], DType::F32)?;
    match dy.on() {
        On::Cpu => {
            cpu::max_backward([n, h, w, c], dy.cpu()?, position.cpu()?, dx.cpu_mut()?);
        }
        On::Gpu(gpu) => Launch::new("max_pool2_backward_f32")
            .elements(dx.len())
            .arg(dy)
            .arg(position)
            .arg(&dx)
            .arg(&(n as i32))
            .arg(&(h as i32))
            .arg(&(w as i32))
            .arg(&(c as i32))
            .run(gpu)?,
    }
    Ok(dx)
}

/// Mean of each channel over the pixels: `y[n, c] = Σ_hw x[n, h, w, c] / (H·W)`.
///
/// Shapes: x [N, H, W, C], at least one pixel; y [N, C]. Gradient: `dx = dy / (H·W)`.
pub fn global_avg_pool(tape: &mut Tape, x: &Tensor) -> Result<Tensor> {
    let [n, h, w, c] = x.dims4("global_avg_pool", "x")?;
    if h * w == 0 {
        return Err(Error::shape("global_avg_pool", "x", "of 1 pixel or more", x.shape()));
    }
    let mut y = x.empty_like(&[n, c], DType::F32)?;
    match x.on() {
        On::Cpu => {
            cpu::mean_forward([n, h * w, c], x.cpu()?, y.cpu_mut()?);
        }
        On::Gpu(gpu) => Launch::new("global_avg_pool_forward_f32")
            .elements(n * c)
            .arg(x)
            .arg(&y)
            .arg(&(n as i32))
            .arg(&((h * w) as i32))
            .arg(&(c as i32))
            .run(gpu)?,
    }
    let x_id = x.id();
    tape.push(&[x], &y, move |dy, gradients| gradients.add(x_id, avg_backward(dy, [n, h, w, c])?));
    Ok(y)
}

fn avg_backward(dy: &Tensor, [n, h, w, c]: [usize; 4]) -> Result<Tensor> {
    let mut dx = dy.empty_like(&[n, h, w, c], DType::F32)?;
    match dy.on() {
        On::Cpu => {
            cpu::mean_backward([n, h * w, c], dy.cpu()?, dx.cpu_mut()?);
        }
        On::Gpu(gpu) => Launch::new("global_avg_pool_backward_f32")
            .elements(dx.len())
            .arg(dy)
            .arg(&dx)
            .arg(&(n as i32))
            .arg(&((h * w) as i32))
            .arg(&(c as i32))
            .run(gpu)?,
    }
    Ok(dx)
}
