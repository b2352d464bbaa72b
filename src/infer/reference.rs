//! A network in float64 on the host, by the definitions: what every execution is compared with.

use crate::nn::{Model, Op};
use crate::ops::Window;
use crate::{Error, Result, Tensor};
use rayon::prelude::*;

/// Logits and what the convolutions saw.
pub struct Reference {
    /// `[N, classes]`.
    pub logits: Vec<f64>,
    /// One entry per convolution, in the order they run.
    pub inputs: Vec<ConvInput>,
}

/// The input of one convolution.
pub struct ConvInput {
    /// Prefix of its parameters.
    pub name: String,
    /// `[H, W, C]`.
    pub shape: [usize; 3],
    /// Share of the (image, channel) maps that are zero everywhere.
    pub dead_maps: f64,
}

/// One image's activations `[H, W, C]`; vectors have H = W = 1.
#[derive(Clone)]
struct Map {
    shape: [usize; 3],
    data: Vec<f64>,
}

/// Evaluates `model` (running statistics) on `x [N, H, W, C]`, products and sums in float64.
///
/// Errors: those of reading the model's tensors; [`crate::ErrorKind::Device`] where the host's free memory does not hold
/// the pass.
pub fn reference(model: &Model, x: &Tensor) -> Result<Reference> {
    let [n, h, w, c] = x.dims4("reference", "x")?;
    model.check_memory(n, size_of::<f64>())?;
    let pixels = x.to_vec::<f32>()?;
    let parameters = Parameters::of(model)?;
    let per_image: Vec<(Vec<f64>, Vec<ConvInput>)> = (0..n)
        .into_par_iter()
        .map(|image| {
            let pixels = &pixels[image * h * w * c..(image + 1) * h * w * c];
            let data = pixels.iter().map(|&value| f64::from(value)).collect();
            evaluate(model, &parameters, Map { shape: [h, w, c], data })
        })
        .collect::<Result<_>>()?;
    let mut logits = Vec::new();
    let mut inputs: Vec<ConvInput> = Vec::new();
    for (image, (row, seen)) in per_image.into_iter().enumerate() {
        logits.extend(row);
        if image == 0 {
            inputs = seen;
        } else {
            inputs.iter_mut().zip(seen).for_each(|(all, one)| all.dead_maps += one.dead_maps);
        }
    }
    inputs.iter_mut().for_each(|input| input.dead_maps /= n.max(1) as f64);
    Ok(Reference { logits, inputs })
}

/// The model's tensors as float64, by name.
struct Parameters(std::collections::BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Parameters {
    fn of(model: &Model) -> Result<Self> {
        let widen = |(name, tensor): (String, Tensor)| {
            let values = tensor.to_vec::<f32>()?.into_iter().map(f64::from).collect();
            Ok((name, (tensor.shape().to_vec(), values)))
        };
        model.state_dict().into_iter().map(widen).collect::<Result<_>>().map(Self)
    }

    fn get(&self, prefix: &str, part: &str) -> Result<(&[usize], &[f64])> {
        let name = format!("{prefix}.{part}");
        let found = self.0.get(&name).map(|(shape, values)| (shape.as_slice(), values.as_slice()));
        found.ok_or_else(|| Error::param("parameter", name, "one that the network has"))
    }

    fn bias(&self, prefix: &str, present: bool, len: usize) -> Result<Vec<f64>> {
        if present { Ok(self.get(prefix, "bias")?.1.to_vec()) } else { Ok(vec![0.0; len]) }
    }
}

fn evaluate(model: &Model, parameters: &Parameters, x: Map) -> Result<(Vec<f64>, Vec<ConvInput>)> {
    let (mut values, mut seen): (Vec<Option<Map>>, Vec<ConvInput>) = (Vec::new(), Vec::new());
    let last_use = model.graph().last_use();
    for (i, node) in model.graph().nodes.iter().enumerate() {
        // A value goes after its last use; the nodes that read it stand before that.
        let operand = |place: usize| node.inputs.get(place).and_then(|&i| values[i].as_ref());
        let input = operand(0).unwrap_or(&x);
        let y = match &node.op {
            Op::Input => x.clone(),
            Op::Normalize { mean, std } => {
                input.channels(|value, c| (value - f64::from(mean[c])) / f64::from(std[c]))
            }
            Op::Conv { name, bias, stride, padding, channels } => {
                let gathered = channels.as_ref().map(|list| input.gather(list));
                let input = gathered.as_ref().unwrap_or(input);
                let dead_maps = input.dead();
                seen.push(ConvInput { name: name.clone(), shape: input.shape, dead_maps });
                let (shape, weight) = parameters.get(name, "weight")?;
                let bias = parameters.bias(name, *bias, shape[0])?;
                input.conv(shape, weight, &bias, *stride, *padding)
            }
            Op::BatchNorm { name, eps, .. } => {
                let part = |part: &str| parameters.get(name, part).map(|found| found.1);
                let (gamma, beta) = (part("weight")?, part("bias")?);
                let (mean, var) = (part("running_mean")?, part("running_var")?);
                input.channels(|value, c| {
                    (value - mean[c]) / (var[c] + f64::from(*eps)).sqrt() * gamma[c] + beta[c]
                })
            }
            Op::Relu => input.channels(|value, _| value.max(0.0)),
            &Op::MaxPool(window) => input.pool(window, f64::max, |_| 1.0),
            &Op::AvgPool(window) => {
                let area = |window: Window| (window.size * window.size) as f64;
                input.pool(window, |a, b| a + b, area)
            }
            Op::Flatten => input.flatten(),
            Op::GlobalAvgPool => input.mean(),
            Op::Linear { name, bias } => {
                let (shape, weight) = parameters.get(name, "weight")?;
                let bias = parameters.bias(name, *bias, shape[0])?;
                input.conv(&[shape[0], 1, 1, shape[1]], weight, &bias, 1, 0)
            }
            Op::Add => {
                let other = operand(1).unwrap_or(input);
                let sums = input.data.iter().zip(&other.data).map(|(a, b)| a + b);
                Map { shape: input.shape, data: sums.collect() }
            }
        };
        values.push(Some(y));
        for &input in node.inputs.iter().filter(|&&input| last_use[input] == i) {
            values[input] = None;
        }
    }
    Ok((values.pop().flatten().map(|logits| logits.data).unwrap_or_default(), seen))
}

impl Map {
    fn channels(&self, f: impl Fn(f64, usize) -> f64) -> Self {
        let c = self.shape[2];
        let data = self.data.iter().enumerate().map(|(i, &value)| f(value, i % c)).collect();
        Self { shape: self.shape, data }
    }

    fn gather(&self, list: &[usize]) -> Self {
        let [h, w, c] = self.shape;
        let pixels = self.data.chunks_exact(c);
        let data = pixels.flat_map(|pixel| list.iter().map(|&channel| pixel[channel])).collect();
        Self { shape: [h, w, list.len()], data }
    }

    /// Share of channels that are zero in every pixel.
    fn dead(&self) -> f64 {
        let c = self.shape[2];
        let dead =
            |&channel: &usize| self.data.iter().skip(channel).step_by(c).all(|&value| value == 0.0);
        (0..c).filter(dead).count() as f64 / c.max(1) as f64
    }

    fn conv(
        &self,
        shape: &[usize],
        weight: &[f64],
        bias: &[f64],
        stride: usize,
        padding: usize,
    ) -> Self {
        let ([h, w, c], [k, r, s]) = (self.shape, [shape[0], shape[1], shape[2]]);
        let (p, q) = ((h + 2 * padding - r) / stride + 1, (w + 2 * padding - s) / stride + 1);
        let mut data = Vec::with_capacity(p * q * k);
        for (oh, ow) in (0..p).flat_map(|oh| (0..q).map(move |ow| (oh, ow))) {
            for filter in 0..k {
                let mut sum = bias[filter];
                for (dy, dx) in (0..r).flat_map(|dy| (0..s).map(move |dx| (dy, dx))) {
                    let (y, x) = (oh * stride + dy, ow * stride + dx);
                    if y < padding || x < padding || y - padding >= h || x - padding >= w {
                        continue;
                    }
                    let pixel = ((y - padding) * w + x - padding) * c;
                    let tap = ((filter * r + dy) * s + dx) * c;
                    sum += dot(&self.data[pixel..pixel + c], &weight[tap..tap + c]);
                }
                data.push(sum);
            }
        }
        Self { shape: [p, q, k], data }
    }

    /// What `join` makes of the pixels of each window, over `divisor`.
    fn pool(
        &self,
        window: Window,
        join: impl Fn(f64, f64) -> f64,
        divisor: impl Fn(Window) -> f64,
    ) -> Self {
        let [h, w, c] = self.shape;
        let [p, q] = [h, w].map(|extent| window.count(extent).unwrap_or(0));
        let Window { size, stride, padding } = window;
        let inside = |at: usize, extent: usize| {
            let places = (0..size).map(move |r| at * stride + r);
            places.filter_map(move |y| y.checked_sub(padding).filter(|&y| y < extent))
        };
        let mut data = Vec::with_capacity(p * q * c);
        for (row, column) in (0..p).flat_map(|row| (0..q).map(move |column| (row, column))) {
            let pixels: Vec<usize> = inside(row, h)
                .flat_map(|y| inside(column, w).map(move |x| (y * w + x) * c))
                .collect();
            data.extend((0..c).map(|channel| {
                let values = pixels.iter().map(|pixel| self.data[pixel + channel]);
                values.reduce(&join).unwrap_or(0.0) / divisor(window)
            }));
        }
        Self { shape: [p, q, c], data }
    }

    fn flatten(&self) -> Self {
        let c = self.shape[2];
        let data: Vec<f64> =
            (0..c).flat_map(|channel| self.data.iter().skip(channel).step_by(c).copied()).collect();
        Self { shape: [1, 1, data.len()], data }
    }

    fn mean(&self) -> Self {
        let [h, w, c] = self.shape;
        let sum = |channel: usize| self.data.iter().skip(channel).step_by(c).sum::<f64>();
        Self {
            shape: [1, 1, c],
            data: (0..c).map(|channel| sum(channel) / (h * w) as f64).collect(),
        }
    }
}

/// Eight independent sums, so that the compiler may use vectors.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + tail
}
