//! A network as a list of operations in the order they run.

use crate::ops::Window;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a node computes. Operations with parameters hold the prefix of their names.
///
/// Fields stand in alphabetical order, here and in [`Node`]: files hold them as JSON of sorted keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// The image `[N, H, W, C]` in [0, 1]; node 0 and no other.
    Input,
    /// `(x − mean) / std` a channel.
    Normalize {
        /// Subtracted.
        mean: Vec<f32>,
        /// Divides.
        std: Vec<f32>,
    },
    /// Convolution with `{name}.weight` and, where `bias`, `{name}.bias`.
    Conv {
        /// Whether it adds a bias.
        bias: bool,
        /// The input channels that the filters read, in their order, distinct; all of them where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        channels: Option<Vec<usize>>,
        /// Prefix of the parameters' names.
        name: String,
        /// Zeros around the image.
        padding: usize,
        /// Of both directions.
        stride: usize,
    },
    /// Batch normalisation with `{name}.weight`, `.bias`, `.running_mean`, `.running_var`.
    BatchNorm {
        /// Added to the variance.
        eps: f32,
        /// Share of the new batch in the running statistics.
        momentum: f32,
        /// Prefix of the parameters' names.
        name: String,
    },
    /// `max(x, 0)`.
    Relu,
    /// Maximum over square windows.
    MaxPool(Window),
    /// Mean over square windows; the zeros around the image count.
    AvgPool(Window),
    /// Mean over the image: `[N, H, W, C]` to `[N, C]`.
    GlobalAvgPool,
    /// `[N, H, W, C]` to `[N, C·H·W]`, in PyTorch's order: the pixels of the first channel stand first.
    Flatten,
    /// `x · weightᵀ + bias` with `{name}.weight` and, where `bias`, `{name}.bias`.
    Linear {
        /// Whether it adds a bias.
        bias: bool,
        /// Prefix of the parameters' names.
        name: String,
    },
    /// Sum of two nodes.
    Add,
}

/// Values that a node may have for one image: 1 GiB.
const MOST_VALUES: usize = 1 << 28;

impl Op {
    /// Its name in messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Normalize { .. } => "normalize",
            Self::Conv { .. } => "conv2d",
            Self::BatchNorm { .. } => "batch_norm",
            Self::Relu => "relu",
            Self::MaxPool(_) => "max_pool",
            Self::AvgPool(_) => "avg_pool",
            Self::Flatten => "flatten",
            Self::GlobalAvgPool => "global_avg_pool",
            Self::Linear { .. } => "linear",
            Self::Add => "add",
        }
    }

    /// How many nodes it reads.
    fn arity(&self) -> usize {
        match self {
            Self::Input => 0,
            Self::Add => 2,
            _ => 1,
        }
    }

    /// Names of the tensors it needs.
    pub fn tensors(&self) -> Vec<String> {
        let named =
            |name: &str, parts: &[&str]| parts.iter().map(|p| format!("{name}.{p}")).collect();
        match self {
            Self::Conv { name, bias, .. } | Self::Linear { name, bias } => match bias {
                true => named(name, &["weight", "bias"]),
                false => named(name, &["weight"]),
            },
            Self::BatchNorm { name, .. } => {
                named(name, &["weight", "bias", "running_mean", "running_var"])
            }
            _ => Vec::new(),
        }
    }
}

/// One operation and the nodes that it reads, all of them earlier in the list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Positions of its operands in [`Graph::nodes`].
    pub inputs: Vec<usize>,
    /// What it computes.
    #[serde(with = "stored")]
    pub op: Op,
}

/// Operations in files. A maximum over [`Window::HALVES`] has a short name of its own.
mod stored {
    use super::{Op, Window};
    use serde::de::{Deserializer, Error};
    use serde::{Deserialize, Serialize, Serializer};

    const HALVES: &str = "max_pool2";

    pub fn serialize<S: Serializer>(op: &Op, to: S) -> Result<S::Ok, S::Error> {
        match op {
            Op::MaxPool(Window::HALVES) => HALVES.serialize(to),
            op => op.serialize(to),
        }
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Op, D::Error> {
        let value = serde_json::Value::deserialize(from)?;
        match value == HALVES {
            true => Ok(Op::MaxPool(Window::HALVES)),
            false => Op::deserialize(value).map_err(Error::custom),
        }
    }
}

/// A network: nodes in the order they run; the last one holds the logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Graph {
    /// The operations.
    pub nodes: Vec<Node>,
}

impl Graph {
    /// Names of all tensors, in the order in which the nodes run.
    pub fn tensors(&self) -> Vec<String> {
        self.nodes.iter().flat_map(|node| node.op.tensors()).collect()
    }

    /// The position of the last node that reads each node; its own where none does.
    pub fn last_use(&self) -> Vec<usize> {
        let mut last: Vec<usize> = (0..self.nodes.len()).collect();
        for (i, node) in self.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&input| last[input] = i);
        }
        last
    }

    /// The result shape of every node for one image of `input` = `[H, W, C]`: `[H, W, C]` or `[C]`.
    /// `shape` answers the shape of a tensor by name.
    ///
    /// Errors: what does not fit, naming node and tensor; so this is the check of a graph that a file gave.
    pub fn shapes<'a>(
        &self,
        input: [usize; 3],
        shape: &impl Fn(&str) -> Option<&'a [usize]>,
    ) -> Result<Vec<Vec<usize>>> {
        let mut shapes: Vec<Vec<usize>> = Vec::with_capacity(self.nodes.len());
        for (i, node) in self.nodes.iter().enumerate() {
            let earlier = node.inputs.iter().all(|&input| input < i);
            let first = matches!(node.op, Op::Input) == (i == 0);
            if node.inputs.len() != node.op.arity() || !earlier || !first {
                return Err(Error::param(
                    format!("graph[{i}].inputs"),
                    format!("{:?} of {}", node.inputs, node.op.kind()),
                    format!("{} earlier nodes; the input stands first", node.op.arity()),
                ));
            }
            let inputs: Vec<&[usize]> = node.inputs.iter().map(|&i| shapes[i].as_slice()).collect();
            let result = if i == 0 { Ok(input.to_vec()) } else { node.op.result(&inputs, shape) };
            // Padding makes a large image of a small file.
            let small = |shape: &Vec<usize>| {
                let product = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
                product.is_some_and(|values| values <= MOST_VALUES)
            };
            let result = result.and_then(|shape| match small(&shape) {
                true => Ok(shape),
                false => Err(misfit(&format!("at most {MOST_VALUES} values an image"), &shape)),
            });
            shapes.push(result.map_err(|(want, got)| {
                let names = node.op.tensors();
                let what = names.first().map_or(String::new(), |name| format!(" ({name})"));
                Error::param(format!("graph[{i}] {}{what}", node.op.kind()), got, want)
            })?);
        }
        match shapes.last() {
            Some(logits) if logits.len() == 1 => Ok(shapes),
            last => {
                let got = last.map_or("empty".into(), |last| format!("ends in {last:?}"));
                Err(Error::param("graph", got, "a network that ends in [classes]"))
            }
        }
    }
}

/// What was expected, and what was there.
pub(crate) type Misfit = (String, String);

/// Images of this many pixels a side and more are taken for a mistake.
const MOST_PIXELS: usize = 1 << 16;

impl Op {
    /// The shape of its result for one image, from those of its operands: what was expected and what was there if they do not
    /// fit.
    pub(crate) fn result<'a>(
        &self,
        inputs: &[&[usize]],
        shape: &impl Fn(&str) -> Option<&'a [usize]>,
    ) -> std::result::Result<Vec<usize>, Misfit> {
        let result = result(self, inputs, shape)?;
        match result.as_slice() {
            [h, w, _] if *h.max(w) >= MOST_PIXELS => {
                Err(misfit(&format!("an image of fewer than {MOST_PIXELS} pixels a side"), &result))
            }
            _ => Ok(result),
        }
    }
}

/// [`Op::result`] without the limit.
fn result<'a>(
    op: &Op,
    inputs: &[&[usize]],
    shape: &impl Fn(&str) -> Option<&'a [usize]>,
) -> std::result::Result<Vec<usize>, Misfit> {
    let x = inputs[0];
    let image = || <[usize; 3]>::try_from(x).map_err(|_| misfit("an image [H, W, C]", x));
    match op {
        Op::Input => Err(misfit("only the first node", x)),
        Op::Normalize { mean, std } => {
            let [.., c] = image()?;
            let fits = mean.len() == c && std.len() == c && std.iter().all(|&s| s > 0.0);
            fits.then(|| x.to_vec())
                .ok_or_else(|| misfit("one mean and one positive std a channel", x))
        }
        Op::Conv { name, bias, stride, padding, channels } => {
            let w = four(shape(&format!("{name}.weight")))?;
            vector(*bias, &format!("{name}.bias"), w[0], shape)?;
            convolution(image()?, w, *stride, *padding, channels.as_deref())
        }
        Op::BatchNorm { eps, momentum, .. } => {
            let [.., c] = image()?;
            if !(*eps > 0.0 && (0.0..=1.0).contains(momentum)) {
                let got = format!("eps {eps}, momentum {momentum}");
                return Err(("eps above 0, momentum in [0, 1]".to_owned(), got));
            }
            op.tensors().iter().try_for_each(|name| vector(true, name, c, shape))?;
            Ok(x.to_vec())
        }
        Op::Relu => Ok(x.to_vec()),
        Op::MaxPool(window) | Op::AvgPool(window) => {
            let [h, w, c] = image()?;
            match (window.count(h), window.count(w)) {
                (Some(p), Some(q)) => Ok(vec![p, q, c]),
                _ => Err(misfit(
                    &format!(
                        "an image that the windows fit into: {0}×{0} pixels, at most 15×15, padded by {1}, at most half of that",
                        window.size, window.padding
                    ),
                    x,
                )),
            }
        }
        Op::GlobalAvgPool => image().map(|[.., c]| vec![c]),
        Op::Flatten => {
            let [h, w, c] = image()?;
            Ok(vec![h * w * c])
        }
        Op::Linear { name, bias } => {
            let w = shape(&format!("{name}.weight")).unwrap_or_default();
            match (w, x) {
                (&[o, f], &[c]) if f == c && o > 0 => {
                    vector(*bias, &format!("{name}.bias"), o, shape)?;
                    Ok(vec![o])
                }
                _ => Err(misfit(&format!("a weight that reads {x:?}"), w)),
            }
        }
        Op::Add if inputs[0] == inputs[1] => Ok(x.to_vec()),
        Op::Add => Err(misfit(&format!("equal shapes, {x:?} on both sides"), inputs[1])),
    }
}

/// `[P, Q, K]` of a convolution of `[H, W, C]` with filters `[K, R, S, C']`.
fn convolution(
    [h, w, c]: [usize; 3],
    [k, r, s, read]: [usize; 4],
    stride: usize,
    padding: usize,
    channels: Option<&[usize]>,
) -> std::result::Result<Vec<usize>, Misfit> {
    let fits = match channels {
        None => read == c,
        Some(list) => {
            let distinct: BTreeSet<usize> = list.iter().copied().collect();
            list.len() == read && distinct.len() == read && distinct.last().is_none_or(|&l| l < c)
        }
    };
    if !fits || read == 0 || k == 0 {
        return Err(misfit(&format!("filters that read {c} channels"), &[k, r, s, read]));
    }
    let limit = 1 << 16;
    let sane = (1..limit).contains(&stride) && padding < limit && r > 0 && s > 0;
    if !sane || h + 2 * padding < r || w + 2 * padding < s {
        let got = format!("[{r}, {s}], stride {stride}, padding {padding}");
        return Err((format!("a window that fits into [{h}, {w}]"), got));
    }
    Ok(vec![(h + 2 * padding - r) / stride + 1, (w + 2 * padding - s) / stride + 1, k])
}

fn misfit(want: &str, got: &[usize]) -> Misfit {
    (want.to_owned(), format!("{got:?}"))
}

fn four(shape: Option<&[usize]>) -> std::result::Result<[usize; 4], Misfit> {
    let shape = shape.unwrap_or_default();
    <[usize; 4]>::try_from(shape).map_err(|_| misfit("a weight of 4 dimensions", shape))
}

/// Checks a parameter of one value a channel, where there is one.
fn vector<'a>(
    present: bool,
    name: &str,
    len: usize,
    shape: &impl Fn(&str) -> Option<&'a [usize]>,
) -> std::result::Result<(), Misfit> {
    match shape(name) {
        Some(&[l]) if present && l == len => Ok(()),
        _ if !present => Ok(()),
        None => Err((format!("{name} of shape [{len}]"), "none".into())),
        Some(other) => Err(misfit(&format!("{name} of shape [{len}]"), other)),
    }
}
