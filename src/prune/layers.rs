//! Which weights of a network a method prunes.

use super::mask::Granularity;
use super::method::{LinearLayers, Method};
use crate::nn::{Graph, Model, Op};
use crate::{Error, Result};
use std::collections::BTreeSet;

/// Names of weights, in the order they run.
pub(super) struct Prunable {
    /// Those that the method prunes.
    pub names: Vec<String>,
    /// Those of the layers that produce the logits, where they are left out.
    pub spared: Vec<String>,
}

impl Prunable {
    /// The weights that `method` prunes: convolutions, and linear layers as [`Method::linear`] says. Filters and kernels of the
    /// layers that produce the logits all stay: a logit without its filter would be constant.
    ///
    /// Errors: [`crate::ErrorKind::Param`] where there are none.
    pub(super) fn of(model: &Model, method: &dyn Method, granularity: Granularity) -> Result<Self> {
        let heads = heads(model.graph());
        let by_output = matches!(granularity, Granularity::Filter | Granularity::Kernel);
        let (mut names, mut spared) = (Vec::new(), Vec::new());
        let mut first = true;
        for (i, node) in model.graph().nodes.iter().enumerate() {
            let head = heads.contains(&i);
            let (name, spare) = match &node.op {
                Op::Conv { name, .. } if (method.first_conv() || !std::mem::take(&mut first)) => {
                    (name, head && by_output)
                }
                Op::Linear { name, .. } => match method.linear() {
                    LinearLayers::None => continue,
                    LinearLayers::Hidden => (name, head),
                    LinearLayers::All => (name, head && by_output),
                    LinearLayers::WithZeros => {
                        let weight = model.param(&format!("{name}.weight"))?.to_vec::<f32>()?;
                        if !weight.contains(&0.0) {
                            continue;
                        }
                        (name, false)
                    }
                },
                _ => continue,
            };
            let list = if spare { &mut spared } else { &mut names };
            list.push(format!("{name}.weight"));
        }
        if names.is_empty() {
            let want = "pruning of a network with convolutions, or of linear layers before the one that produces the \
                        logits, which `prune.linear = true` of the method magnitude prunes (`rewire prune --linear`)";
            return Err(Error::param("[prune]", "no prunable layer", want));
        }
        Ok(Self { names, spared })
    }
}

/// The convolutions and linear layers whose channels are the logits: what stands between them and the end keeps channels apart.
fn heads(graph: &Graph) -> BTreeSet<usize> {
    let (mut heads, mut open) = (BTreeSet::new(), vec![graph.nodes.len() - 1]);
    while let Some(i) = open.pop() {
        match &graph.nodes[i].op {
            Op::Conv { .. } | Op::Linear { .. } => _ = heads.insert(i),
            _ => open.extend(&graph.nodes[i].inputs),
        }
    }
    heads
}

/// The bias of a layer, and the scales and shifts of the batch norms that read the layer.
pub(super) fn companions(model: &Model, weight: &str) -> Vec<String> {
    let nodes = &model.graph().nodes;
    let mut names = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        let (Op::Conv { name, bias, .. } | Op::Linear { name, bias }) = &node.op else { continue };
        if format!("{name}.weight") != weight {
            continue;
        }
        if *bias {
            names.push(format!("{name}.bias"));
        }
        for reader in nodes.iter().filter(|reader| reader.inputs.contains(&i)) {
            if let Op::BatchNorm { name, .. } = &reader.op {
                names.extend([format!("{name}.weight"), format!("{name}.bias")]);
            }
        }
    }
    names
}
