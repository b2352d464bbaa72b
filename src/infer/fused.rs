//! A network as inference runs it: batch norm is part of the convolution before it, and the sum, the ReLU and
//! the pooling behind a convolution happen where its result is written.

use crate::cpu::conv_shape::ConvShape;
use crate::nn::{Model, Node, Op};
use crate::ops::Window;
use crate::{Error, Result, Tensor};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Layers in the order they run. Value 0 is the image, value `i + 1` the result of layer `i`; the last one
/// holds the logits. Every value is `[h, w, c]` an image; vectors have h = w = 1.
pub(super) struct Network {
    pub(super) layers: Vec<FusedLayer>,
    pub(super) shapes: Vec<[usize; 3]>,
}

/// `y = pool?(relu?(op(x) + residual?))`.
#[derive(Clone)]
pub(super) struct FusedLayer {
    pub(super) op: LayerOp,
    /// The value that it reads.
    pub(super) input: usize,
    /// The value that is added to its sums.
    pub(super) residual: Option<usize>,
    pub(super) relu: bool,
    /// Whether the 2×2 maximum with stride 2 follows.
    pub(super) pool: bool,
}

#[derive(Clone)]
pub(super) enum LayerOp {
    Conv(Conv),
    /// `x · scale + shift` by channel; x itself where there is neither.
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
    /// The input channels that it reads; `None` where it reads all.
    pub(super) channels: Option<Vec<usize>>,
    /// Whether it is a fully connected layer; those never run sparsely.
    pub(super) linear: bool,
}

impl Conv {
    /// Weights that are not 0.
    pub(super) fn kept(&self) -> usize {
        self.weight.iter().filter(|&&weight| weight != 0.0).count()
    }

    /// The geometry over `n` images of `[h, w]`, with the channels that the filter has weights for.
    pub(super) fn shape(&self, n: usize, [h, w]: [usize; 2]) -> ConvShape {
        let &Self { dims: [k, r, s, c], stride, padding: pad, .. } = self;
        ConvShape { n, h, w, c, k, r, s, stride, pad }
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
        let parameters = model.state_dict();
        let shape = |name: &str| parameters.get(name).map(Tensor::shape);
        let shapes = model.graph().shapes([arch.size, arch.size, arch.in_channels], &shape)?;
        let nodes = &model.graph().nodes;
        let needed = needed(nodes);
        let mut readers = vec![0; nodes.len()];
        let live = nodes.iter().zip(&needed).filter(|(_, needed)| **needed);
        live.flat_map(|(node, _)| &node.inputs).for_each(|&i| readers[i] += 1);
        let network = Self { layers: Vec::new(), shapes: Vec::new() };
        let mut fusion = Fusion { network, parameters: &parameters };
        // The value that holds each node's result.
        let mut values: Vec<usize> = Vec::new();
        for (i, (node, shape)) in nodes.iter().zip(&shapes).enumerate() {
            if !needed[i] {
                values.push(usize::MAX);
                continue;
            }
            let operand = |&i: &usize| Operand { value: values[i], alone: readers[i] == 1 };
            let operands: Vec<Operand> = node.inputs.iter().map(operand).collect();
            values.push(fusion.node(&node.op, &operands, extents(shape))?);
        }
        Ok(fusion.network)
    }

    /// What messages call layer `i`: its name, or what it is and its place.
    pub(super) fn layer_name(&self, i: usize) -> String {
        let kind = match self.layers.get(i).map(|layer| &layer.op) {
            Some(LayerOp::Conv(conv)) => return format!("layer {}", conv.name),
            Some(LayerOp::Pointwise(_)) => "element-wise",
            Some(LayerOp::MaxPool(_)) => "max-pooling",
            Some(LayerOp::AvgPool(_) | LayerOp::GlobalAvgPool) => "average-pooling",
            Some(LayerOp::Flatten) => "flattening",
            None => "missing",
        };
        format!("the {kind} layer {i}")
    }

    /// By layer: the values that nobody reads any more when it has run. The logits are read behind all layers.
    pub(super) fn released(&self) -> Vec<Vec<usize>> {
        let mut last: Vec<usize> =
            (0..self.shapes.len()).map(|value| value.saturating_sub(1)).collect();
        for (i, layer) in self.layers.iter().enumerate() {
            let read = [Some(layer.input), layer.residual];
            read.into_iter().flatten().for_each(|value| last[value] = i);
        }
        let mut released = vec![Vec::new(); self.layers.len()];
        for (value, &last) in last.iter().enumerate().take(self.layers.len()) {
            released[last].push(value);
        }
        released
    }
}

impl FusedLayer {
    fn new(op: LayerOp, input: usize) -> Self {
        Self { op, input, residual: None, relu: false, pool: false }
    }
}

/// A network that grows node by node. What takes a node gives the value that holds the node's result: that of an earlier
/// layer which took the node in, or that of a new one.
struct Fusion<'a> {
    network: Network,
    parameters: &'a BTreeMap<String, Tensor>,
}

impl Fusion<'_> {
    fn node(&mut self, op: &Op, operands: &[Operand], shape: [usize; 3]) -> Result<usize> {
        let Some(&x) = operands.first() else {
            self.network.shapes.push(shape);
            return Ok(self.network.shapes.len() - 1);
        };
        let new = match op {
            Op::Input => LayerOp::Pointwise(None),
            Op::Normalize { mean, std } => normalize(mean, std),
            Op::Conv { name, bias, stride, padding, channels } => LayerOp::Conv(Conv {
                stride: *stride,
                padding: *padding,
                channels: channels.clone(),
                ..self.conv(name, *bias)?
            }),
            Op::Linear { name, bias } => {
                LayerOp::Conv(Conv { linear: true, ..self.conv(name, *bias)? })
            }
            Op::BatchNorm { name, eps, .. } => return self.batch_norm(name, *eps, x, shape),
            Op::Add => return Ok(self.sum(operands, x, shape)),
            Op::Relu => return Ok(self.relu(x, shape)),
            &Op::MaxPool(Window::HALVES) => return Ok(self.halves(x, shape)),
            &Op::MaxPool(window) => LayerOp::MaxPool(window),
            &Op::AvgPool(window) => LayerOp::AvgPool(window),
            Op::GlobalAvgPool => LayerOp::GlobalAvgPool,
            Op::Flatten => LayerOp::Flatten,
        };
        Ok(self.add(FusedLayer::new(new, x.value), shape))
    }

    /// A convolution of stride 1 without padding from a filter `[K, R, S, C]`, or from a matrix `[K, C]` as one of one pixel.
    fn conv(&self, name: &str, biased: bool) -> Result<Conv> {
        let filter = self.parameter(name, "weight")?;
        let dims = match *filter.shape() {
            [k, r, s, c] => [k, r, s, c],
            [k, c] => [k, 1, 1, c],
            ref other => {
                return Err(Error::shape("plan", "weight", "[K, R, S, C] or [K, C]", other));
            }
        };
        let bias = if biased { self.values(name, "bias")? } else { vec![0.0; dims[0]] };
        let (name, weight) = (name.to_owned(), filter.to_vec()?);
        let (stride, padding, channels, linear) = (1, 0, None, false);
        Ok(Conv { name, dims, weight, bias, stride, padding, channels, linear })
    }

    /// Folds a batch norm into the convolution whose sums it reads; elsewhere it becomes a layer.
    fn batch_norm(&mut self, name: &str, eps: f32, x: Operand, shape: [usize; 3]) -> Result<usize> {
        let norm = BatchNorm {
            gamma: self.values(name, "weight")?,
            beta: self.values(name, "bias")?,
            mean: self.values(name, "running_mean")?,
            var: self.values(name, "running_var")?,
            eps,
        };
        if let Some(FusedLayer { op: LayerOp::Conv(conv), .. }) = self.open(x) {
            norm.fold(conv);
            return Ok(x.value);
        }
        Ok(self.add(FusedLayer::new(norm.pointwise(), x.value), shape))
    }

    /// Adds the value that is there earlier to the later one, in the layer that computes that if it can.
    fn sum(&mut self, operands: &[Operand], x: Operand, shape: [usize; 3]) -> usize {
        let (early, late) = match operands {
            [a, b, ..] if a.value < b.value => (*a, *b),
            [a, b, ..] => (*b, *a),
            _ => (x, x),
        };
        let residual = Some(early.value);
        if early.value != late.value
            && let Some(layer) = self.open(late)
        {
            layer.residual = residual;
            return late.value;
        }
        let layer = FusedLayer::new(LayerOp::Pointwise(None), late.value);
        self.add(FusedLayer { residual, ..layer }, shape)
    }

    fn relu(&mut self, x: Operand, shape: [usize; 3]) -> usize {
        if let Some(layer) = self.unpooled(x).filter(|layer| !layer.relu) {
            layer.relu = true;
            return x.value;
        }
        let layer = FusedLayer::new(LayerOp::Pointwise(None), x.value);
        self.add(FusedLayer { relu: true, ..layer }, shape)
    }

    /// The 2×2 maximum.
    fn halves(&mut self, x: Operand, shape: [usize; 3]) -> usize {
        if let Some(layer) = self.unpooled(x) {
            layer.pool = true;
            self.network.shapes[x.value] = shape;
            return x.value;
        }
        self.add(FusedLayer::new(LayerOp::MaxPool(Window::HALVES), x.value), shape)
    }

    fn add(&mut self, layer: FusedLayer, shape: [usize; 3]) -> usize {
        self.network.layers.push(layer);
        self.network.shapes.push(shape);
        self.network.layers.len()
    }

    /// The layer of a value that nobody else reads and that ends with its sums.
    fn open(&mut self, operand: Operand) -> Option<&mut FusedLayer> {
        self.unpooled(operand).filter(|layer| layer.residual.is_none() && !layer.relu)
    }

    /// The layer of a value that nobody else reads and that does not pool.
    fn unpooled(&mut self, operand: Operand) -> Option<&mut FusedLayer> {
        let layer = self.network.layers.get_mut(operand.value.checked_sub(1)?)?;
        let fuses = matches!(layer.op, LayerOp::Conv(_) | LayerOp::Pointwise(_)) && !layer.pool;
        (operand.alone && fuses).then_some(layer)
    }

    fn parameter(&self, prefix: &str, part: &str) -> Result<&Tensor> {
        let name = format!("{prefix}.{part}");
        self.parameters.get(&name).ok_or_else(|| Error::param("parameter", name, "there"))
    }

    fn values(&self, prefix: &str, part: &str) -> Result<Vec<f32>> {
        self.parameter(prefix, part)?.to_vec()
    }
}

/// `(x − mean) / std` by channel.
fn normalize(mean: &[f32], std: &[f32]) -> LayerOp {
    let scale: Vec<f32> = std.iter().map(|std| 1.0 / std).collect();
    let shift = mean.iter().zip(std).map(|(mean, std)| -mean / std).collect();
    LayerOp::Pointwise(Some((scale, shift)))
}

/// `(x − mean) / √(var + eps) · gamma + beta` by channel, computed in float64.
struct BatchNorm {
    gamma: Vec<f32>,
    beta: Vec<f32>,
    mean: Vec<f32>,
    var: Vec<f32>,
    eps: f32,
}

impl BatchNorm {
    /// What channel `c` is multiplied with.
    fn scale(&self, c: usize) -> f64 {
        f64::from(self.gamma[c]) / (f64::from(self.var[c]) + f64::from(self.eps)).sqrt()
    }

    /// What channel `c` becomes where x is `x`.
    fn of(&self, c: usize, x: f64) -> f64 {
        f64::from(self.beta[c]) + (x - f64::from(self.mean[c])) * self.scale(c)
    }

    /// Makes the convolution give what the batch norm makes of its sums.
    fn fold(&self, conv: &mut Conv) {
        let len = conv.weight.len() / conv.dims[0].max(1);
        for (c, filter) in conv.weight.chunks_exact_mut(len.max(1)).enumerate() {
            let scale = self.scale(c);
            filter.iter_mut().for_each(|w| *w = (f64::from(*w) * scale) as f32);
            conv.bias[c] = self.of(c, f64::from(conv.bias[c])) as f32;
        }
    }

    fn pointwise(&self) -> LayerOp {
        let channels = 0..self.gamma.len().min(self.var.len());
        let scale = channels.clone().map(|c| self.scale(c) as f32).collect();
        LayerOp::Pointwise(Some((scale, channels.map(|c| self.of(c, 0.0) as f32).collect())))
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
