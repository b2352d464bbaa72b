//! The network that an import writes down, and the values of the file in terms of it.

use super::constant::{Constant, Refusal};
use super::proto;
use crate::nn::{Graph, Node, Normalization, Op};
use crate::tensor::nchw_to_nhwc;
use crate::{Device, Tensor};
use std::collections::{BTreeMap, BTreeSet};

/// A value of the file, `[N, …]` without the images' dimension.
#[derive(Clone)]
pub(super) enum Value {
    /// `x · scale + shift` a channel of the image x in [0, 1].
    Pixels(Affine),
    /// The result of a node: `[C, H, W]` or `[C]`.
    Node(usize),
    /// The result of a node `[C]` that the file holds as `[C, 1, 1]`.
    Pooled(usize),
    /// Some channels of a node's result.
    Gathered(usize, Vec<usize>),
    Constant(Constant),
    /// Behind something that was refused.
    Unknown,
}

#[derive(Clone)]
pub(super) struct Affine {
    pub(super) scale: Vec<f64>,
    pub(super) shift: Vec<f64>,
}

impl Affine {
    pub(super) fn identity(channels: usize) -> Self {
        Self { scale: vec![1.0; channels], shift: vec![0.0; channels] }
    }

    /// Pixels from 0 to 255.
    pub(super) fn of_bytes(channels: usize) -> Self {
        Self { scale: vec![255.0; channels], shift: vec![0.0; channels] }
    }

    /// `(x − mean) / std`.
    pub(super) fn of(normalization: &Normalization) -> Self {
        let Normalization { mean, std } = normalization;
        let scale: Vec<f64> = std.iter().map(|&std| 1.0 / f64::from(std)).collect();
        let shift =
            mean.iter().zip(&scale).map(|(&mean, scale)| -f64::from(mean) * scale).collect();
        Self { scale, shift }
    }

    pub(super) fn is_identity(&self) -> bool {
        self.scale.iter().all(|&scale| scale == 1.0) && self.shift.iter().all(|&shift| shift == 0.0)
    }

    /// As mean and standard deviation.
    pub(super) fn normalization(&self) -> Result<Normalization, Refusal> {
        let Self { scale, shift } = self;
        let mean = shift.iter().zip(scale).map(|(shift, scale)| (-shift / scale) as f32).collect();
        let std = scale.iter().map(|scale| (1.0 / scale) as f32).collect();
        let normalization = Normalization { mean, std };
        let checked = normalization.check(scale.len());
        checked.map(|()| normalization).map_err(|_| {
            "the normalisation of pixels must be finite and divide by what is above 0".into()
        })
    }
}

/// Elements that may still be held. A few bytes can make a node that copies all weights, so what is made of a file's values is
/// limited by how many there are.
struct Room(usize);

impl Room {
    const START: usize = 1 << 22;
    /// Elements for each that the file holds.
    const FACTOR: usize = 4;
}

/// The network as far as it is written.
pub(super) struct Written {
    pub(super) nodes: Vec<Node>,
    /// `[H, W, C]` or `[C]` of each node's result.
    pub(super) shapes: Vec<Vec<usize>>,
    pub(super) tensors: BTreeMap<String, Tensor>,
    pub(super) taken: BTreeSet<String>,
    room: Room,
    /// Of the image, where a node reads it normalised.
    pub(super) normalizations: Vec<(Normalization, usize)>,
}

impl Written {
    /// Nothing but the image `[H, W, C]`.
    pub(super) fn new(image: [usize; 3]) -> Self {
        Self {
            nodes: vec![Node { op: Op::Input, inputs: Vec::new() }],
            shapes: vec![image.to_vec()],
            tensors: BTreeMap::new(),
            taken: BTreeSet::new(),
            room: Room(Room::START),
            normalizations: Vec::new(),
        }
    }

    /// Makes room for what is computed of `len` values that the file holds.
    pub(super) fn found(&mut self, len: usize) {
        self.room.0 = self.room.0.saturating_add(len.saturating_mul(Room::FACTOR));
    }

    /// Takes room for `len` elements. Where it fails once, it fails from then on.
    pub(super) fn take(&mut self, len: usize) -> Result<(), Refusal> {
        let left = self.room.0.checked_sub(len);
        self.room.0 = left.unwrap_or(0);
        left.map(|_| ())
            .ok_or_else(|| "the node makes more values than the file can be meant to hold".into())
    }

    /// Whether nothing more can be made.
    pub(super) fn is_full(&self) -> bool {
        self.room.0 == 0
    }

    /// Appends a node whose tensors are there.
    pub(super) fn push(&mut self, op: Op, inputs: &[usize]) -> Result<usize, Refusal> {
        let operands: Vec<&[usize]> = inputs.iter().map(|&i| self.shapes[i].as_slice()).collect();
        let shape = |name: &str| self.tensors.get(name).map(Tensor::shape);
        let shape = op.result(&operands, &shape);
        let shape = shape.map_err(|(want, got)| format!("found {got}; must be {want}"))?;
        self.nodes.push(Node { op, inputs: inputs.to_vec() });
        self.shapes.push(shape);
        Ok(self.nodes.len() - 1)
    }

    /// The node whose result a value is; the image gets its normalisation first.
    pub(super) fn node(&mut self, value: &Value) -> Result<usize, Refusal> {
        let affine = match value {
            Value::Node(node) => return Ok(*node),
            Value::Pixels(affine) if affine.is_identity() => return Ok(0),
            Value::Pixels(affine) => affine,
            Value::Pooled(_) => {
                return Err("its operand is the mean of an image, one pixel; only Flatten, Reshape, Squeeze, Relu and Add may \
                            follow a global average".into());
            }
            Value::Gathered(..) => {
                return Err("its operand is gathered channels, which only a Conv may read".into());
            }
            Value::Constant(_) | Value::Unknown => {
                return Err("its operand is a constant; must be an image or a vector".into());
            }
        };
        let normalization = affine.normalization()?;
        let known = self.normalizations.iter().find(|(known, _)| *known == normalization);
        if let Some((_, node)) = known {
            return Ok(*node);
        }
        let Normalization { mean, std } = normalization.clone();
        let node = self.push(Op::Normalize { mean, std }, &[0])?;
        self.normalizations.push((normalization, node));
        Ok(node)
    }

    /// The prefix of a layer's tensors: that of the parameter called `parameter`, else the module in the node's name, else
    /// `kind` and a number.
    pub(super) fn prefix(&mut self, parameter: &str, node: &proto::Node, kind: &str) -> String {
        let known =
            parameter.rsplit_once('.').filter(|(_, part)| ["weight", "bias"].contains(part));
        let known = known.map(|(prefix, _)| prefix.to_owned()).or_else(|| module(&node.name));
        let plain = |name: &String| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let prefix = known.filter(plain).unwrap_or_else(|| format!("{kind}{}", self.nodes.len()));
        let numbered = (2..).map(|i| format!("{prefix}_{i}"));
        let free =
            std::iter::once(prefix.clone()).chain(numbered).find(|name| !self.taken.contains(name));
        let free = free.unwrap_or(prefix);
        self.taken.insert(free.clone());
        free
    }

    /// Keeps values for the tensor of that name; those of a filter are in PyTorch's order.
    pub(super) fn keep(
        &mut self,
        name: String,
        shape: &[usize],
        values: &[f32],
    ) -> Result<(), Refusal> {
        self.take(values.len())?;
        let tensor = match *shape {
            [k, c, r, s] => {
                let values = nchw_to_nhwc(values, [k, c, r, s]);
                Tensor::from_vec(values, &[k, r, s, c], &Device::Cpu)
            }
            _ => Tensor::from_vec(values.to_vec(), shape, &Device::Cpu),
        };
        self.tensors.insert(name, tensor.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// What a value is, for messages.
    pub(super) fn described(&self, value: &Value) -> String {
        let dims = |dims: &[usize]| {
            let dims: Vec<String> = dims.iter().map(|dim| format!(", {dim}")).collect();
            format!("[N{}]", dims.concat())
        };
        match value {
            Value::Pooled(node) => dims(&[self.shapes[*node].as_slice(), &[1, 1]].concat()),
            Value::Node(node) | Value::Gathered(node, _) => match *self.shapes[*node] {
                [h, w, c] => dims(&[c, h, w]),
                ref other => dims(other),
            },
            Value::Pixels(_) => "the image itself".into(),
            Value::Constant(_) => "a constant".into(),
            Value::Unknown => "unknown".into(),
        }
    }

    /// Turns the one logit z of the linear layer `last` into the logits 0 and z.
    pub(super) fn two_logits(&mut self, last: usize) -> Result<(), Refusal> {
        let Op::Linear { bias, name } = self.nodes[last].op.clone() else {
            return Err("has one output, which no linear layer (Gemm or MatMul) computes; export a network with two logits".into());
        };
        let parts: &[&str] = if bias { &["weight", "bias"] } else { &["weight"] };
        for part in parts {
            let Some(tensor) = self.tensors.get_mut(&format!("{name}.{part}")) else { continue };
            let values = tensor.to_vec::<f32>().map_err(|error| error.to_string())?;
            let mut shape = tensor.shape().to_vec();
            shape[0] = 2;
            let both = [vec![0.0; values.len()], values].concat();
            *tensor =
                Tensor::from_vec(both, &shape, &Device::Cpu).map_err(|error| error.to_string())?;
        }
        self.shapes[last] = vec![2];
        Ok(())
    }

    /// The network that ends with the node `last`, without what it does not need.
    pub(super) fn finish(self, last: usize) -> (Graph, BTreeMap<String, Tensor>) {
        let mut needed = vec![false; last + 1];
        (needed[0], needed[last]) = (true, true);
        for i in (0..=last).rev().filter(|&i| i > 0) {
            if needed[i] {
                self.nodes[i].inputs.iter().for_each(|&input| needed[input] = true);
            }
        }
        let place = |count: &mut usize, needed: &bool| {
            *count += usize::from(*needed);
            Some(*count - 1)
        };
        let places: Vec<usize> = needed.iter().scan(0, place).collect();
        let kept =
            self.nodes.into_iter().take(last + 1).zip(&needed).filter(|(_, needed)| **needed);
        let nodes = kept.map(|(Node { op, inputs }, _)| Node {
            op,
            inputs: inputs.into_iter().map(|input| places[input]).collect(),
        });
        let graph = Graph { nodes: nodes.collect() };
        let named: BTreeSet<String> = graph.tensors().into_iter().collect();
        let tensors = self.tensors.into_iter().filter(|(name, _)| named.contains(name)).collect();
        (graph, tensors)
    }
}

/// The module in the scope that PyTorch's TorchScript exporter writes into names: `layer1.0.conv1` of
/// `/layer1/layer1.0/conv1/Conv`.
fn module(name: &str) -> Option<String> {
    let (scope, _) = name.strip_prefix('/')?.rsplit_once('/')?;
    let mut path: Vec<&str> = Vec::new();
    for part in scope.split('/') {
        // A container's child repeats the container's name.
        if path
            .last()
            .is_some_and(|last| part.strip_prefix(last).is_some_and(|rest| rest.starts_with('.')))
        {
            path.pop();
        }
        path.push(part);
    }
    Some(path.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_read_from_scopes() {
        for (name, want) in [
            ("/features/features.0/Conv", Some("features.0")),
            ("/layer1/layer1.0/conv1/Conv", Some("layer1.0.conv1")),
            ("/layer2/layer2.0/downsample/downsample.0/Conv", Some("layer2.0.downsample.0")),
            ("/fc/Gemm", Some("fc")),
            ("node_Conv_97", None),
            ("/Conv", None),
            ("", None),
        ] {
            assert_eq!(module(name).as_deref(), want, "{name}");
        }
    }

    #[test]
    fn normalisation_survives_the_way_through_scale_and_shift() {
        let normalization =
            Normalization { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] };
        assert_eq!(Affine::of(&normalization).normalization().unwrap(), normalization);
        let negative = Affine { scale: vec![-1.0], shift: vec![0.0] };
        assert!(negative.normalization().is_err());
    }
}
