//! Writes a [`Graph`] with the shapes and initial values of its parameters.

use super::graph::small;
use super::{Arch, Graph, Init, Node, Op};
use crate::ops::Window;

/// A parameter that a network needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name in the state dict, for example `conv1.weight`.
    pub name: String,
    /// Filters `[K, R, S, C]`, matrices `[O, F]`, vectors `[C]`.
    pub shape: Vec<usize>,
    /// How its initial values are drawn.
    pub init: Init,
}

/// A network without values: its graph, and the names, shapes and initial values of its tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Blueprint {
    /// The operations.
    pub graph: Graph,
    /// The tensors, in the order in which PyTorch registers them.
    pub parameters: Vec<Parameter>,
}

impl Blueprint {
    /// The shape of the tensor `name`; `None` where the network has no such tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.parameters.iter().find(|p| p.name == name).map(|p| p.shape.as_slice())
    }
}

/// The geometry of [`Builder::conv2d`], as in PyTorch's `Conv2d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Number of filters, which is the number of output channels.
    pub filters: usize,
    /// Height and width of a filter.
    pub window: [usize; 2],
    /// Step of both directions.
    pub stride: usize,
    /// Rows and columns of zeros on each side of the image.
    pub padding: usize,
    /// Whether each filter adds a bias.
    pub bias: bool,
}

/// Writes a network, one operation after another.
///
/// Every method appends a node, reads the node at the position it is given, and returns the position of the new node. The
/// node appended last holds the logits. A layer's `name` is the prefix of its parameters: `conv1` has `conv1.weight`.
///
/// Operations that do not fit each other are no panic here: [`Model::initialised`](super::Model::initialised) reports the
/// first of them.
///
/// ```
/// use rewire::nn::{Arch, Builder, Conv2d, Model, Window};
/// use rewire::{Device, Seed};
/// // Images of 3 channels and 32×32 pixels, 10 classes.
/// let arch = Arch::custom("own", 3, 10, 32);
/// let mut net = Builder::new(&arch, 1.0);
/// let mut x = net.last(); // the image
/// x = net.conv(x, "conv1", 8, 3, 1, true);
/// x = net.relu(x);
/// x = net.max_pool(x, Window { size: 3, stride: 2, padding: 1 }); // as MaxPool2d(3, 2, 1)
/// let wide = Conv2d { filters: 16, window: [1, 7], stride: 2, padding: 0, bias: false };
/// x = net.conv2d(x, "conv2", wide);
/// x = net.batch_norm(x, "bn2");
/// x = net.relu(x);
/// x = net.flatten(x);
/// net.linear(x, "fc", arch.classes, true);
/// let model = Model::initialised(arch, net.finish(), Seed(1), &Device::Cpu)?;
/// assert_eq!(model.param("fc.weight")?.shape(), [10, 16 * 8 * 5]);
/// # Ok::<(), rewire::Error>(())
/// ```
pub struct Builder {
    nodes: Vec<Node>,
    /// By node: the shape of its result for one image; empty where the operation does not fit its operands.
    shapes: Vec<Vec<usize>>,
    parameters: Vec<Parameter>,
    conv_init: Init,
    scale_init: f32,
}

impl Builder {
    /// A network that reads images as `arch` describes them and normalises them where `arch` has a normalisation.
    ///
    /// `scale_init` is the initial γ of every batch normalisation; PyTorch has 1. Filters start Xavier-uniform with gain 0.5,
    /// linear layers from N(0, 0.01²), biases at 0.
    pub fn new(arch: &Arch, scale_init: f32) -> Self {
        let image = [arch.size, arch.size, arch.in_channels];
        let image = if arch.check().is_ok() { image.to_vec() } else { Vec::new() };
        let mut builder = Self {
            nodes: vec![Node { op: Op::Input, inputs: Vec::new() }],
            shapes: vec![image],
            parameters: Vec::new(),
            conv_init: Init::XavierUniform { gain: 0.5 },
            scale_init,
        };
        if let Some(normalization) = &arch.normalize {
            let (mean, std) = (normalization.mean.clone(), normalization.std.clone());
            builder.push(Op::Normalize { mean, std }, &[0]);
        }
        builder
    }

    /// The position of the node appended last; in a new network, that of the image.
    pub fn last(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Channels of a node's result: C of an image `[H, W, C]`, the length of a vector.
    ///
    /// 0 where there is no such node or its operation does not fit its operands.
    pub fn channels(&self, node: usize) -> usize {
        self.shapes.get(node).and_then(|shape| shape.last()).copied().unwrap_or(0)
    }

    /// Convolution with `filters` square filters of an odd size `window`, padded by `window / 2`, so that stride 1 keeps the
    /// size of the image. [`Self::conv2d`] takes any other geometry.
    pub fn conv(
        &mut self,
        x: usize,
        name: &str,
        filters: usize,
        window: usize,
        stride: usize,
        bias: bool,
    ) -> usize {
        let square = Conv2d { filters, window: [window; 2], stride, padding: window / 2, bias };
        self.conv2d(x, name, square)
    }

    /// Convolution with rectangular filters and explicit padding.
    pub fn conv2d(&mut self, x: usize, name: &str, geometry: Conv2d) -> usize {
        let Conv2d { filters, window: [height, width], stride, padding, bias } = geometry;
        let shape = vec![filters, height, width, self.channels(x)];
        self.parameter(format!("{name}.weight"), shape, self.conv_init);
        if bias {
            self.parameter(format!("{name}.bias"), vec![filters], Init::Constant(0.0));
        }
        let name = name.to_owned();
        self.push(Op::Conv { name, bias, stride, padding, channels: None }, &[x])
    }

    /// Batch normalisation with PyTorch's defaults: eps 1e-5, momentum 0.1.
    pub fn batch_norm(&mut self, x: usize, name: &str) -> usize {
        let channels = self.channels(x);
        for (part, value) in [
            ("weight", self.scale_init),
            ("bias", 0.0),
            ("running_mean", 0.0),
            ("running_var", 1.0),
        ] {
            self.parameter(format!("{name}.{part}"), vec![channels], Init::Constant(value));
        }
        self.push(Op::BatchNorm { name: name.to_owned(), eps: 1e-5, momentum: 0.1 }, &[x])
    }

    /// Rectified linear unit: `max(x, 0)`.
    pub fn relu(&mut self, x: usize) -> usize {
        self.push(Op::Relu, &[x])
    }

    /// Maximum over windows: [`Window::HALVES`] is PyTorch's `MaxPool2d(2)`, and
    /// `Window { size: 3, stride: 2, padding: 1 }` its `MaxPool2d(3, 2, 1)`.
    pub fn max_pool(&mut self, x: usize, window: Window) -> usize {
        self.push(Op::MaxPool(window), &[x])
    }

    /// Mean over windows, as PyTorch's `AvgPool2d`: the zeros around the image count.
    pub fn avg_pool(&mut self, x: usize, window: Window) -> usize {
        self.push(Op::AvgPool(window), &[x])
    }

    /// Mean over the whole image: `[H, W, C]` to `[C]`, as PyTorch's `AdaptiveAvgPool2d(1)` and `Flatten`.
    pub fn global_avg_pool(&mut self, x: usize) -> usize {
        self.push(Op::GlobalAvgPool, &[x])
    }

    /// The image as one vector, `[H, W, C]` to `[C·H·W]`, in PyTorch's order: all pixels of the first channel stand first.
    pub fn flatten(&mut self, x: usize) -> usize {
        self.push(Op::Flatten, &[x])
    }

    /// Sum of two nodes of equal shape.
    pub fn add(&mut self, a: usize, b: usize) -> usize {
        self.push(Op::Add, &[a, b])
    }

    /// Fully connected layer of a vector; [`Self::flatten`] or [`Self::global_avg_pool`] makes one of an image.
    pub fn linear(&mut self, x: usize, name: &str, outputs: usize, bias: bool) -> usize {
        let shape = vec![outputs, self.channels(x)];
        self.parameter(format!("{name}.weight"), shape, Init::Normal { std: 0.01 });
        if bias {
            self.parameter(format!("{name}.bias"), vec![outputs], Init::Constant(0.0));
        }
        self.push(Op::Linear { name: name.to_owned(), bias }, &[x])
    }

    /// The finished network, to be given values by [`Model::initialised`](super::Model::initialised).
    pub fn finish(self) -> Blueprint {
        Blueprint { graph: Graph { nodes: self.nodes }, parameters: self.parameters }
    }

    fn parameter(&mut self, name: String, shape: Vec<usize>, init: Init) {
        self.parameters.push(Parameter { name, shape, init });
    }

    fn push(&mut self, op: Op, inputs: &[usize]) -> usize {
        let shape_of = |&input: &usize| self.shapes.get(input).map_or(&[][..], Vec::as_slice);
        let operands: Vec<&[usize]> = inputs.iter().map(shape_of).collect();
        let parameters = &self.parameters;
        let tensor = |name: &str| {
            // The layer's own parameters were appended just now.
            parameters.iter().rev().find(|p| p.name == name).map(|p| p.shape.as_slice())
        };
        let shape = op.result(&operands, &tensor).ok().filter(|shape| small(shape));
        self.shapes.push(shape.unwrap_or_default());
        self.nodes.push(Node { op, inputs: inputs.to_vec() });
        self.last()
    }
}
