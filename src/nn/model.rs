//! A network with its tensors on a device.

use super::{Arch, Blueprint, Graph, Op};
use crate::{Device, Error, Result, Seed, Tape, Tensor};
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
    pub(super) arch: Arch,
    pub(super) graph: Graph,
    pub(super) params: BTreeMap<String, Tensor>,
    pub(super) running: BTreeMap<String, RunningStats>,
    /// By node: mean and std of a normalisation, channel list of a gathered convolution.
    pub(super) constants: Vec<Vec<Tensor>>,
    /// By node: the last node that reads it.
    pub(super) last_use: Vec<usize>,
    device: Device,
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
            let got = format!("{:?}", shapes.last().map_or(&[][..], Vec::as_slice));
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
