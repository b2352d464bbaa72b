//! A network as inference runs it: batch norm is part of the convolution before it, and the sum, the ReLU and
//! the pooling behind a convolution happen where its result is written.

use crate::nn::{Model, Node, Op};
use crate::ops::Window;
use crate::{Error, Result, Tensor};
use std::borrow::Cow;

/// Layers in the order they run. Value 0 is the image, value `i + 1` the result of layer `i`; the last one
/// holds the logits. Every value is `[h, w, c]` an image; vectors have h = w = 1.
pub(super) struct Network {
    pub(super) layers: Vec<Layer>,
    pub(super) shapes: Vec<[usize; 3]>,
}

/// `y = pool?(relu?(op(x) + residual?))`.
#[derive(Clone)]
pub(super) struct Layer {
    pub(super) op: LayerOp,
    /// The value that it reads.
    pub(super) input: usize,
    /// The value that is added.
    pub(super) residual: Option<usize>,
    pub(super) relu: bool,
    /// 2×2 maximum with stride 2.
    pub(super) pool: bool,
}

#[derive(Clone)]
pub(super) enum LayerOp {
    Conv(Conv),
    /// `x · scale + shift` a channel; as it is where there is none.
    Pointwise(Option<(Vec<f32>, Vec<f32>)>),
    MaxPool(Window),
    AvgPool(Window),
    GlobalAvgPool,
    /// The image as a vector, channel by channel.
    Flatten,
}

/// A convolution, or a fully connected layer as one of one pixel.
#[derive(Clone)]
pub(super) struct Conv {
    /// Prefix of its parameters.
    pub(super) name: String,
    /// `[k, r, s, c]`.
    pub(super) dims: [usize; 4],
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) stride: usize,
    pub(super) padding: usize,
    /// The input channels that it reads, where not all of them.
    pub(super) channels: Option<Vec<usize>>,
    /// Fully connected layers are never run sparsely.
    pub(super) linear: bool,
}

impl Conv {
    /// Weights that are not 0.
    pub(super) fn kept(&self) -> usize {
        self.weight.iter().filter(|&&weight| weight != 0.0).count()
    }

    /// The filter that reads all `c` channels, with zeros for those that this one does not read, and its shape.
    pub(super) fn spread(&self, c: usize) -> ([usize; 4], Cow<'_, [f32]>) {
        let [k, r, s, read] = self.dims;
        let Some(list) = &self.channels else {
            return (self.dims, Cow::Borrowed(&self.weight));
        };
        let mut weight = vec![0.0; k * r * s * c];
        let taps = weight.chunks_exact_mut(c).zip(self.weight.chunks_exact(read));
        taps.for_each(|(to, from)| list.iter().zip(from).for_each(|(&c, &w)| to[c] = w));
        ([k, r, s, c], Cow::Owned(weight))
    }
}

impl Network {
    /// Fuses `model`'s graph. The folded weights are computed in float64 and rounded once.
    ///
    /// Errors: those of reading the tensors.
    pub(super) fn of(model: &Model) -> Result<Self> {
        let arch = model.arch();
        let tensors = model.state_dict();
        let shape = |name: &str| tensors.get(name).map(Tensor::shape);
        let shapes = model.graph().shapes([arch.size, arch.size, arch.in_channels], &shape)?;
        let nodes = &model.graph().nodes;
        let needed = needed(nodes);
        let mut readers = vec![0; nodes.len()];
        let live = nodes.iter().zip(&needed).filter(|(_, needed)| **needed);
        live.flat_map(|(node, _)| &node.inputs).for_each(|&i| readers[i] += 1);
        let read = |prefix: &str, part: &str| -> Result<(Vec<usize>, Vec<f32>)> {
            let name = format!("{prefix}.{part}");
            let tensor = tensors.get(&name);
            let tensor = tensor.ok_or_else(|| Error::param("parameter", name, "there"))?;
            Ok((tensor.shape().to_vec(), tensor.to_vec()?))
        };
        let mut network = Self { layers: Vec::new(), shapes: Vec::new() };
        // The value that holds each node's result.
        let mut values: Vec<usize> = Vec::new();
        for (i, (node, shape)) in nodes.iter().zip(&shapes).enumerate() {
            if !needed[i] {
                values.push(usize::MAX);
                continue;
            }
            let shape = extents(shape);
            let operands: Vec<Operand> = node
                .inputs
                .iter()
                .map(|&i| Operand { value: values[i], alone: readers[i] == 1 })
                .collect();
            values.push(network.push(&node.op, &operands, shape, &read)?);
        }
        Ok(network)
    }

    /// The value that holds the result of `op`: of a layer that took it in, or of a new one.
    fn push(
        &mut self,
        op: &Op,
        operands: &[Operand],
        shape: [usize; 3],
        read: &impl Fn(&str, &str) -> Result<(Vec<usize>, Vec<f32>)>,
    ) -> Result<usize> {
        let Some(&first) = operands.first() else {
            self.shapes.push(shape);
            return Ok(self.shapes.len() - 1);
        };
        let bias = |name: &str, present: bool, len: usize| match present {
            true => read(name, "bias").map(|(_, values)| values),
            false => Ok(vec![0.0; len]),
        };
        let new = match op {
            Op::Input => LayerOp::Pointwise(None),
            Op::Normalize { mean, std } => {
                let scale: Vec<f32> = std.iter().map(|std| 1.0 / std).collect();
                let shift = mean.iter().zip(std).map(|(mean, std)| -mean / std).collect();
                LayerOp::Pointwise(Some((scale, shift)))
            }
            Op::Conv { name, bias: biased, stride, padding, channels } => {
                let (dims, weight) = read(name, "weight")?;
                let dims = [dims[0], dims[1], dims[2], dims[3]];
                LayerOp::Conv(Conv {
                    name: name.clone(),
                    dims,
                    weight,
                    bias: bias(name, *biased, dims[0])?,
                    stride: *stride,
                    padding: *padding,
                    channels: channels.clone(),
                    linear: false,
                })
            }
            Op::Linear { name, bias: biased } => {
                let (dims, weight) = read(name, "weight")?;
                LayerOp::Conv(Conv {
                    name: name.clone(),
                    dims: [dims[0], 1, 1, dims[1]],
                    weight,
                    bias: bias(name, *biased, dims[0])?,
                    stride: 1,
                    padding: 0,
                    channels: None,
                    linear: true,
                })
            }
            Op::BatchNorm { name, eps, .. } => {
                let part = |part| read(name, part).map(|(_, values)| values);
                let (gamma, beta) = (part("weight")?, part("bias")?);
                let (mean, var) = (part("running_mean")?, part("running_var")?);
                let scale: Vec<f64> = gamma
                    .iter()
                    .zip(&var)
                    .map(|(&gamma, &var)| {
                        f64::from(gamma) / (f64::from(var) + f64::from(*eps)).sqrt()
                    })
                    .collect();
                let shift = |c: usize, start: f64| {
                    f64::from(beta[c]) + (start - f64::from(mean[c])) * scale[c]
                };
                if let Some(Layer { op: LayerOp::Conv(conv), .. }) = self.open(first) {
                    let len = conv.weight.len() / conv.dims[0].max(1);
                    for (c, filter) in conv.weight.chunks_exact_mut(len.max(1)).enumerate() {
                        filter.iter_mut().for_each(|w| *w = (f64::from(*w) * scale[c]) as f32);
                        conv.bias[c] = shift(c, f64::from(conv.bias[c])) as f32;
                    }
                    return Ok(first.value);
                }
                let shift = (0..scale.len()).map(|c| shift(c, 0.0) as f32).collect();
                LayerOp::Pointwise(Some((scale.iter().map(|&x| x as f32).collect(), shift)))
            }
            Op::Add => {
                let (early, late) = match operands {
                    [a, b, ..] if a.value < b.value => (*a, *b),
                    [a, b, ..] => (*b, *a),
                    _ => (first, first),
                };
                if early.value != late.value
                    && let Some(layer) = self.open(late)
                {
                    layer.residual = Some(early.value);
                    return Ok(late.value);
                }
                let op = LayerOp::Pointwise(None);
                let residual = Some(early.value);
                return Ok(self.add(Layer { residual, ..Layer::new(op, late.value) }, shape));
            }
            Op::Relu => {
                if let Some(layer) = self.unpooled(first).filter(|layer| !layer.relu) {
                    layer.relu = true;
                    return Ok(first.value);
                }
                let op = LayerOp::Pointwise(None);
                return Ok(self.add(Layer { relu: true, ..Layer::new(op, first.value) }, shape));
            }
            &Op::MaxPool(window) => {
                if window == Window::HALVES
                    && let Some(layer) = self.unpooled(first)
                {
                    layer.pool = true;
                    self.shapes[first.value] = shape;
                    return Ok(first.value);
                }
                LayerOp::MaxPool(window)
            }
            &Op::AvgPool(window) => LayerOp::AvgPool(window),
            Op::GlobalAvgPool => LayerOp::GlobalAvgPool,
            Op::Flatten => LayerOp::Flatten,
        };
        Ok(self.add(Layer::new(new, first.value), shape))
    }

    fn add(&mut self, layer: Layer, shape: [usize; 3]) -> usize {
        self.layers.push(layer);
        self.shapes.push(shape);
        self.layers.len()
    }

    /// The layer of a value that nobody else reads and that ends with its sums.
    fn open(&mut self, operand: Operand) -> Option<&mut Layer> {
        self.unpooled(operand).filter(|layer| layer.residual.is_none() && !layer.relu)
    }

    /// The layer of a value that nobody else reads and that does not pool.
    fn unpooled(&mut self, operand: Operand) -> Option<&mut Layer> {
        let layer = self.layers.get_mut(operand.value.checked_sub(1)?)?;
        let fuses = matches!(layer.op, LayerOp::Conv(_) | LayerOp::Pointwise(_)) && !layer.pool;
        (operand.alone && fuses).then_some(layer)
    }

    /// Position of the last layer that reads each value; the last value is read behind all of them.
    pub(super) fn last_use(&self) -> Vec<usize> {
        let mut last: Vec<usize> =
            (0..self.shapes.len()).map(|value| value.saturating_sub(1)).collect();
        for (i, layer) in self.layers.iter().enumerate() {
            [Some(layer.input), layer.residual]
                .into_iter()
                .flatten()
                .for_each(|value| last[value] = i);
        }
        if let Some(logits) = last.last_mut() {
            *logits = self.layers.len();
        }
        last
    }
}

impl Layer {
    fn new(op: LayerOp, input: usize) -> Self {
        Self { op, input, residual: None, relu: false, pool: false }
    }
}

/// A value that a node reads, and whether it is the only one to do so.
#[derive(Clone, Copy)]
struct Operand {
    value: usize,
    alone: bool,
}

/// Whether the last node's result depends on each node; the image is always there.
fn needed(nodes: &[Node]) -> Vec<bool> {
    let mut needed = vec![false; nodes.len()];
    if let Some(last) = needed.last_mut() {
        *last = true;
    }
    for i in (0..nodes.len()).rev().filter(|&i| i > 0) {
        if needed[i] {
            nodes[i].inputs.iter().for_each(|&input| needed[input] = true);
        }
    }
    needed.iter_mut().take(1).for_each(|image| *image = true);
    needed
}

fn extents(shape: &[usize]) -> [usize; 3] {
    match *shape {
        [h, w, c] => [h, w, c],
        _ => [1, 1, shape.iter().product()],
    }
}
