//! Pooling over windows of any size, stride and padding: `max_pool`, `avg_pool`. [`super::pool`] has the two usual ones.

use super::cpu::window_pool as cpu;
use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Result, Tape};

/// The windows of a pooling, as in PyTorch's `MaxPool2d(size, stride, padding)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Height and width, 1 to 15.
    pub size: usize,
    /// Step of both directions, 1 or more.
    pub stride: usize,
    /// Pixels around the image that windows may reach, at most half the size: no maximum is one of them, and in means they
    /// count as 0.
    pub padding: usize,
}

impl Window {
    /// How many windows stand along `input` pixels; `None` where none does or the window is none.
    pub fn count(&self, input: usize) -> Option<usize> {
        let Self { size, stride, padding } = *self;
        let sane = (1..=15).contains(&size) && stride > 0 && padding <= size / 2;
        if !sane || input == 0 {
            return None;
        }
        let room = (input + 2 * padding).checked_sub(size)?;
        Some(room / stride + 1)
    }

    /// `[N, P, Q, C]` of a pooled x `[N, H, W, C]`.
    fn pooled(&self, op: &'static str, x: &Tensor) -> Result<[usize; 4]> {
        let [n, h, w, c] = x.dims4(op, "x")?;
        let (Some(p), Some(q)) = (self.count(h), self.count(w)) else {
            return Err(Error::shape(
                op,
                "x",
                format!("an image that {self:?} fit into"),
                x.shape(),
            ));
        };
        Ok([n, p, q, c])
    }
}

/// Largest of each window: `y[n, p, q, c] = max_rs x[n, p·stride − padding + r, q·stride − padding + s, c]` over what lies
/// in the image; a NaN is a maximum.
///
/// Shapes: x [N, H, W, C], y [N, P, Q, C] with `P = ⌊(H + 2·padding − size) / stride⌋ + 1`, Q likewise.
/// Gradient: to the first maximum of the window in row-major order, as in PyTorch; keeps its position (u8).
/// Errors: [`crate::ErrorKind::Shape`] where no window fits.
pub fn max_pool(tape: &mut Tape, x: &Tensor, window: Window) -> Result<Tensor> {
    let shape = window.pooled("max_pool", x)?;
    let mut y = x.empty_like(&shape, DType::F32)?;
    let mut position = if tape.tracks(x) { Some(x.empty_like(&shape, DType::U8)?) } else { None };
    match x.on() {
        On::Cpu => {
            let position = position.as_mut().map(Tensor::cpu_mut).transpose()?;
            cpu::max_forward(window, four(x)?, x.cpu()?, y.cpu_mut()?, position);
        }
        On::Gpu(gpu) => {
            let launch = Launch::new("max_pool_forward_f32").elements(y.len());
            let launch = launch.arg(x).arg(&y).arg(&position.as_ref());
            geometry(launch, window, four(x)?, shape).run(gpu)?;
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

fn max_backward(dy: &Tensor, position: &Tensor, window: Window, x: [usize; 4]) -> Result<Tensor> {
    let mut dx = dy.empty_like(&x, DType::F32)?;
    match dy.on() {
        On::Cpu => cpu::max_backward(window, x, dy.cpu()?, position.cpu()?, dx.cpu_mut()?),
        On::Gpu(gpu) => {
            let launch = Launch::new("max_pool_backward_f32").elements(dx.len());
            let launch = launch.arg(dy).arg(position).arg(&dx);
            geometry(launch, window, x, four(dy)?).run(gpu)?;
        }
    }
    Ok(dx)
}

/// Mean of each window, what lies outside the image counted as 0: `y[n, p, q, c] = Σ_rs x[…] / size²`, x as in [`max_pool`].
///
/// Shapes and errors as [`max_pool`]. Gradient: `dx = Σ dy / size²` over the windows that hold the pixel.
pub fn avg_pool(tape: &mut Tape, x: &Tensor, window: Window) -> Result<Tensor> {
    let shape = window.pooled("avg_pool", x)?;
    let mut y = x.empty_like(&shape, DType::F32)?;
    match x.on() {
        On::Cpu => cpu::mean_forward(window, four(x)?, x.cpu()?, y.cpu_mut()?),
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
        On::Cpu => cpu::mean_backward(window, x, dy.cpu()?, dx.cpu_mut()?),
        On::Gpu(gpu) => {
            let launch = Launch::new("avg_pool_backward_f32").elements(dx.len()).arg(dy).arg(&dx);
            geometry(launch, window, x, four(dy)?).run(gpu)?;
        }
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
