//! Batch normalisation over the last axis, in training and with running statistics.

use super::elementwise::CHUNK;
use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Result, Tape};
use rayon::prelude::*;

/// Training: `y = (x − μ_B)/√(σ²_B + eps) · weight + bias` with the batch's mean and biased variance by channel;
/// `running ← (1 − momentum)·running + momentum·batch`, there with the unbiased variance, as in PyTorch.
///
/// Shapes: x, y [.., C], more than one value a channel; weight, bias, running_mean, running_var [C].
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
        let sums = parameter_gradients(dy, &x_saved, &layout, &batch)?;
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
            let sums = parameter_gradients(dy, &x, &layout, &running)?;
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
struct Sums {
    weight: Tensor,
    bias: Tensor,
}

/// How `rows` × `c` values are walked: by the CPU in chunks of `chunk` rows; by kernels in blocks of
/// `lanes` × 256/`lanes` threads, channels along x, `slices` slices of rows along y.
#[derive(Clone, Copy)]
struct Layout {
    rows: usize,
    c: usize,
    chunk: usize,
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
        Ok(Self { rows, c, chunk: (CHUNK / c).max(1), lanes, slices })
    }

    fn launch(&self, name: &'static str) -> Launch {
        Launch::new(name).grid(self.c.div_ceil(self.lanes) as u32, self.slices as u32, 1).block(
            self.lanes as u32,
            (256 / self.lanes) as u32,
            1,
        )
    }

    /// Kernels that finish the partial sums: a thread a channel.
    fn finish(&self, name: &'static str) -> Launch {
        Launch::new(name).grid(self.c.div_ceil(128) as u32, 1, 1).block(128, 1, 1)
    }

    /// Sums over rows by channel in f64: chunks in parallel, their sums added in order.
    fn sums<const S: usize>(&self, add: impl Fn(usize, &mut [[f64; S]]) + Sync) -> Vec<[f64; S]> {
        let partial = (0..self.rows.div_ceil(self.chunk))
            .into_par_iter()
            .map(|i| {
                let mut sums = vec![[0.0; S]; self.c];
                let rows = i * self.chunk..((i + 1) * self.chunk).min(self.rows);
                rows.for_each(|row| add(row * self.c, &mut sums));
                sums
            })
            .collect::<Vec<_>>();
        let mut total = vec![[0.0; S]; self.c];
        for sums in partial {
            for (total, sum) in total.iter_mut().zip(sums) {
                (0..S).for_each(|s| total[s] += sum[s]);
            }
        }
        total
    }

    /// `f(row's offset, row of out)` for every row.
    fn fill(&self, out: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
        let elements = self.chunk * self.c;
        out.par_chunks_mut(elements).enumerate().for_each(|(i, chunk)| {
            for (row, out) in chunk.chunks_exact_mut(self.c).enumerate() {
                f(i * elements + row * self.c, out);
            }
        });
    }
}

impl Statistics {
    /// `1/√(var + eps)` by channel.
    fn inv_std(&self) -> Result<Vec<f32>> {
        Ok(self.var.cpu::<f32>()?.iter().map(|var| 1.0 / (var + self.eps).sqrt()).collect())
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
            let x = x.cpu::<f32>()?;
            let sums = layout.sums::<1>(|at, sums| {
                sums.iter_mut().zip(&x[at..]).for_each(|(s, &x)| s[0] += f64::from(x));
            });
            let means = sums.iter().map(|s| s[0] / rows as f64).collect::<Vec<_>>();
            let squares = layout.sums::<1>(|at, sums| {
                for ((s, &x), mean) in sums.iter_mut().zip(&x[at..]).zip(&means) {
                    s[0] += (f64::from(x) - mean) * (f64::from(x) - mean);
                }
            });
            let (mean, var) = (mean.cpu_mut::<f32>()?, var.cpu_mut::<f32>()?);
            let running = running_mean.cpu_mut::<f32>()?.iter_mut();
            for (i, (r_mean, r_var)) in running.zip(running_var.cpu_mut::<f32>()?).enumerate() {
                mean[i] = means[i] as f32;
                var[i] = (squares[i][0] / rows as f64) as f32;
                let unbiased = (squares[i][0] / (rows - 1) as f64) as f32;
                *r_mean = (1.0 - momentum) * *r_mean + momentum * mean[i];
                *r_var = (1.0 - momentum) * *r_var + momentum * unbiased;
            }
        }
        On::Gpu(gpu) => {
            let partial = x.empty_like(&[2, slices, c], DType::F32)?;
            layout
                .launch("batch_norm_statistics_f32")
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
            let (x, mean, bias) =
                (x.cpu::<f32>()?, statistics.mean.cpu::<f32>()?, bias.cpu::<f32>()?);
            let weight = weight.cpu::<f32>()?.iter();
            let scale =
                weight.zip(statistics.inv_std()?).map(|(w, inv)| inv * w).collect::<Vec<f32>>();
            layout.fill(y.cpu_mut()?, |at, y| {
                let x = &x[at..][..c];
                for i in 0..c {
                    y[i] = (x[i] - mean[i]) * scale[i] + bias[i];
                }
            });
        }
        On::Gpu(gpu) => layout
            .launch("batch_norm_forward_f32")
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
) -> Result<Sums> {
    let &Layout { rows, c, slices, .. } = layout;
    let mut sums =
        Sums { weight: x.empty_like(&[c], DType::F32)?, bias: x.empty_like(&[c], DType::F32)? };
    match x.on() {
        On::Cpu => {
            let (x, dy) = (x.cpu::<f32>()?, dy.cpu::<f32>()?);
            let (mean, inv_std) = (statistics.mean.cpu::<f32>()?, statistics.inv_std()?);
            let totals = layout.sums::<2>(|at, sums| {
                let (x, dy) = (&x[at..][..c], &dy[at..][..c]);
                for i in 0..c {
                    let x_hat = (x[i] - mean[i]) * inv_std[i];
                    sums[i][0] += f64::from(dy[i] * x_hat);
                    sums[i][1] += f64::from(dy[i]);
                }
            });
            let outputs = sums.weight.cpu_mut::<f32>()?.iter_mut().zip(sums.bias.cpu_mut()?);
            for ((weight, bias), total) in outputs.zip(totals) {
                (*weight, *bias) = (total[0] as f32, total[1] as f32);
            }
        }
        On::Gpu(gpu) => {
            let partial = x.empty_like(&[2, slices, c], DType::F32)?;
            layout
                .launch("batch_norm_backward_weight_f32")
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
    through: Option<(&Tensor, &Sums)>,
) -> Result<Tensor> {
    let &Layout { rows, c, .. } = layout;
    let mut dx = dy.empty_like(dy.shape(), DType::F32)?;
    match dy.on() {
        On::Cpu => {
            let (dy, mean) = (dy.cpu::<f32>()?, statistics.mean.cpu::<f32>()?);
            let inv_std = statistics.inv_std()?;
            let weight = weight.cpu::<f32>()?.iter();
            let scale = weight.zip(&inv_std).map(|(w, inv)| inv * w).collect::<Vec<f32>>();
            let Some((x, sums)) = through else {
                layout.fill(dx.cpu_mut()?, |at, dx| {
                    dx.iter_mut().zip(&dy[at..]).zip(&scale).for_each(|((dx, dy), s)| *dx = dy * s);
                });
                return Ok(dx);
            };
            let mean_of = |sum: &Tensor| -> Result<Vec<f32>> {
                Ok(sum.cpu::<f32>()?.iter().map(|sum| sum / rows as f32).collect())
            };
            let (x, weight, bias) = (x.cpu::<f32>()?, mean_of(&sums.weight)?, mean_of(&sums.bias)?);
            layout.fill(dx.cpu_mut()?, |at, dx| {
                let (x, dy) = (&x[at..][..c], &dy[at..][..c]);
                for i in 0..c {
                    let x_hat = (x[i] - mean[i]) * inv_std[i];
                    dx[i] = scale[i] * (dy[i] - bias[i] - x_hat * weight[i]);
                }
            });
        }
        On::Gpu(gpu) => layout
            .launch("batch_norm_backward_input_f32")
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
