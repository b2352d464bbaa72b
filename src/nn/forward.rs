//! The interpreter that runs a network on a tape.

use super::memory::PassMemory;
use super::model::RunningStats;
use super::{Arch, Graph, Model, Op, Weights};
use crate::{Device, Error, Result, Tape, Tensor, ops};
use std::collections::BTreeMap;

/// Running statistics as a pass may use them.
enum Statistics<'a> {
    Update(&'a mut BTreeMap<String, RunningStats>),
    Keep(&'a BTreeMap<String, RunningStats>),
}

impl Model {
    /// Logits in training mode: batch normalisation uses the statistics of the batch and updates the running ones.
    ///
    /// Shapes: `x [N, H, W, C]`, pixels in [0, 1]; result `[N, classes]`.
    ///
    /// Errors: [`crate::ErrorKind::Shape`] for images of another size than the network's; [`crate::ErrorKind::Device`] on a CPU
    /// whose free memory does not hold the pass, with what `tape` keeps of it.
    pub fn forward_train(
        &mut self,
        tape: &mut Tape,
        x: &Tensor,
        weights: &Weights,
    ) -> Result<Tensor> {
        let Self { arch, graph, params, running, constants, last_use, memory, .. } = self;
        let pass = Pass { arch, graph, params, constants, last_use, memory, weights };
        pass.run(tape, x, Statistics::Update(running))
    }

    /// Logits in evaluation mode: batch normalisation uses the running statistics. Shapes and errors as [`Self::forward_train`].
    pub fn forward_eval(&self, tape: &mut Tape, x: &Tensor, weights: &Weights) -> Result<Tensor> {
        let Self { arch, graph, params, running, constants, last_use, memory, .. } = self;
        let noisy = match &weights.noise {
            None => None,
            Some(noise) => {
                let substitutes = noise.substitutes(tape, params)?;
                Some(Weights { substitutes, ..Weights::default() })
            }
        };
        let weights = noisy.as_ref().unwrap_or(weights);
        let pass = Pass { arch, graph, params, constants, last_use, memory, weights };
        pass.run(tape, x, Statistics::Keep(running))
    }
}

/// What the nodes of one pass read.
struct Pass<'a> {
    arch: &'a Arch,
    graph: &'a Graph,
    params: &'a BTreeMap<String, Tensor>,
    constants: &'a [Vec<Tensor>],
    last_use: &'a [usize],
    memory: &'a PassMemory,
    weights: &'a Weights,
}

impl Pass<'_> {
    fn run(&self, tape: &mut Tape, x: &Tensor, mut statistics: Statistics) -> Result<Tensor> {
        let [n, h, w, c] = x.dims4("model", "x")?;
        if [h, w, c] != [self.arch.size, self.arch.size, self.arch.in_channels] {
            let Arch { size, in_channels, .. } = self.arch;
            let want = format!("[N, {size}, {size}, {in_channels}]");
            return Err(Error::shape("model", "x", want, x.shape()));
        }
        if x.device() == Device::Cpu {
            self.memory.check(n, size_of::<f32>(), tape.records())?;
        }
        // A result goes as soon as nobody reads it any more; the tape keeps what gradients need.
        let mut values: Vec<Option<Tensor>> = Vec::with_capacity(self.graph.nodes.len());
        for (i, node) in self.graph.nodes.iter().enumerate() {
            let y = match node.inputs.as_slice() {
                [] => x.clone(),
                inputs => {
                    let mut operands = inputs.iter().filter_map(|&input| values[input].clone());
                    let (Some(first), second) = (operands.next(), operands.next()) else {
                        return Err(Error::param("graph", i, "a node whose operands are computed"));
                    };
                    self.node(tape, i, &first, second.as_ref(), &mut statistics)?
                }
            };
            values.push(Some(y));
            for &input in node.inputs.iter().filter(|&&input| self.last_use[input] == i) {
                values[input] = None;
            }
        }
        let logits = values.pop().flatten();
        logits.ok_or_else(|| Error::param("graph", "[]", "at least one node"))
    }

    fn node(
        &self,
        tape: &mut Tape,
        i: usize,
        x: &Tensor,
        second: Option<&Tensor>,
        statistics: &mut Statistics,
    ) -> Result<Tensor> {
        match &self.graph.nodes[i].op {
            Op::Input => Ok(x.clone()),
            Op::Normalize { .. } => {
                ops::normalize(tape, x, &self.constants[i][0], &self.constants[i][1])
            }
            Op::Conv { name, bias, stride, padding, .. } => {
                let (weight, bias) = (self.tensor(name, "weight")?, self.optional(*bias, name)?);
                let key = format!("{name}.weight");
                match (self.weights.sparse.get(&key), self.constants[i].first()) {
                    (None, None) => ops::conv2d(tape, x, weight, bias, *stride, *padding),
                    (None, Some(channels)) => {
                        ops::gather_conv2d(tape, x, weight, channels, bias, *stride, *padding)
                    }
                    (Some(filter), None) => {
                        ops::sparse_conv2d(tape, x, filter, weight, bias, *stride, *padding)
                    }
                    (Some(_), Some(_)) => Err(Error::param(
                        "execution.sparse",
                        key,
                        "a convolution that reads all channels",
                    )),
                }
            }
            Op::BatchNorm { name, eps, momentum } => {
                let (weight, bias) = (self.tensor(name, "weight")?, self.tensor(name, "bias")?);
                match statistics {
                    Statistics::Update(running) => {
                        let RunningStats { mean, var } =
                            running.get_mut(name).ok_or_else(|| missing(name))?;
                        ops::batch_norm_train(tape, x, weight, bias, mean, var, *momentum, *eps)
                    }
                    Statistics::Keep(running) => {
                        let RunningStats { mean, var } =
                            running.get(name).ok_or_else(|| missing(name))?;
                        ops::batch_norm_eval(tape, x, weight, bias, mean, var, *eps)
                    }
                }
            }
            Op::Relu => ops::relu(tape, x),
            &Op::MaxPool(window) => ops::max_pool(tape, x, window),
            &Op::AvgPool(window) => ops::avg_pool(tape, x, window),
            Op::Flatten => ops::flatten(tape, x),
            Op::GlobalAvgPool => ops::global_avg_pool(tape, x),
            Op::Linear { name, bias } => {
                let bias = self.optional(*bias, name)?;
                ops::linear(tape, x, self.tensor(name, "weight")?, bias)
            }
            Op::Add => ops::add(tape, x, second.unwrap_or(x)),
        }
    }

    /// A parameter, or what stands in for it.
    fn tensor(&self, prefix: &str, part: &str) -> Result<&Tensor> {
        let name = format!("{prefix}.{part}");
        let found = self.weights.substitutes.get(&name).or_else(|| self.params.get(&name));
        found.ok_or_else(|| missing(&name))
    }

    fn optional(&self, bias: bool, name: &str) -> Result<Option<&Tensor>> {
        bias.then(|| self.tensor(name, "bias")).transpose()
    }
}

fn missing(name: &str) -> Error {
    Error::param("parameter", name, "one that the network has")
}
