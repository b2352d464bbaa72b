//! Batch normalisation over the last axis, in training and with running statistics.

use crate::cpu::batch_norm as cpu;
use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Result, Tape};

/// Training: `y = (x − μ_B)/√(σ²_B + eps) · weight + bias` with the batch's mean and biased variance by channel;
/// `running ← (1 − momentum)·running + momentum·batch`, there with the unbiased variance, as in PyTorch.
///
/// Shapes: x, y [.., C], more than one value a channel; weight, bias, running_mean, running_var `[C]`.
/// Gradient: through the statistics, for x, weight and bias; keeps x and the statistics.
/// Source: Ioffe & Szegedy 2015.
#[allow(clippy::too_many_arguments)] // The operands of PyTorch's `batch_norm`.
pub fn batch_norm_train(
    tape: &mut Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    running_mean: &mut Tensor,
    running_var: &mut Tensor,
    momentum: f32,
    eps: f32,
) -> Result<Tensor> {
    let layout = Layout::new(x, [weight, bias, running_mean, running_var])?;
    if layout.rows < 2 {
        return Err(Error::shape("batch_norm", "x", "more than 1 value a channel", x.shape()));
    }
    let (mean, var) = batch_statistics(x, &layout, running_mean, running_var, momentum)?;
    let batch = Statistics { mean, var, eps };
    let y = forward(x, &layout, &batch, weight, bias)?;
    let ids = (x.id(), weight.id(), bias.id());
    let (x_saved, weight_saved) = (x.clone(), weight.clone());
    tape.push(&[x, weight, bias], &y, move |dy, gradients| {
        let sums = parameter_gradients(dy, &x_saved, &layout, &batch, &weight_saved)?;
        if gradients.wants(ids.0) {
            let through = Some((&x_saved, &sums));
            gradients.add(ids.0, input_gradient(dy, &layout, &batch, &weight_saved, through)?)?;
        }
        gradients.add(ids.1, sums.weight)?;
        gradients.add(ids.2, sums.bias)
    });
    Ok(y)
}

/// Evaluation: `y = (x − running_mean)/√(running_var + eps) · weight + bias`.
///
/// Shapes: as [`batch_norm_train`], any number of values. Gradient: the statistics are constants; the sums for
/// weight and bias are made only where somebody wants them, so an attack does not pay for them.
pub fn batch_norm_eval(
    tape: &mut Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    running_mean: &Tensor,
    running_var: &Tensor,
    eps: f32,
) -> Result<Tensor> {
    let layout = Layout::new(x, [weight, bias, running_mean, running_var])?;
    let running = Statistics { mean: running_mean.clone(), var: running_var.clone(), eps };
    let y = forward(x, &layout, &running, weight, bias)?;
    let ids = (x.id(), weight.id(), bias.id());
    let for_parameters = (tape.tracks(weight) || tape.tracks(bias)).then(|| x.clone());
    let weight_saved = weight.clone();
    tape.push(&[x, weight, bias], &y, move |dy, gradients| {
        if gradients.wants(ids.0) {
            gradients.add(ids.0, input_gradient(dy, &layout, &running, &weight_saved, None)?)?;
        }
        if let Some(x) = for_parameters {
            let sums = parameter_gradients(dy, &x, &layout, &running, &weight_saved)?;
            gradients.add(ids.1, sums.weight)?;
            gradients.add(ids.2, sums.bias)?;
        }
        Ok(())
    });
    Ok(y)
}

/// What x is normalised with: mean and biased variance by channel.
struct Statistics {
    mean: Tensor,
    var: Tensor,
    eps: f32,
}

/// `weight: Σ dy·x̂`, `bias: Σ dy` by channel, x̂ the normalised x.
struct AffineGradients {
    weight: Tensor,
    bias: Tensor,
}

/// `rows` × `c` values, and how kernels walk them: in blocks of `lanes` × 256/`lanes` threads with channels along x;
/// the first stage of a sum over rows in `slices` slices along y.
#[derive(Clone, Copy)]
struct Layout {
    rows: usize,
    c: usize,
    lanes: usize,
    slices: usize,
}

impl Layout {
    fn new(x: &Tensor, by_channel: [&Tensor; 4]) -> Result<Self> {
        let c = match x.shape().last() {
            Some(&c) if c > 0 => c,
            _ => return Err(Error::shape("batch_norm", "x", "of 1 channel or more", x.shape())),
        };
        let names = ["weight", "bias", "running_mean", "running_var"];
        for (what, operand) in names.into_iter().zip(by_channel) {
            operand.expect_shape("batch_norm", what, &[c])?;
        }
        let rows = x.len() / c;
        let lanes = c.next_power_of_two().min(32);
        // Eight rows a thread before another slice pays; more than 128 only lengthen the second stage.
        let slices = rows.div_ceil(8 * (256 / lanes)).clamp(1, 128);
        Ok(Self { rows, c, lanes, slices })
    }

    /// A first stage of a sum over rows.
    fn partial(&self, name: &'static str) -> Launch {
        self.launch(name, self.slices)
    }

    /// A walk over all elements, four rows a thread.
    fn elements(&self, name: &'static str) -> Launch {
        self.launch(name, self.rows.div_ceil(4 * (256 / self.lanes)).clamp(1, 65535))
    }

    fn launch(&self, name: &'static str, slices: usize) -> Launch {
        Launch::new(name).grid(self.c.div_ceil(self.lanes) as u32, slices as u32, 1).block(
            self.lanes as u32,
            (256 / self.lanes) as u32,
            1,
        )
    }

    /// Kernels that finish the partial sums: a thread a channel.
    fn finish(&self, name: &'static str) -> Launch {
        Launch::new(name).grid(self.c.div_ceil(128) as u32, 1, 1).block(128, 1, 1)
    }
}

impl Statistics {
    /// `1/√(var + eps)` by channel.
    fn inv_std(&self) -> Result<Vec<f32>> {
        let mut inv_std = vec![0.0; self.var.len()];
        cpu::inverse_deviation(self.var.cpu()?, self.eps, &mut inv_std);
        Ok(inv_std)
    }

    fn norm<'a>(&'a self, inv_std: &'a [f32], weight: &'a Tensor) -> Result<cpu::ChannelNorm<'a>> {
        Ok(cpu::ChannelNorm { mean: self.mean.cpu()?, invstd: inv_std, gamma: weight.cpu()? })
    }
}

/// Mean and biased variance of the batch; carries them into the running ones.
fn batch_statistics(
    x: &Tensor,
    layout: &Layout,
    running_mean: &mut Tensor,
    running_var: &mut Tensor,
    momentum: f32,
) -> Result<(Tensor, Tensor)> {
    let &Layout { rows, c, slices, .. } = layout;
    let mut mean = x.empty_like(&[c], DType::F32)?;
    let mut var = x.empty_like(&[c], DType::F32)?;
    match x.on() {
        On::Cpu => {
            let (mean, var) = (mean.cpu_mut::<f32>()?, var.cpu_mut::<f32>()?);
            cpu::statistics(x.cpu()?, mean, var);
            let unbiased = rows as f32 / (rows - 1) as f32;
            let average = |running: &mut f32, batch: f32| {
                *running = (1.0 - momentum) * *running + momentum * batch;
            };
            let means = running_mean.cpu_mut::<f32>()?.iter_mut().zip(mean);
            means.for_each(|(running, mean)| average(running, *mean));
            let vars = running_var.cpu_mut::<f32>()?.iter_mut().zip(var);
            vars.for_each(|(running, var)| average(running, *var * unbiased));
        }
        On::Gpu(gpu) => {
            let partial = x.empty_like(&[2, slices, c], DType::F32)?;
            layout
                .partial("batch_norm_statistics_f32")
                .arg(x)
                .arg(&partial)
                .arg(&(rows as i32))
                .arg(&(c as i32))
                .run(gpu)?;
            running_mean.make_unique()?;
            running_var.make_unique()?;
            layout
                .finish("batch_norm_statistics_finish_f32")
                .arg(&partial)
                .arg(&mean)
                .arg(&var)
                .arg(running_mean)
                .arg(running_var)
                .arg(&momentum)
                .arg(&(rows as i32))
                .arg(&(c as i32))
                .arg(&(slices as i32))
                .run(gpu)?;
        }
    }
    Ok((mean, var))
}

fn forward(
    x: &Tensor,
    layout: &Layout,
    statistics: &Statistics,
    weight: &Tensor,
    bias: &Tensor,
) -> Result<Tensor> {
    let &Layout { rows, c, .. } = layout;
    let mut y = x.empty_like(x.shape(), DType::F32)?;
    match x.on() {
        On::Cpu => {
            let inv_std = statistics.inv_std()?;
            statistics.norm(&inv_std, weight)?.forward(x.cpu()?, bias.cpu()?, y.cpu_mut()?);
        }
        On::Gpu(gpu) => layout
            .elements("batch_norm_forward_f32")
            .arg(x)
            .arg(&statistics.mean)
            .arg(&statistics.var)
            .arg(weight)
            .arg(bias)
            .arg(&y)
            .arg(&statistics.eps)
            .arg(&(rows as i32))
            .arg(&(c as i32))
            .run(gpu)?,
    }
    Ok(y)
}

fn parameter_gradients(
    dy: &Tensor,
    x: &Tensor,
    layout: &Layout,
    statistics: &Statistics,
    weight: &Tensor,
) -> Result<AffineGradients> {
    let &Layout { rows, c, slices, .. } = layout;
    let mut sums = AffineGradients {
        weight: x.empty_like(&[c], DType::F32)?,
        bias: x.empty_like(&[c], DType::F32)?,
    };
    match x.on() {
        On::Cpu => {
            let inv_std = statistics.inv_std()?;
            statistics.norm(&inv_std, weight)?.backward_parameters(
                x.cpu()?,
                dy.cpu()?,
                sums.weight.cpu_mut()?,
                sums.bias.cpu_mut()?,
            );
        }
        On::Gpu(gpu) => {
            let partial = x.empty_like(&[2, slices, c], DType::F32)?;
            layout
                .partial("batch_norm_backward_weight_f32")
                .arg(dy)
                .arg(x)
                .arg(&statistics.mean)
                .arg(&statistics.var)
                .arg(&partial)
                .arg(&statistics.eps)
                .arg(&(rows as i32))
                .arg(&(c as i32))
                .run(gpu)?;
            layout
                .finish("batch_norm_backward_weight_finish_f32")
                .arg(&partial)
                .arg(&sums.weight)
                .arg(&sums.bias)
                .arg(&(c as i32))
                .arg(&(slices as i32))
                .run(gpu)?;
        }
    }
    Ok(sums)
}

/// `dx = weight/√(var + eps) · dy`; `through` the batch's statistics (x and the sums) it is
/// `weight/√(var + eps) · (dy − Σdy/n − x̂·Σ(dy·x̂)/n)`.
fn input_gradient(
    dy: &Tensor,
    layout: &Layout,
    statistics: &Statistics,
    weight: &Tensor,
    through: Option<(&Tensor, &AffineGradients)>,
) -> Result<Tensor> {
    let &Layout { rows, c, .. } = layout;
    let mut dx = dy.empty_like(dy.shape(), DType::F32)?;
    match dy.on() {
        On::Cpu => {
            let inv_std = statistics.inv_std()?;
            let norm = statistics.norm(&inv_std, weight)?;
            let (dy, dx) = (dy.cpu()?, dx.cpu_mut()?);
            match through {
                None => norm.backward_input_frozen(dy, dx),
                Some((x, sums)) => {
                    norm.backward_input(x.cpu()?, dy, sums.weight.cpu()?, sums.bias.cpu()?, dx);
                }
            }
        }
        On::Gpu(gpu) => layout
            .elements("batch_norm_backward_input_f32")
            .arg(dy)
            .arg(&through.map(|(x, _)| x))
            .arg(&statistics.mean)
            .arg(&statistics.var)
            .arg(weight)
            .arg(&through.map(|(_, sums)| &sums.weight))
            .arg(&through.map(|(_, sums)| &sums.bias))
            .arg(&dx)
            .arg(&statistics.eps)
            .arg(&(rows as i32))
            .arg(&(c as i32))
            .run(gpu)?,
    }
    Ok(dx)
}
