//! Pooling: `max_pool`, `avg_pool`, `global_avg_pool`. Maxima of [`Window::HALVES`], the windows of most networks, have
//! kernels of their own.

use crate::cpu::window::Window;
use crate::cpu::{pool2d, window_pool};
use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Result, Tape};

/// Largest of each window: `y[n, p, q, c] = max_rs x[n, p·stride − padding + r, q·stride − padding + s, c]` over what lies
/// in the image; a NaN is a maximum.
///
/// Shapes: x [N, H, W, C], y [N, P, Q, C] with `P = ⌊(H + 2·padding − size) / stride⌋ + 1`, Q likewise.
/// Gradient: to the first maximum of the window in row-major order, as in PyTorch; keeps its position (u8).
/// Errors: [`crate::ErrorKind::Shape`] where no window fits.
pub fn max_pool(tape: &mut Tape, x: &Tensor, window: Window) -> Result<Tensor> {
    let shape = pooled(window, "max_pool", x)?;
    let mut y = x.empty_like(&shape, DType::F32)?;
    let mut position = if tape.tracks(x) { Some(x.empty_like(&shape, DType::U8)?) } else { None };
    match x.on() {
        On::Cpu => {
            let position = position.as_mut().map(Tensor::cpu_mut).transpose()?;
            match window {
                Window::HALVES => max_of_halves(four(x)?, x.cpu()?, y.cpu_mut()?, position),
                _ => window_pool::max_forward(window, four(x)?, x.cpu()?, y.cpu_mut()?, position),
            }
        }
        On::Gpu(gpu) => {
            let [name, _] = max_kernels(window);
            let launch = Launch::new(name).elements(y.len());
            let launch = launch.arg(x).arg(&y).arg(&position.as_ref());
            max_geometry(launch, window, four(x)?, shape).run(gpu)?;
        }
    }
    if let Some(position) = position {
        let (x_id, from) = (x.id(), four(x)?);
        tape.push(&[x], &y, move |dy, gradients| {
            gradients.add(x_id, max_backward(dy, &position, window, from)?)
        });
    }
    Ok(y)
}

/// `[N, P, Q, C]` of a pooled x `[N, H, W, C]`.
fn pooled(window: Window, op: &'static str, x: &Tensor) -> Result<[usize; 4]> {
    let [n, h, w, c] = x.dims4(op, "x")?;
    let (Some(p), Some(q)) = (window.count(h), window.count(w)) else {
        let want = format!("an image that {window:?} fit into");
        return Err(Error::shape(op, "x", want, x.shape()));
    };
    Ok([n, p, q, c])
}

fn max_backward(dy: &Tensor, position: &Tensor, window: Window, x: [usize; 4]) -> Result<Tensor> {
    let mut dx = dy.empty_like(&x, DType::F32)?;
    match dy.on() {
        On::Cpu => {
            let (dy, position, dx) = (dy.cpu()?, position.cpu()?, dx.cpu_mut()?);
            match window {
                Window::HALVES => pool2d::max_backward(x, dy, position, dx),
                _ => window_pool::max_backward(window, x, dy, position, dx),
            }
        }
        On::Gpu(gpu) => {
            let [_, name] = max_kernels(window);
            let launch = Launch::new(name).elements(dx.len()).arg(dy).arg(position).arg(&dx);
            max_geometry(launch, window, x, four(dy)?).run(gpu)?;
        }
    }
    Ok(dx)
}

/// Forward and backward.
fn max_kernels(window: Window) -> [&'static str; 2] {
    match window {
        Window::HALVES => ["max_pool2_forward_f32", "max_pool2_backward_f32"],
        _ => ["max_pool_forward_f32", "max_pool_backward_f32"],
    }
}

/// The last arguments of [`max_kernels`]: the image alone where the windows are known.
fn max_geometry(launch: Launch, window: Window, x: [usize; 4], y: [usize; 4]) -> Launch {
    match window {
        Window::HALVES => x.iter().fold(launch, |launch, &extent| launch.arg(&(extent as i32))),
        _ => geometry(launch, window, x, y),
    }
}

/// Without `position`, positions are written where nobody reads them.
fn max_of_halves(shape: [usize; 4], x: &[f32], y: &mut [f32], position: Option<&mut [u8]>) {
    match position {
        Some(position) => pool2d::max_forward(shape, x, y, position),
        None => pool2d::max_forward(shape, x, y, &mut vec![0; y.len()]),
    }
}

/// Mean of each window, what lies outside the image counted as 0: `y[n, p, q, c] = Σ_rs x[…] / size²`, x as in [`max_pool`].
///
/// Shapes and errors as [`max_pool`]. Gradient: `dx = Σ dy / size²` over the windows that hold the pixel.
pub fn avg_pool(tape: &mut Tape, x: &Tensor, window: Window) -> Result<Tensor> {
    let shape = pooled(window, "avg_pool", x)?;
    let mut y = x.empty_like(&shape, DType::F32)?;
    match x.on() {
        On::Cpu => window_pool::mean_forward(window, four(x)?, x.cpu()?, y.cpu_mut()?),
        On::Gpu(gpu) => {
            let launch = Launch::new("avg_pool_forward_f32").elements(y.len()).arg(x).arg(&y);
            geometry(launch, window, four(x)?, shape).run(gpu)?;
        }
    }
    let (x_id, from) = (x.id(), four(x)?);
    tape.push(&[x], &y, move |dy, gradients| gradients.add(x_id, avg_backward(dy, window, from)?));
    Ok(y)
}

fn avg_backward(dy: &Tensor, window: Window, x: [usize; 4]) -> Result<Tensor> {
    let mut dx = dy.empty_like(&x, DType::F32)?;
    match dy.on() {
        On::Cpu => window_pool::mean_backward(window, x, dy.cpu()?, dx.cpu_mut()?),
        On::Gpu(gpu) => {
            let launch = Launch::new("avg_pool_backward_f32").elements(dx.len()).arg(dy).arg(&dx);
            geometry(launch, window, x, four(dy)?).run(gpu)?;
        }
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
            pool2d::mean_forward([n, h * w, c], x.cpu()?, y.cpu_mut()?);
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
    tape.push(&[x], &y, move |dy, gradients| {
        gradients.add(x_id, global_avg_backward(dy, [n, h, w, c])?)
    });
    Ok(y)
}

fn global_avg_backward(dy: &Tensor, [n, h, w, c]: [usize; 4]) -> Result<Tensor> {
    let mut dx = dy.empty_like(&[n, h, w, c], DType::F32)?;
    match dy.on() {
        On::Cpu => {
            pool2d::mean_backward([n, h * w, c], dy.cpu()?, dx.cpu_mut()?);
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

fn four(x: &Tensor) -> Result<[usize; 4]> {
    x.dims4("pool", "x")
}

/// The last arguments of every kernel: `n, h, w, c, p, q, size, stride, pad`.
fn geometry(
    launch: Launch,
    Window { size, stride, padding }: Window,
    [n, h, w, c]: [usize; 4],
    [_, p, q, _]: [usize; 4],
) -> Launch {
    let extents = [n, h, w, c, p, q, size, stride, padding];
    extents.iter().fold(launch, |launch, &extent| launch.arg(&(extent as i32)))
}
