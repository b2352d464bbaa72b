//! A network with its tensors on a device.

use super::memory::PassMemory;
use super::{Arch, Blueprint, Graph, Op};
use crate::{Device, Error, Result, Seed, Tape, Tensor};
use std::collections::BTreeMap;

/// The running statistics of one batch normalisation.
#[derive(Debug, Clone)]
pub struct RunningStats {
    /// Running mean, `[C]`.
    pub mean: Tensor,
    /// Running variance (unbiased), `[C]`.
    pub var: Tensor,
}

/// A network with values: graph, parameters and running statistics, on one device.
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
    /// What a pass holds.
    pub(super) memory: PassMemory,
    device: Device,
    class_names: Vec<String>,
}

impl Model {
    /// The network of a [`Builder`](super::Builder) with its initial values, drawn from `seed`.
    ///
    /// Errors: [`crate::ErrorKind::Param`] that names the first operation whose operands do not fit, or the value that
    /// `arch` cannot have.
    pub fn initialised(
        arch: Arch,
        blueprint: Blueprint,
        seed: Seed,
        device: &Device,
    ) -> Result<Self> {
        // Before values of a nonsensical shape are drawn.
        check(&arch, &blueprint.graph, &|name| blueprint.shape(name))?;
        let mut tensors = BTreeMap::new();
        for parameter in blueprint.parameters {
            let values = parameter.init.values(&parameter.name, &parameter.shape, seed);
            let tensor = Tensor::from_vec(values, &parameter.shape, device)?;
            if tensors.insert(parameter.name.clone(), tensor).is_some() {
                let want = "the parameter of one layer only; give the layers different names";
                return Err(Error::param("parameter", parameter.name, want));
            }
        }
        Self::new(arch, blueprint.graph, tensors, device)
    }

    /// The network `graph` with the given tensors: exactly those that the graph names.
    ///
    /// Errors: [`crate::ErrorKind::Param`] where a tensor is missing, one is not part of the network, or a shape does not fit.
    pub fn new(
        arch: Arch,
        graph: Graph,
        mut tensors: BTreeMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self> {
        let shapes = check(&arch, &graph, &|name| tensors.get(name).map(Tensor::shape))?;
        let memory = PassMemory::of(&graph, &shapes);
        let names = graph.tensors();
        let mut params = BTreeMap::new();
        for name in &names {
            let want = "the parameter of one layer only";
            let tensor = tensors.remove(name);
            let tensor = tensor.ok_or_else(|| Error::param("parameter", name, want))?;
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
        let class_names = Vec::new();
        Ok(Self { arch, graph, params, running, constants, last_use, memory, device, class_names })
    }

    /// What the network was built as. Channel counts of a shrunk network are those of its tensors, not those of its
    /// architecture.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// The network's operations.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Where the tensors lie.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same network on another device.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let model = Self::new(self.arch.clone(), self.graph.clone(), self.state_dict(), device)?;
        Ok(model.with_class_names(self.class_names.clone()))
    }

    /// The names of the classes, in the order of the logits; empty where they are not known.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The same network with names for its classes: those of the data set that it is trained on.
    pub fn with_class_names(mut self, names: Vec<String>) -> Self {
        self.class_names = names;
        self
    }

    /// The trained tensors by name: weights and biases, scales and shifts of batch norm.
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

    /// As [`Self::param`], to be updated in place.
    pub fn param_mut(&mut self, name: &str) -> Result<&mut Tensor> {
        let found = self.params.get_mut(name);
        found.ok_or_else(|| Error::param("parameter", name, "one that the network has"))
    }

    /// Running statistics, by the name of the batch normalisation.
    pub fn running(&self) -> &BTreeMap<String, RunningStats> {
        &self.running
    }

    /// All tensors by name, those of [`Self::params`] and of [`Self::running`]; filters are `[K, R, S, C]`.
    pub fn state_dict(&self) -> BTreeMap<String, Tensor> {
        let mut tensors = self.params.clone();
        for (prefix, RunningStats { mean, var }) in &self.running {
            tensors.insert(format!("{prefix}.running_mean"), mean.clone());
            tensors.insert(format!("{prefix}.running_var"), var.clone());
        }
        tensors
    }

    /// Names of the weights that pruning masks unless a method says otherwise: those of the convolutions, in the order in which
    /// they run.
    pub fn prunable(&self) -> Vec<String> {
        let convolution = |op: &Op| match op {
            Op::Conv { name, .. } => Some(format!("{name}.weight")),
            _ => None,
        };
        self.graph.nodes.iter().filter_map(|node| convolution(&node.op)).collect()
    }

    /// Checks that the host's free memory holds a pass over `images` images, without a tape and in values of `bytes` each.
    ///
    /// Errors: [`crate::ErrorKind::Device`] that names the largest layer.
    pub(crate) fn check_memory(&self, images: usize, bytes: usize) -> Result<()> {
        self.memory.check(images, bytes, false)
    }

    /// Asks `tape` for the gradients of all parameters, before a forward pass.
    pub fn watch(&self, tape: &mut Tape) {
        self.params.values().for_each(|tensor| tape.watch(tensor));
    }
}

/// Checks that operations, tensors and description fit each other, and returns the shape of each node's result.
fn check<'a>(
    arch: &Arch,
    graph: &Graph,
    shape: &impl Fn(&str) -> Option<&'a [usize]>,
) -> Result<Vec<Vec<usize>>> {
    arch.check()?;
    let shapes = graph.shapes([arch.size, arch.size, arch.in_channels], shape)?;
    match shapes.last() {
        Some(logits) if *logits != [arch.classes] => {
            let want = format!("[{}], a logit for each of the classes of {arch}", arch.classes);
            Err(Error::param("shape of the network's result", format!("{logits:?}"), want))
        }
        _ => Ok(shapes),
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
