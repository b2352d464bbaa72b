//! Sizes and costs of the layers of a network.

use super::{Arch, Blueprint, Graph, Model, Op};
use crate::{Result, Tensor};

/// A convolution or linear layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Prefix of its parameters' names.
    pub name: String,
    /// Shape of its weight as PyTorch has it: `[O, I, H, W]` or `[O, I]`.
    pub shape: Vec<usize>,
    /// Positions at which the weight is applied: output height times output width of a convolution, 1 of a linear layer.
    pub positions: usize,
    /// Number of values of the bias: O, or 0 where there is no bias.
    pub bias: usize,
}

impl Layer {
    /// Number of weights.
    pub fn weights(&self) -> usize {
        self.shape.iter().product()
    }

    /// Multiply-accumulates for one image, without the bias.
    pub fn macs(&self) -> usize {
        self.weights() * self.positions
    }

    /// Whether the layer is a convolution.
    pub fn is_conv(&self) -> bool {
        self.shape.len() == 4
    }
}

/// What pruning has left of a layer. Only weights that are not exactly 0 count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Weights that are not 0.
    pub weights: usize,
    /// Input channels with a weight that is not 0.
    pub channels: usize,
    /// Filters with a weight that is not 0.
    pub filters: usize,
}

/// The layers of `graph`, in the order they run.
fn layers<'a>(
    graph: &Graph,
    arch: &Arch,
    shape: &impl Fn(&str) -> Option<&'a [usize]>,
) -> Result<Vec<Layer>> {
    let results = graph.shapes([arch.size, arch.size, arch.in_channels], shape)?;
    let layer = |(node, result): (&super::Node, Vec<usize>)| {
        let (Op::Conv { name, bias, .. } | Op::Linear { name, bias }) = &node.op else {
            return None;
        };
        let shape = match *shape(&format!("{name}.weight"))? {
            [k, r, s, c] => vec![k, c, r, s],
            [o, f] => vec![o, f],
            _ => return None,
        };
        let positions = result[..result.len() - 1].iter().product();
        let bias = if *bias { shape[0] } else { 0 };
        Some(Layer { name: name.clone(), shape, positions, bias })
    };
    Ok(graph.nodes.iter().zip(results).filter_map(layer).collect())
}

impl Blueprint {
    /// The convolutions and linear layers, in the order in which they run, for images of `arch`'s size.
    pub fn layers(&self, arch: &Arch) -> Result<Vec<Layer>> {
        layers(&self.graph, arch, &|name| self.shape(name))
    }

    /// Number of trained values: weights and biases, scales and shifts of batch norm.
    pub fn parameter_count(&self) -> usize {
        let trained = self.parameters.iter().filter(|p| !p.name.contains(".running_"));
        trained.map(|p| p.shape.iter().product::<usize>()).sum()
    }
}

impl Model {
    /// The convolutions and linear layers, in the order in which they run.
    pub fn layers(&self) -> Result<Vec<Layer>> {
        layers(self.graph(), self.arch(), &|name| {
            let of = |part: &str| self.running().get(name.strip_suffix(part)?);
            let running = of(".running_mean").or_else(|| of(".running_var"));
            self.params().get(name).or(running.map(|stats| &stats.mean)).map(Tensor::shape)
        })
    }

    /// Number of trained values.
    pub fn parameter_count(&self) -> usize {
        self.params().values().map(Tensor::len).sum()
    }

    /// Counts the weights of `layer` that are not 0.
    pub fn kept(&self, layer: &Layer) -> Result<Kept> {
        let weight = self.param(&format!("{}.weight", layer.name))?;
        let (outputs, inputs) = (weight.shape()[0], layer.shape[1]);
        let values = weight.to_vec::<f32>()?;
        let (mut filters, mut channels, mut weights) =
            (vec![false; outputs], vec![false; inputs], 0);
        let per_filter = values.len() / outputs;
        for (i, _) in values.iter().enumerate().filter(|(_, value)| **value != 0.0) {
            weights += 1;
            filters[i / per_filter] = true;
            channels[i % inputs] = true;
        }
        let count = |seen: Vec<bool>| seen.into_iter().filter(|&s| s).count();
        Ok(Kept { weights, channels: count(channels), filters: count(filters) })
    }
}
