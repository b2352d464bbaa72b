//! Writes a [`Graph`] with the shapes and initial values of its parameters.

use super::{Arch, Graph, Init, Node, Op};
use crate::ops::Window;

/// A parameter that a network needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// torchvision's name in the state dict.
    pub name: String,
    /// Filters `[K, R, S, C]`, matrices `[O, F]`, vectors `[C]`.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
}

/// A network without values: its graph and what its tensors must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Blueprint {
    /// The operations.
    pub graph: Graph,
    /// The tensors, in the order in which PyTorch registers them.
    pub parameters: Vec<Parameter>,
}

impl Blueprint {
    /// The shape of a tensor, if the network has it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.parameters.iter().find(|p| p.name == name).map(|p| p.shape.as_slice())
    }
}

/// Appends operations to a network. Every method takes the position of the node it reads and returns
/// that of the node it wrote.
pub struct Builder {
    nodes: Vec<Node>,
    channels: Vec<usize>,
    parameters: Vec<Parameter>,
    conv_init: Init,
    scale_init: f32,
}

impl Builder {
    /// A network whose input is `arch`'s, normalised as it says; `scale_init` is batch norm's initial γ.
    ///
    /// Convolutions start Xavier-uniform with gain 0.5, linear layers from N(0, 0.01²), biases at 0.
    pub fn new(arch: &Arch, scale_init: f32) -> Self {
        let mut builder = Self {
            nodes: vec![Node { op: Op::Input, inputs: Vec::new() }],
            channels: vec![arch.in_channels],
            parameters: Vec::new(),
            conv_init: Init::XavierUniform { gain: 0.5 },
            scale_init,
        };
        if let Some(normalization) = &arch.normalize {
            let (mean, std) = (normalization.mean.clone(), normalization.std.clone());
            builder.push(Op::Normalize { mean, std }, &[0], arch.in_channels);
        }
        builder
    }

    /// The node written last.
    pub fn last(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Channels of a node's result.
    pub fn channels(&self, node: usize) -> usize {
        self.channels[node]
    }

    /// Convolution with `filters` square windows of `window` pixels, padded to keep the size at stride 1.
    pub fn conv(
        &mut self,
        x: usize,
        name: &str,
        filters: usize,
        window: usize,
        stride: usize,
        bias: bool,
    ) -> usize {
        let shape = vec![filters, window, window, self.channels[x]];
        self.parameter(format!("{name}.weight"), shape, self.conv_init);
        if bias {
            self.parameter(format!("{name}.bias"), vec![filters], Init::Constant(0.0));
        }
        let (name, padding) = (name.to_owned(), window / 2);
        self.push(Op::Conv { name, bias, stride, padding, channels: None }, &[x], filters)
    }

    /// Batch normalisation with PyTorch's defaults: eps 1e-5, momentum 0.1.
    pub fn batch_norm(&mut self, x: usize, name: &str) -> usize {
        let channels = self.channels[x];
        for (part, value) in [
            ("weight", self.scale_init),
            ("bias", 0.0),
            ("running_mean", 0.0),
            ("running_var", 1.0),
        ] {
            self.parameter(format!("{name}.{part}"), vec![channels], Init::Constant(value));
        }
        self.push(Op::BatchNorm { name: name.to_owned(), eps: 1e-5, momentum: 0.1 }, &[x], channels)
    }

    /// Rectified linear unit.
    pub fn relu(&mut self, x: usize) -> usize {
        self.push(Op::Relu, &[x], self.channels[x])
    }

    /// Maximum over windows.
    pub fn max_pool(&mut self, x: usize, window: Window) -> usize {
        self.push(Op::MaxPool(window), &[x], self.channels[x])
    }

    /// Mean over the image.
    pub fn global_avg_pool(&mut self, x: usize) -> usize {
        self.push(Op::GlobalAvgPool, &[x], self.channels[x])
    }

    /// Sum of two nodes.
    pub fn add(&mut self, a: usize, b: usize) -> usize {
        self.push(Op::Add, &[a, b], self.channels[a])
    }

    /// Fully connected layer with bias.
    pub fn linear(&mut self, x: usize, name: &str, outputs: usize) -> usize {
        let shape = vec![outputs, self.channels[x]];
        self.parameter(format!("{name}.weight"), shape, Init::Normal { std: 0.01 });
        self.parameter(format!("{name}.bias"), vec![outputs], Init::Constant(0.0));
        self.push(Op::Linear { name: name.to_owned(), bias: true }, &[x], outputs)
    }

    /// The finished network.
    pub fn finish(self) -> Blueprint {
        Blueprint { graph: Graph { nodes: self.nodes }, parameters: self.parameters }
    }

    fn parameter(&mut self, name: String, shape: Vec<usize>, init: Init) {
        self.parameters.push(Parameter { name, shape, init });
    }

    fn push(&mut self, op: Op, inputs: &[usize], channels: usize) -> usize {
        self.nodes.push(Node { op, inputs: inputs.to_vec() });
        self.channels.push(channels);
        self.last()
    }
}
