//! What each operator of a file becomes.

use super::attributes::Attributes;
use super::checks::{flattens_images, small, unsupported, whatever_it_reads};
use super::constant::{Constant, Refusal};
use super::graph::{Affine, Value};
use super::importer::Importer;
use super::proto;
use super::shapes::{cast, concat, extents};
use crate::nn::Op;
use crate::ops::Window;

/// Windows of one pixel each: what they give is what they read.
const PIXELS: Window = Window { padding: 0, stride: 1, size: 1 };

/// Why a sum with a constant is refused.
const BIAS: &str = "adds a constant; only the bias of a matrix product without one can be added, where nothing else reads the \
                    product: give the bias to the Conv or Gemm";

/// Operators that [`Importer::operator`] knows.
const KNOWN: [&str; 27] = [
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "CastLike",
    "Concat",
    "Constant",
    "Conv",
    "Div",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "Identity",
    "MatMul",
    "MaxPool",
    "Mul",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Shape",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
];

impl<'a> Importer<'a> {
    /// What `node` makes of its operands; `unknown` if one of them is behind a fault.
    pub(super) fn operator(
        &mut self,
        node: &'a proto::Node,
        inputs: &[Option<Value>],
        unknown: bool,
    ) -> Result<Value, Refusal> {
        if !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return Err(format!(
                "the operator is of the domain `{}`; only ONNX's own are supported",
                node.domain
            ));
        }
        if !KNOWN.contains(&node.op_type.as_str()) {
            return Err(unsupported(&node.op_type).into());
        }
        if unknown {
            return whatever_it_reads(node, inputs).map(|()| Value::Unknown);
        }
        if self.written.is_full() {
            return Err("it stands behind more values than the file can be meant to hold".into());
        }
        let value = self.known_operator(node, inputs)?;
        // These share what they read.
        let shared = ["Identity", "Dropout", "Reshape", "Squeeze", "Unsqueeze"];
        self.written.take(match &value {
            Value::Pixels(affine) => 2 * affine.scale.len(),
            Value::Gathered(_, list) => list.len(),
            Value::Constant(_) if shared.contains(&node.op_type.as_str()) => 1,
            Value::Constant(constant) => constant.len(),
            Value::Node(_) | Value::Pooled(_) | Value::Unknown => 1,
        })?;
        Ok(value)
    }

    fn known_operator(
        &mut self,
        node: &'a proto::Node,
        inputs: &[Option<Value>],
    ) -> Result<Value, Refusal> {
        let all = Attributes(node);
        let get = |i: usize| inputs.get(i).and_then(Option::as_ref);
        let operand = |i: usize| get(i).ok_or_else(|| format!("input {i} is missing"));
        let constant = |i: usize| match get(i) {
            Some(Value::Constant(constant)) => Ok(Some(constant)),
            None => Ok(None),
            Some(_) => Err(format!("input {i} is computed; must be a constant")),
        };
        match node.op_type.as_str() {
            "Constant" => self.constant(&all),
            "Shape" => self.shape(operand(0)?, &all),
            "Cast" | "CastLike" => cast(operand(0)?, get(1), &all),
            "Identity" => operand(0).cloned(),
            "Dropout" => match constant(2)?.and_then(Constant::as_ints) {
                Some([Some(0)]) | None => operand(0).cloned(),
                _ => Err("it is in training mode; export the network behind model.eval()".into()),
            },
            "Conv" => self.convolution(node, operand(0)?, [constant(1)?, constant(2)?]),
            "Gemm" => self.gemm(node, operand(0)?, [constant(1)?, constant(2)?]),
            "MatMul" => self.matmul(node, operand(0)?, constant(1)?),
            "BatchNormalization" => {
                let parts = [constant(1)?, constant(2)?, constant(3)?, constant(4)?];
                self.batch_norm(node, operand(0)?, parts)
            }
            "Relu" => self.alike(Op::Relu, operand(0)?),
            "MaxPool" => self.max_pool(operand(0)?, &all),
            "AveragePool" => self.avg_pool(operand(0)?, &all),
            "GlobalAveragePool" => {
                let x = self.written.node(operand(0)?)?;
                self.written.push(Op::GlobalAvgPool, &[x]).map(Value::Pooled)
            }
            "ReduceMean" => self.reduce_mean(operand(0)?, constant(1)?, &all),
            "Add" | "Sub" | "Mul" | "Div" => self.arithmetic(node, operand(0)?, operand(1)?),
            "Flatten" => {
                flattens_images(&all)?;
                self.flatten(operand(0)?)
            }
            "Reshape" => {
                let shape = constant(1)?.and_then(Constant::as_ints).ok_or("its shape is missing or no list of integers")?;
                self.reshape(operand(0)?, shape, all.int("allowzero", 0) != 0)
            }
            "Squeeze" | "Unsqueeze" => {
                let axes = match constant(1)? {
                    Some(axes) => axes.known_ints(),
                    None => all.ints("axes").map(<[i64]>::to_vec),
                };
                self.squeeze(operand(0)?, axes, node.op_type == "Squeeze")
            }
            "Gather" => self.gather(operand(0)?, constant(1)?, &all),
            "Concat" => concat(inputs),
            "Expand" => match (operand(0)?, constant(1)?.and_then(Constant::known_ints)) {
                (Value::Constant(one), Some(dims)) => {
                    one.repeated(extents(&dims)?).map(Value::Constant)
                }
                _ => Err("only constants can be expanded".into()),
            },
            "Transpose" => match operand(0)? {
                Value::Constant(matrix) if all.ints("perm").is_none_or(|perm| *perm == [1, 0]) => {
                    matrix.transposed().map(Value::Constant)
                }
                _ => Err("only constant matrices can be transposed: images must be [N, C, H, W] throughout".into()),
            },
            other => Err(unsupported(other).into()),
        }
    }

    /// An operation that keeps the form of what it reads.
    fn alike(&mut self, op: Op, x: &Value) -> Result<Value, Refusal> {
        match x {
            Value::Pooled(node) => self.written.push(op, &[*node]).map(Value::Pooled),
            other => {
                let x = self.written.node(other)?;
                self.written.push(op, &[x]).map(Value::Node)
            }
        }
    }

    fn convolution(
        &mut self,
        node: &proto::Node,
        x: &Value,
        [weight, bias]: [Option<&Constant>; 2],
    ) -> Result<Value, Refusal> {
        let all = Attributes(node);
        let (dims, values) = matrix(weight, 4)?;
        let (r, s) = (dims[2], dims[3]);
        let (stride, padding) = all.convolution(r, s)?;
        let (from, channels) = match x {
            Value::Gathered(node, channels) => (*node, Some(channels.clone())),
            other => (self.written.node(other)?, None),
        };
        self.side(from)?;
        // Exporters add biases of zeros, computed from the weight's shape, where there was none.
        let named = name_of(node, 2).ends_with(".bias");
        let zeros =
            |bias: &&Constant| bias.as_floats().is_some_and(|b| b.iter().all(|&b| b == 0.0));
        let bias = bias.filter(|bias| named || !zeros(bias));
        let name = self.written.prefix(name_of(node, 1), node, "conv");
        self.keep(&name, dims, values, bias)?;
        let op = Op::Conv { bias: bias.is_some(), channels, name, padding, stride };
        self.written.push(op, &[from]).map(Value::Node)
    }

    fn gemm(
        &mut self,
        node: &proto::Node,
        x: &Value,
        [weight, bias]: [Option<&Constant>; 2],
    ) -> Result<Value, Refusal> {
        let all = Attributes(node);
        all.product(bias.is_some())?;
        matrix(weight, 2)?;
        let turned = match weight {
            Some(weight) if all.int("transB", 0) == 0 => Some(weight.transposed()?),
            _ => None,
        };
        self.linear(node, x, turned.as_ref().or(weight), bias)
    }

    fn matmul(
        &mut self,
        node: &proto::Node,
        x: &Value,
        weight: Option<&Constant>,
    ) -> Result<Value, Refusal> {
        matrix(weight, 2)?;
        let turned = weight.map(Constant::transposed).transpose()?;
        self.linear(node, x, turned.as_ref(), None)
    }

    /// A fully connected layer of the weight `[O, F]`.
    fn linear(
        &mut self,
        node: &proto::Node,
        x: &Value,
        weight: Option<&Constant>,
        bias: Option<&Constant>,
    ) -> Result<Value, Refusal> {
        let (dims, values) = matrix(weight, 2)?;
        let Value::Node(from) = *x else {
            return Err(format!(
                "reads {}; must be a vector [N, features]: flatten the image first",
                self.written.described(x)
            ));
        };
        let name = self.written.prefix(name_of(node, 1), node, "linear");
        self.keep(&name, dims, values, bias)?;
        let made = self.written.push(Op::Linear { bias: bias.is_some(), name }, &[from])?;
        self.product = bias.is_none().then(|| (made, node.output[0].clone()));
        Ok(Value::Node(made))
    }

    /// Keeps the weight of a layer, and its bias if it has one.
    fn keep(
        &mut self,
        name: &str,
        dims: &[usize],
        weight: &[f32],
        bias: Option<&Constant>,
    ) -> Result<(), Refusal> {
        let bias = bias.map(|bias| vector(bias, dims[0])).transpose()?;
        self.written.keep(format!("{name}.weight"), dims, weight)?;
        bias.map_or(Ok(()), |bias| self.written.keep(format!("{name}.bias"), &[dims[0]], bias))
    }

    fn batch_norm(
        &mut self,
        node: &proto::Node,
        x: &Value,
        parts: [Option<&Constant>; 4],
    ) -> Result<Value, Refusal> {
        let all = Attributes(node);
        all.not_training()?;
        if let Value::Pooled(_) = x {
            return Err("batch normalisation of a vector is not supported, only of images".into());
        }
        let from = self.written.node(x)?;
        let [_, _, channels] = *self.written.shapes[from] else {
            return Err("batch normalisation of a vector is not supported, only of images".into());
        };
        let name = self.written.prefix(name_of(node, 1), node, "norm");
        for (part, values) in
            ["weight", "bias", "running_mean", "running_var"].into_iter().zip(parts)
        {
            let values = vector(values.ok_or_else(|| format!("its {part} is missing"))?, channels)?;
            self.written.keep(format!("{name}.{part}"), &[channels], values)?;
        }
        // ONNX counts the share of the old statistics, of which f32 holds seven digits.
        let momentum = ((1.0 - f64::from(all.float("momentum", 0.9))) * 1e6).round() / 1e6;
        let op = Op::BatchNorm { eps: all.float("epsilon", 1e-5), momentum: momentum as f32, name };
        self.written.push(op, &[from]).map(Value::Node)
    }

    /// What a pooling reads, and its windows.
    fn pooling(&mut self, x: &Value, all: &Attributes) -> Result<(usize, Window), Refusal> {
        let from = self.written.node(x)?;
        let window = all.pooling(Some(self.side(from)?))?;
        Ok((from, window))
    }

    /// Height and width of a node's result.
    fn side(&self, node: usize) -> Result<[usize; 2], Refusal> {
        match *self.written.shapes[node] {
            [h, w, _] => Ok([h, w]),
            _ => Err("reads a vector; must be an image".into()),
        }
    }

    fn max_pool(&mut self, x: &Value, all: &Attributes) -> Result<Value, Refusal> {
        let (from, window) = self.pooling(x, all)?;
        if window == PIXELS {
            return Ok(Value::Node(from));
        }
        small(window)?;
        self.written.push(Op::MaxPool(window), &[from]).map(Value::Node)
    }

    fn avg_pool(&mut self, x: &Value, all: &Attributes) -> Result<Value, Refusal> {
        let (from, window) = self.pooling(x, all)?;
        let [h, w] = self.side(from)?;
        if window == PIXELS {
            return Ok(Value::Node(from));
        }
        if [window.size, window.size, window.padding] == [h, w, 0] {
            return self.written.push(Op::GlobalAvgPool, &[from]).map(Value::Pooled);
        }
        small(window)?;
        self.written.push(Op::AvgPool(window), &[from]).map(Value::Node)
    }

    fn reduce_mean(
        &mut self,
        x: &Value,
        axes: Option<&Constant>,
        all: &Attributes,
    ) -> Result<Value, Refusal> {
        let axes = match axes {
            Some(axes) => axes.known_ints(),
            None => all.ints("axes").map(<[i64]>::to_vec),
        };
        let mut axes: Vec<i64> = axes.unwrap_or_default();
        axes.iter_mut().filter(|axis| **axis < 0).for_each(|axis| *axis += 4);
        axes.sort_unstable();
        if axes != [2, 3] {
            return Err(format!(
                "takes the mean over the axes {axes:?}; must be over height and width, [2, 3]"
            ));
        }
        let from = self.written.node(x)?;
        let pooled = self.written.push(Op::GlobalAvgPool, &[from])?;
        Ok(if all.int("keepdims", 1) != 0 { Value::Pooled(pooled) } else { Value::Node(pooled) })
    }

    /// A sum of two results, the bias behind a matrix product, or a step of the normalisation of pixels.
    fn arithmetic(&mut self, node: &proto::Node, a: &Value, b: &Value) -> Result<Value, Refusal> {
        let operator = node.op_type.as_str();
        let (x, constant, first) = match (a, b) {
            (x, Value::Constant(constant)) => (x, constant, 0),
            (Value::Constant(constant), x) if matches!(operator, "Add" | "Mul") => (x, constant, 1),
            (Value::Pooled(a), Value::Pooled(b)) if operator == "Add" => {
                return self.written.push(Op::Add, &[*a, *b]).map(Value::Pooled);
            }
            (a, b) if operator == "Add" => {
                let (a, b) = (self.written.node(a)?, self.written.node(b)?);
                return self.written.push(Op::Add, &[a, b]).map(Value::Node);
            }
            _ => {
                return Err(
                    "an operation on two computed values is not supported; only Add is".into()
                );
            }
        };
        match x {
            Value::Pixels(affine) => Ok(Value::Pixels(normalised(affine, operator, constant)?)),
            Value::Node(from) if operator == "Add" => {
                let read = name_of(node, first);
                let alone = self.readers.get(read) == Some(&1)
                    && self.product.as_ref().is_some_and(|(n, name)| n == from && name == read);
                self.add_bias(*from, constant, alone, name_of(node, 1 - first))
            }
            Value::Node(_) | Value::Pooled(_) if operator == "Add" => Err(BIAS.into()),
            _ => Err(
                "arithmetic with constants is only supported on the pixels, as their normalisation"
                    .into(),
            ),
        }
    }

    /// Gives the linear layer `from` its bias.
    fn add_bias(
        &mut self,
        from: usize,
        bias: &Constant,
        alone: bool,
        named: &str,
    ) -> Result<Value, Refusal> {
        let last = from + 1 == self.written.nodes.len();
        let node = self.written.nodes.get_mut(from).filter(|_| alone && last);
        let Some(crate::nn::Node { op: Op::Linear { bias: has @ false, name }, .. }) = node else {
            return Err(BIAS.into());
        };
        let outputs = self.written.shapes[from][0];
        let values = vector(bias, outputs)?;
        *has = true;
        // The bias still has the name that the transposed weight has lost.
        let old = name.clone();
        let better = named.strip_suffix(".bias").filter(|_| old.starts_with("linear"));
        let better = better.filter(|name| self.written.taken.insert((*name).to_owned()));
        let new = better.map_or(old.clone(), str::to_owned);
        name.clone_from(&new);
        if let Some(weight) = self.written.tensors.remove(&format!("{old}.weight")) {
            self.written.tensors.insert(format!("{new}.weight"), weight);
        }
        self.written.keep(format!("{new}.bias"), &[outputs], values)?;
        Ok(Value::Node(from))
    }
}

/// `affine` behind one more operation.
fn normalised(affine: &Affine, operator: &str, constant: &Constant) -> Result<Affine, Refusal> {
    let channels = affine.scale.len();
    let constant = constant.widened()?;
    let values = constant.as_floats().map_or(&[][..], |values| values.as_slice());
    // One number, or one a channel: [C, 1, 1] or [1, C, 1, 1].
    let by_channel = matches!(*constant.dims, [c, 1, 1] | [1, c, 1, 1] if c == channels);
    if values.len() != 1 && !by_channel {
        let found = &constant.dims;
        return Err(format!("normalises {channels} channels by a constant of the shape {found:?}"));
    }
    let Affine { mut scale, mut shift } = affine.clone();
    for c in 0..channels {
        let value = f64::from(values[c % values.len()]);
        match operator {
            "Add" => shift[c] += value,
            "Sub" => shift[c] -= value,
            "Mul" => (scale[c], shift[c]) = (scale[c] * value, shift[c] * value),
            _ => (scale[c], shift[c]) = (scale[c] / value, shift[c] / value),
        }
    }
    Ok(Affine { scale, shift })
}

/// A weight of that many dimensions, none of them empty.
fn matrix(weight: Option<&Constant>, rank: usize) -> Result<(&[usize], &[f32]), Refusal> {
    let weight = weight.ok_or("its weight is missing")?;
    match weight.as_floats() {
        Some(values) if weight.dims.len() == rank && !values.is_empty() => {
            Ok((&weight.dims, values))
        }
        _ => {
            Err(format!("its weight has the shape {:?}; must have {rank} dimensions", weight.dims))
        }
    }
}

/// One number a channel.
fn vector(values: &Constant, len: usize) -> Result<&[f32], Refusal> {
    let flat = matches!(*values.dims, [l] | [1, l] if l == len);
    match values.as_floats() {
        Some(found) if flat => Ok(found),
        _ => Err(format!("a parameter has the shape {:?}; must be [{len}]", values.dims)),
    }
}

/// The name of an operand, empty where it is left out.
fn name_of(node: &proto::Node, i: usize) -> &str {
    node.input.get(i).map_or("", String::as_str)
}
