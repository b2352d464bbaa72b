//! Pooling: `max_pool2`, `global_avg_pool`.

use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Result, Tape};
use rayon::prelude::*;

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
            let position = position.as_mut().map(|position| position.cpu_mut()).transpose()?;
            max_forward(x.cpu()?, y.cpu_mut()?, position, [n, h, w, c]);
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

fn max_forward(x: &[f32], y: &mut [f32], position: Option<&mut [u8]>, [_, h, w, c]: [usize; 4]) {
    let (p, q) = (h / 2, w / 2);
    let image = |n: usize, y: &mut [f32], mut position: Option<&mut [u8]>| {
        let x = &x[n * h * w * c..][..h * w * c];
        for (i, y) in y.iter_mut().enumerate() {
            let (row, column, channel) = (i / c / q, i / c % q, i % c);
            let at = |k: usize| x[((2 * row + k / 2) * w + 2 * column + k % 2) * c + channel];
            let best = (1..4).fold(0, |best, k| {
                let replaces = at(k) > at(best) || (at(k).is_nan() && !at(best).is_nan());
                if replaces { k } else { best }
            });
            *y = at(best);
            if let Some(position) = &mut position {
                position[i] = best as u8;
            }
        }
    };
    let outputs = (p * q * c).max(1);
    match position {
        Some(position) => y
            .par_chunks_mut(outputs)
            .zip(position.par_chunks_mut(outputs))
            .enumerate()
            .for_each(|(n, (y, position))| image(n, y, Some(position))),
        None => {
            y.par_chunks_mut(outputs).enumerate().for_each(|(n, y)| image(n, y, None));
        }
    }
}

fn max_backward(dy: &Tensor, position: &Tensor, [n, h, w, c]: [usize; 4]) -> Result<Tensor> {
    let mut dx = dy.empty_like(&[n, h, w, c], DType::F32)?;
    match dy.on() {
        On::Cpu => {
            let (p, q) = (h / 2, w / 2);
            let (dy, position) = (dy.cpu::<f32>()?, position.cpu::<u8>()?);
            let images = dx.cpu_mut::<f32>()?.par_chunks_mut((h * w * c).max(1));
            images.enumerate().for_each(|(n, dx)| {
                dx.fill(0.0);
                for i in 0..p * q * c {
                    let (row, column, channel) = (i / c / q, i / c % q, i % c);
                    let k = usize::from(position[n * p * q * c + i]);
                    dx[((2 * row + k / 2) * w + 2 * column + k % 2) * c + channel] =
                        dy[n * p * q * c + i];
                }
            });
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
            let x = x.cpu::<f32>()?;
            y.cpu_mut::<f32>()?.par_chunks_mut(c.max(1)).enumerate().for_each(|(n, y)| {
                let pixels = || x[n * h * w * c..][..h * w * c].chunks_exact(c);
                for (channel, y) in y.iter_mut().enumerate() {
                    let sum = pixels().map(|pixel| f64::from(pixel[channel])).sum::<f64>();
                    *y = (sum / (h * w) as f64) as f32;
                }
            });
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
    let pixels = (h * w) as f32;
    match dy.on() {
        On::Cpu => {
            let dy = dy.cpu::<f32>()?;
            let images = dx.cpu_mut::<f32>()?.par_chunks_mut((h * w * c).max(1));
            images.enumerate().for_each(|(n, dx)| {
                for (i, dx) in dx.iter_mut().enumerate() {
                    *dx = dy[n * c + i % c] / pixels;
                }
            });
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
