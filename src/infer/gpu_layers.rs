//! A network on a GPU, layer by layer: what each needs on the device, and how it runs.

use super::fused::{Conv, Layer, LayerOp, Network};
use super::gpu::gpu;
use crate::dtype::DType;
use crate::ops::{
    self, Channels, InferConv2d, PackedFilter, PackedSparseFilter, SparseProduct, TileConfig,
};
use crate::{Device, Error, Mode, Result, Tape, Tensor};
use std::time::Instant;

/// Launches of a configuration that are timed together.
const LAUNCHES: usize = 5;

/// Kept share from which 2:4 blocks would be so many that dense ones take fewer cycles.
const DENSE_PRODUCT: f64 = 0.4;

/// Layers with what they need on the device.
pub(super) struct Compiled {
    layers: Vec<(Layer, Ready)>,
    last_use: Vec<usize>,
    mode: Mode,
    sparse: bool,
}

enum Ready {
    Rows(InferConv2d, TileConfig),
    Planes(PackedSparseFilter),
    Linear {
        weight: Tensor,
        bias: Tensor,
    },
    /// Mean and standard deviation of the image's channels.
    Normalize([Tensor; 2]),
    Nothing,
}

/// A value, by how its elements lie.
#[derive(Clone)]
enum Value {
    /// f32 `[N, H, W, C]`.
    Image(Tensor),
    /// `[N, H, W, padded C]` in the mode's storage type, and C.
    Rows(Tensor, usize),
    /// bf16 planes of eight images, and the `[N, H, W, C]` that they are.
    Planes(Tensor, [usize; 4]),
    /// f32 `[N, C]`.
    Matrix(Tensor),
}

impl Value {
    fn channels(&self) -> usize {
        match self {
            Self::Rows(_, c) => *c,
            Self::Planes(_, shape) => shape[3],
            Self::Image(x) | Self::Matrix(x) => x.shape().last().copied().unwrap_or(0),
        }
    }
}

impl Compiled {
    pub(super) fn new(
        network: &Network,
        batch: usize,
        mode: Mode,
        sparse: bool,
        measure: bool,
        device: &Device,
    ) -> Result<Self> {
        let mut layers = Vec::new();
        for layer in &network.layers {
            let from = network.shapes[layer.input];
            let ready = match &layer.op {
                LayerOp::Conv(conv) if conv.linear => Ready::Linear {
                    weight: upload(&conv.weight, &[conv.dims[0], conv.dims[3]], device)?,
                    bias: upload(&conv.bias, &[conv.dims[0]], device)?,
                },
                LayerOp::Conv(conv) => {
                    convolution(layer, conv, from, batch, mode, sparse, measure, device)?
                }
                LayerOp::Pointwise(Some((scale, shift))) => {
                    match layer.input == 0 && scale.iter().all(|&scale| scale != 0.0) {
                        true => normalize(scale, shift, device)?,
                        false => {
                            let conv = diagonal(scale, shift);
                            convolution(layer, &conv, from, batch, mode, sparse, measure, device)?
                        }
                    }
                }
                _ => Ready::Nothing,
            };
            let mut layer = layer.clone();
            layer.op = without_weights(layer.op);
            layers.push((layer, ready));
        }
        Ok(Self { layers, last_use: network.last_use(), mode, sparse })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut values = vec![Some(Value::Image(x.clone()))];
        for (i, (layer, ready)) in self.layers.iter().enumerate() {
            let missing = || Error::param("plan", i, "a layer whose operands are computed");
            let x = values[layer.input].clone().ok_or_else(missing)?;
            let residual = match layer.residual {
                Some(value) => Some(values[value].clone().ok_or_else(missing)?),
                None => None,
            };
            values.push(Some(self.layer(layer, ready, x, residual)?));
            for (value, last) in self.last_use.iter().enumerate() {
                if *last == i && value <= i {
                    values[value] = None;
                }
            }
        }
        match values.pop().flatten() {
            Some(value) => self.matrix(value),
            None => Err(Error::param("graph", "[]", "at least one node")),
        }
    }

    fn layer(
        &self,
        layer: &Layer,
        ready: &Ready,
        x: Value,
        residual: Option<Value>,
    ) -> Result<Value> {
        match (&layer.op, ready) {
            (_, Ready::Rows(conv, config)) => {
                let x = self.rows(x)?;
                let residual = residual.map(|value| self.rows(value)).transpose()?;
                let mut y = x.empty_like(&conv.output_shape(x.shape())?, x.dtype())?;
                conv.run(&x, residual.as_ref(), *config, &mut y)?;
                Ok(Value::Rows(y, conv.filter.filters()))
            }
            (_, Ready::Planes(filter)) => {
                let (x, [n, ..]) = self.planes(x)?;
                let residual = residual.map(|value| self.planes(value)).transpose()?;
                let residual = residual.as_ref().map(|(residual, _)| residual);
                let mut y = x.empty_like(&filter.output_shape(&x, layer.pool), DType::Bf16)?;
                ops::infer_sparse_conv2d(&x, filter, residual, layer.relu, layer.pool, &mut y)?;
                let shape = [n, y.shape()[2], y.shape()[3], y.shape()[1]];
                Ok(Value::Planes(y, shape))
            }
            (_, Ready::Linear { weight, bias }) => {
                let mut tape = Tape::new(self.mode);
                let x = self.matrix(x)?;
                let mut y = ops::linear(&mut tape, &x, weight, Some(bias))?;
                if let Some(residual) = residual {
                    y = ops::add(&mut tape, &y, &self.matrix(residual)?)?;
                }
                if layer.relu {
                    y = ops::relu(&mut tape, &y)?;
                }
                Ok(Value::Matrix(y))
            }
            (LayerOp::GlobalAvgPool, _) => self.mean(x),
            (LayerOp::MaxPool2, _) => self.max_pool(x),
            (LayerOp::MaxPool(window), _) => {
                let image = self.image(x)?;
                ops::max_pool(&mut Tape::new(self.mode), &image, *window).map(Value::Image)
            }
            (LayerOp::AvgPool(window), _) => {
                let image = self.image(x)?;
                ops::avg_pool(&mut Tape::new(self.mode), &image, *window).map(Value::Image)
            }
            (LayerOp::Flatten, _) => {
                ops::flatten(&mut Tape::new(self.mode), &self.image(x)?).map(Value::Matrix)
            }
            (_, Ready::Normalize(by)) => {
                let y = self.normalize(x, by)?;
                self.finish(layer, y, residual)
            }
            (_, Ready::Nothing) => self.finish(layer, x, residual),
        }
    }

    fn normalize(&self, x: Value, [mean, std]: &[Tensor; 2]) -> Result<Value> {
        let Value::Image(x) = x else {
            return Err(Error::param("plan", "normalize", "of the image"));
        };
        if self.sparse {
            return ops::normalize(&mut Tape::new(self.mode), &x, mean, std).map(Value::Image);
        }
        let rows = self.input(&x, Some([mean, std]))?;
        Ok(Value::Rows(rows, mean.len()))
    }

    /// What a layer without products does behind its operand.
    fn finish(&self, layer: &Layer, x: Value, residual: Option<Value>) -> Result<Value> {
        let c = x.channels();
        let mut y = x;
        if let Value::Matrix(x) = &y {
            let (mut tape, mut y) = (Tape::new(self.mode), x.clone());
            if let Some(residual) = residual {
                y = ops::add(&mut tape, &y, &self.matrix(residual)?)?;
            }
            return Ok(Value::Matrix(if layer.relu { ops::relu(&mut tape, &y)? } else { y }));
        }
        if let Some(residual) = residual {
            y = match (self.elementwise(y)?, self.elementwise(residual)?) {
                (Value::Planes(a, shape), Value::Planes(b, _)) => {
                    let mut sum = flat(&a)?;
                    ops::infer_add(&flat(&a)?, &flat(&b)?, &mut sum)?;
                    Value::Planes(sum.reshape(a.shape())?, shape)
                }
                (a, b) => {
                    let (a, b) = (self.rows(a)?, self.rows(b)?);
                    let mut sum = a.empty_like(a.shape(), a.dtype())?;
                    ops::infer_add(&a, &b, &mut sum)?;
                    Value::Rows(sum, c)
                }
            };
        }
        if layer.relu {
            y = match self.elementwise(y)? {
                Value::Planes(x, shape) => {
                    let mut y = flat(&x)?;
                    ops::infer_relu(&flat(&x)?, &mut y)?;
                    Value::Planes(y.reshape(x.shape())?, shape)
                }
                x => {
                    let x = self.rows(x)?;
                    let mut y = x.empty_like(x.shape(), x.dtype())?;
                    ops::infer_relu(&x, &mut y)?;
                    Value::Rows(y, c)
                }
            };
        }
        if layer.pool { self.max_pool(y) } else { Ok(y) }
    }

    /// The form that this plan's convolutions read.
    fn elementwise(&self, value: Value) -> Result<Value> {
        if self.sparse {
            return self.planes(value).map(|(planes, shape)| Value::Planes(planes, shape));
        }
        let c = value.channels();
        Ok(Value::Rows(self.rows(value)?, c))
    }

    fn max_pool(&self, x: Value) -> Result<Value> {
        if self.sparse {
            let pooled = ops::max_pool2(&mut Tape::new(self.mode), &self.image(x)?)?;
            return Ok(Value::Image(pooled));
        }
        let channels = x.channels();
        let x = self.rows(x)?;
        let [n, h, w, c] = x.dims4("plan", "x")?;
        let mut y = x.empty_like(&[n, h / 2, w / 2, c], x.dtype())?;
        ops::infer_max_pool2(&x, &mut y)?;
        Ok(Value::Rows(y, channels))
    }

    fn mean(&self, x: Value) -> Result<Value> {
        if let Value::Rows(x, c) = &x {
            let mut y = x.empty_like(&[x.shape()[0], *c], DType::F32)?;
            ops::infer_global_avg_pool(x, &mut y)?;
            return Ok(Value::Matrix(y));
        }
        let x = self.image(x)?;
        ops::global_avg_pool(&mut Tape::new(self.mode), &x).map(Value::Matrix)
    }

    fn input(&self, x: &Tensor, by: Option<[&Tensor; 2]>) -> Result<Tensor> {
        let [n, h, w, c] = x.dims4("plan", "x")?;
        let storage = self.mode.storage();
        let mut y = x.empty_like(&[n, h, w, storage.padded(c)], storage)?;
        ops::infer_input(x, by, &mut y)?;
        Ok(y)
    }

    fn rows(&self, value: Value) -> Result<Tensor> {
        match value {
            Value::Rows(rows, _) => Ok(rows),
            other => self.input(&self.image(other)?, None),
        }
    }

    fn planes(&self, value: Value) -> Result<(Tensor, [usize; 4])> {
        if let Value::Planes(planes, shape) = value {
            return Ok((planes, shape));
        }
        let image = self.image(value)?;
        let shape = image.dims4("plan", "x")?;
        let mut planes = image.empty_like(&ops::planes_shape(shape), DType::Bf16)?;
        ops::images_to_planes(&image, &mut planes)?;
        Ok((planes, shape))
    }

    fn image(&self, value: Value) -> Result<Tensor> {
        match value {
            Value::Image(image) => Ok(image),
            Value::Planes(planes, shape) => {
                let mut image = planes.empty_like(&shape, DType::F32)?;
                ops::planes_to_images(&planes, &mut image)?;
                Ok(image)
            }
            Value::Matrix(x) => {
                let [n, c] = x.dims2("plan", "x")?;
                x.reshape(&[n, 1, 1, c])
            }
            Value::Rows(rows, c) => {
                let [n, h, w, _] = rows.dims4("plan", "x")?;
                let mut image = rows.empty_like(&[n, h, w, c], DType::F32)?;
                ops::infer_image(&rows, &mut image)?;
                Ok(image)
            }
        }
    }

    /// A value of one pixel as `[N, C]`.
    fn matrix(&self, value: Value) -> Result<Tensor> {
        match value {
            Value::Matrix(matrix) => Ok(matrix),
            other => match self.mean(other)? {
                Value::Matrix(matrix) => Ok(matrix),
                _ => Err(Error::param("plan", "mean", "a matrix")),
            },
        }
    }
}

/// Planes as an activation of whole rows, for what does not care where elements lie.
fn flat(planes: &Tensor) -> Result<Tensor> {
    let len = planes.len() / 8;
    planes.reshape(&[len, 1, 1, 8])
}

fn upload(values: &[f32], shape: &[usize], device: &Device) -> Result<Tensor> {
    Tensor::from_vec(values.to_vec(), shape, device)
}

fn normalize(scale: &[f32], shift: &[f32], device: &Device) -> Result<Ready> {
    let mean: Vec<f32> = scale.iter().zip(shift).map(|(scale, shift)| -shift / scale).collect();
    let std: Vec<f32> = scale.iter().map(|scale| 1.0 / scale).collect();
    Ok(Ready::Normalize([
        upload(&mean, &[mean.len()], device)?,
        upload(&std, &[std.len()], device)?,
    ]))
}

/// Scale and shift by channel as a 1 × 1 convolution.
fn diagonal(scale: &[f32], shift: &[f32]) -> Conv {
    let c = scale.len();
    let mut weight = vec![0.0; c * c];
    scale.iter().enumerate().for_each(|(i, &scale)| weight[i * c + i] = scale);
    let (name, bias) = ("scale".to_owned(), shift.to_vec());
    let dims = [c, 1, 1, c];
    Conv { name, dims, weight, bias, stride: 1, padding: 0, channels: None, linear: false }
}

#[allow(clippy::too_many_arguments)] // A layer, and for what it is made ready.
fn convolution(
    layer: &Layer,
    conv: &Conv,
    [h, w, c]: [usize; 3],
    batch: usize,
    mode: Mode,
    sparse: bool,
    measure: bool,
    device: &Device,
) -> Result<Ready> {
    let Conv { stride, padding, .. } = *conv;
    let bias = upload(&conv.bias, &[conv.bias.len()], device)?;
    if sparse {
        let (dims, weight) = conv.spread(c);
        let weight = upload(&weight, &dims, device)?;
        // By the cycles counted in kernels/infer_sparse_conv2d.cu; not measured.
        let full = conv.kept() as f64 > DENSE_PRODUCT * weight.len() as f64;
        let product = if full { SparseProduct::Dense } else { SparseProduct::TwoFour };
        let filter =
            PackedSparseFilter::new(&weight, Some(&bias), [h, w], stride, padding, product)?;
        return Ok(Ready::Planes(filter));
    }
    let index: Option<Vec<i32>> =
        conv.channels.as_ref().map(|list| list.iter().map(|&channel| channel as i32).collect());
    let channels = index.as_ref().map(|index| Channels { index, of: c });
    let weight = upload(&conv.weight, &conv.dims, device)?;
    let filter = PackedFilter::new(&weight, &bias, mode, channels)?;
    let conv = InferConv2d { filter, stride, padding, relu: layer.relu, pool: layer.pool };
    let x = [batch, h, w, mode.storage().padded(c)];
    let configs = conv.configs(&x)?;
    let config = match measure {
        true => fastest(&conv, &x, &configs, layer.residual.is_some(), device)?,
        false => configs[0],
    };
    Ok(Ready::Rows(conv, config))
}

/// The configuration whose launches take the shortest.
fn fastest(
    conv: &InferConv2d,
    x: &[usize],
    configs: &[TileConfig],
    added: bool,
    device: &Device,
) -> Result<TileConfig> {
    let storage = conv.filter.mode().storage();
    let x = Tensor::zeros(x, storage, device)?;
    let unpooled = InferConv2d { pool: false, ..conv.clone() }.output_shape(x.shape())?;
    let residual = added.then(|| Tensor::zeros(&unpooled, storage, device)).transpose()?;
    let mut y = Tensor::empty(&conv.output_shape(x.shape())?, storage, device)?;
    let gpu = gpu(device)?;
    let mut best = (f64::INFINITY, configs[0]);
    for &config in configs {
        conv.run(&x, residual.as_ref(), config, &mut y)?;
        gpu.synchronize()?;
        if !gpu.records_graphs() {
            continue;
        }
        let start = Instant::now();
        for _ in 0..LAUNCHES {
            conv.run(&x, residual.as_ref(), config, &mut y)?;
        }
        gpu.synchronize()?;
        let seconds = start.elapsed().as_secs_f64();
        if seconds < best.0 {
            best = (seconds, config);
        }
    }
    Ok(best.1)
}

/// The device has the weights.
fn without_weights(op: LayerOp) -> LayerOp {
    match op {
        LayerOp::Conv(conv) => LayerOp::Conv(Conv { weight: Vec::new(), ..conv }),
        other => other,
    }
}
