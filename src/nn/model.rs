//! A network with its tensors on a device, and the interpreter that runs it.

use super::{Arch, Blueprint, Execution, Graph, Op};
use crate::{Device, Error, Result, Seed, Tape, Tensor, ops};
use std::collections::BTreeMap;

/// The running statistics of one batch normalisation.
#[derive(Debug, Clone)]
pub struct RunningStats {
    /// Exponential mean of the batches' means, `[C]`.
    pub mean: Tensor,
    /// Exponential mean of the batches' unbiased variances, `[C]`.
    pub var: Tensor,
}

/// A network: graph, parameters and running statistics.
#[derive(Debug, Clone)]
pub struct Model {
    arch: Arch,
    graph: Graph,
    params: BTreeMap<String, Tensor>,
    running: BTreeMap<String, RunningStats>,
    /// By node: mean and std of a normalisation, channel list of a gathered convolution.
    constants: Vec<Vec<Tensor>>,
    /// By node: the last node that reads it.
    last_use: Vec<usize>,
    device: Device,
}

/// Running statistics as a pass may use them.
enum Statistics<'a> {
    Update(&'a mut BTreeMap<String, RunningStats>),
    Keep(&'a BTreeMap<String, RunningStats>),
}

impl Model {
    /// The network with its initial values, from streams of `seed` named by parameter.
    pub fn initialised(
        arch: Arch,
        blueprint: Blueprint,
        seed: Seed,
        device: &Device,
    ) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for parameter in blueprint.parameters {
            let values = parameter.init.values(&parameter.name, &parameter.shape, seed);
            let tensor = Tensor::from_vec(values, &parameter.shape, device)?;
            tensors.insert(parameter.name, tensor);
        }
        Self::new(arch, blueprint.graph, tensors, device)
    }

    /// The network `graph` with the given tensors, exactly those that it names.
    ///
    /// Errors: [`crate::ErrorKind::Param`] where a tensor is missing, too many, or of a shape that does not fit.
    pub fn new(
        arch: Arch,
        graph: Graph,
        mut tensors: BTreeMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self> {
        let shape = |name: &str| tensors.get(name).map(Tensor::shape);
        let shapes = graph.shapes([arch.size, arch.size, arch.in_channels], &shape)?;
        if shapes.last().map(Vec::as_slice) != Some(&[arch.classes]) {
            let got = format!("{:?}", shapes.last());
            return Err(Error::param("logits", got, format!("[{}]", arch.classes)));
        }
        let names = graph.tensors();
        let mut params = BTreeMap::new();
        for name in &names {
            let tensor = tensors.remove(name);
            let tensor = tensor.ok_or_else(|| Error::param("parameter", name, "used once"))?;
            params.insert(name.clone(), tensor.to_device(device)?);
        }
        if let Some(name) = tensors.keys().next() {
            return Err(Error::param("parameter", name, "one that the network has"));
        }
        let mut running = BTreeMap::new();
        for node in &graph.nodes {
            let Op::BatchNorm { name, .. } = &node.op else { continue };
            let mut take = |part: &str| params.remove(&format!("{name}.{part}"));
            if let (Some(mean), Some(var)) = (take("running_mean"), take("running_var")) {
                running.insert(name.clone(), RunningStats { mean, var });
            }
        }
        let constants = constants(&graph, device)?;
        let (last_use, device) = (graph.last_use(), device.clone());
        Ok(Self { arch, graph, params, running, constants, last_use, device })
    }

    /// What it was built as. Channel counts of a shrunk network are those of its tensors.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// Its operations.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same network on another device.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Self::new(self.arch.clone(), self.graph.clone(), self.state_dict(), device)
    }

    /// The trained tensors by name: weights and biases, batch norm's γ and β.
    pub fn params(&self) -> &BTreeMap<String, Tensor> {
        &self.params
    }

    /// The trained tensors, to be updated in place.
    pub fn params_mut(&mut self) -> &mut BTreeMap<String, Tensor> {
        &mut self.params
    }

    /// The trained tensor of that name.
    ///
    /// Errors: [`crate::ErrorKind::Param`] where the network has none.
    pub fn param(&self, name: &str) -> Result<&Tensor> {
        let found = self.params.get(name);
        found.ok_or_else(|| Error::param("parameter", name, "one that the network has"))
    }

    /// [`Self::param`], to be updated in place.
    pub fn param_mut(&mut self, name: &str) -> Result<&mut Tensor> {
        let found = self.params.get_mut(name);
        found.ok_or_else(|| Error::param("parameter", name, "one that the network has"))
    }

    /// Running statistics by the name of their batch normalisation.
    pub fn running(&self) -> &BTreeMap<String, RunningStats> {
        &self.running
    }

    /// All tensors by torchvision's name; filters `[K, R, S, C]`.
    pub fn state_dict(&self) -> BTreeMap<String, Tensor> {
        let mut tensors = self.params.clone();
        for (prefix, RunningStats { mean, var }) in &self.running {
            tensors.insert(format!("{prefix}.running_mean"), mean.clone());
            tensors.insert(format!("{prefix}.running_var"), var.clone());
        }
        tensors
    }

    /// Names of the weights that pruning may mask: every convolution's, in the order they run.
    pub fn prunable(&self) -> Vec<String> {
        let convolution = |op: &Op| match op {
            Op::Conv { name, .. } => Some(format!("{name}.weight")),
            _ => None,
        };
        self.graph.nodes.iter().filter_map(|node| convolution(&node.op)).collect()
    }

    /// Asks `tape` for the gradients of all parameters.
    pub fn watch(&self, tape: &mut Tape) {
        self.params.values().for_each(|tensor| tape.watch(tensor));
    }

    /// Logits with batch statistics; updates the running ones.
    ///
    /// Shapes: `x [N, H, W, C]` in [0, 1], result `[N, classes]`.
    pub fn forward_train(
        &mut self,
        tape: &mut Tape,
        x: &Tensor,
        how: &Execution,
    ) -> Result<Tensor> {
        let Self { arch, graph, params, running, constants, last_use, .. } = self;
        let pass = Pass { arch, graph, params, constants, last_use, how };
        pass.run(tape, x, Statistics::Update(running))
    }

    /// Logits with running statistics, which stay as they are. Shapes as [`Self::forward_train`].
    pub fn forward_eval(&self, tape: &mut Tape, x: &Tensor, how: &Execution) -> Result<Tensor> {
        let Self { arch, graph, params, running, constants, last_use, .. } = self;
        let noisy = match &how.noise {
            None => None,
            Some(noise) => {
                let substitutes = noise.substitutes(tape, params)?;
                Some(Execution { substitutes, ..Execution::default() })
            }
        };
        let how = noisy.as_ref().unwrap_or(how);
        let pass = Pass { arch, graph, params, constants, last_use, how };
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
    how: &'a Execution,
}

impl Pass<'_> {
    fn run(&self, tape: &mut Tape, x: &Tensor, mut statistics: Statistics) -> Result<Tensor> {
        let [_, h, w, c] = x.dims4("model", "x")?;
        if [h, w, c] != [self.arch.size, self.arch.size, self.arch.in_channels] {
            let Arch { size, in_channels, .. } = self.arch;
            let want = format!("[N, {size}, {size}, {in_channels}]");
            return Err(Error::shape("model", "x", want, x.shape()));
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
                match (self.how.sparse.get(&key), self.constants[i].first()) {
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
        let found = self.how.substitutes.get(&name).or_else(|| self.params.get(&name));
        found.ok_or_else(|| missing(&name))
    }

    fn optional(&self, bias: bool, name: &str) -> Result<Option<&Tensor>> {
        bias.then(|| self.tensor(name, "bias")).transpose()
    }
}

fn missing(name: &str) -> Error {
    Error::param("parameter", name, "one that the network has")
}

/// The tensors of each node that are part of the graph, not of the state dict.
fn constants(graph: &Graph, device: &Device) -> Result<Vec<Vec<Tensor>>> {
    let of = |op: &Op| match op {
        Op::Normalize { mean, std } => [mean, std]
            .into_iter()
            .map(|values| Tensor::from_vec(values.clone(), &[values.len()], device))
            .collect(),
        Op::Conv { channels: Some(list), .. } => {
            let list: Vec<i32> = list.iter().map(|&channel| channel as i32).collect();
            let len = list.len();
            Ok(vec![Tensor::from_vec(list, &[len], device)?])
        }
        _ => Ok(Vec::new()),
    };
    graph.nodes.iter().map(|node| of(&node.op)).collect()
}
