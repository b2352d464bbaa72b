//! Physical removal of channels: the same logits from smaller tensors.
//!
//! A channel of a node's result is *zero* where it is 0 for every image, *needed* where a logit depends
//! on it through a weight that is not 0, and *live* where it is needed and not zero. Nodes whose channels
//! correspond one to one (batch norm, ReLU, pooling, both sides of a sum) form one stream and keep the
//! same channels: those live anywhere in it. A convolution reads of its input only what its live filters
//! have weights for, by index where that is not all there is.
//!
//! A channel that stays only for its stream may lose inputs and change its value; nobody reads it then.

use crate::nn::{Graph, Model, Node, Op};
use crate::{Result, Tensor};
use std::collections::BTreeMap;

/// `model` without the filters that nobody reads or that are exactly zero, and without the weights that
/// read them. Every tensor keeps at least one channel. Running statistics go with their channels.
///
/// The logits in evaluation mode are those of `model` up to the order of sums.
pub fn shrink(model: &Model) -> Result<Model> {
    let network = Network::new(model)?;
    let zero = network.zero();
    let live = network.live(&zero);
    let kept = network.kept(&live);
    let mut tensors = model.state_dict();
    let mut nodes = Vec::with_capacity(network.graph.nodes.len());
    for (i, node) in network.graph.nodes.iter().enumerate() {
        let op = network.remove(i, &zero, &live, &kept, &mut tensors)?;
        nodes.push(Node { inputs: node.inputs.clone(), op });
    }
    let small = Model::new(model.arch().clone(), Graph { nodes }, tensors, model.device())?;
    Ok(small.with_class_names(model.class_names().to_vec()))
}

/// Per node, per channel.
type Marks = Vec<Vec<bool>>;

/// A network with its values on the host.
struct Network<'a> {
    graph: &'a Graph,
    values: BTreeMap<String, Vec<f32>>,
    /// Channels of each node's result.
    channels: Vec<usize>,
    /// The first node of each node's stream.
    stream: Vec<usize>,
}

impl<'a> Network<'a> {
    fn new(model: &'a Model) -> Result<Self> {
        let graph = model.graph();
        let state = model.state_dict();
        let mut values = BTreeMap::new();
        for (name, tensor) in &state {
            values.insert(name.clone(), tensor.to_vec::<f32>()?);
        }
        let arch = model.arch();
        let shape = |name: &str| state.get(name).map(Tensor::shape);
        let shapes = graph.shapes([arch.size, arch.size, arch.in_channels], &shape)?;
        let channels = shapes.iter().map(|shape| shape[shape.len() - 1]).collect();
        Ok(Self { graph, values, channels, stream: streams(graph) })
    }

    /// The weight `[K, …, C]` of a layer as its filters, and its bias.
    fn layer(&self, name: &str, bias: bool) -> (&[f32], Option<&[f32]>) {
        let bias = bias.then(|| self.values[&format!("{name}.bias")].as_slice());
        (&self.values[&format!("{name}.weight")], bias)
    }

    /// Which filters of a layer have, for each position of their last dimension, a weight that is not 0.
    fn reads(&self, name: &str, filters: usize, inputs: usize) -> Vec<Vec<bool>> {
        let (weight, _) = self.layer(name, false);
        let mut reads = vec![vec![false; inputs]; filters];
        for (filter, reads) in weight.chunks_exact(weight.len() / filters).zip(&mut reads) {
            for window in filter.chunks_exact(inputs) {
                window.iter().zip(&mut *reads).for_each(|(&w, reads)| *reads |= w != 0.0);
            }
        }
        reads
    }

    /// The channel of the input that each position of a layer's last dimension reads.
    fn sources(&self, i: usize) -> Vec<usize> {
        let node = &self.graph.nodes[i];
        match &node.op {
            Op::Conv { channels: Some(list), .. } => list.clone(),
            _ => (0..self.channels[node.inputs[0]]).collect(),
        }
    }

    /// Features that a flattening makes of a channel.
    fn pixels(&self, i: usize) -> usize {
        self.channels[i] / self.channels[self.graph.nodes[i].inputs[0]]
    }

    /// The channels that are 0 whatever the image.
    fn zero(&self) -> Marks {
        let mut zero: Marks = Vec::with_capacity(self.channels.len());
        for (i, node) in self.graph.nodes.iter().enumerate() {
            let input = |operand: usize| &zero[node.inputs[operand]];
            let marks = match &node.op {
                Op::Input | Op::Normalize { .. } => vec![false; self.channels[i]],
                Op::Relu | Op::MaxPool(_) | Op::AvgPool(_) | Op::GlobalAvgPool => input(0).clone(),
                Op::Flatten => {
                    (0..self.channels[i]).map(|f| input(0)[f / self.pixels(i)]).collect()
                }
                Op::Add => input(0).iter().zip(input(1)).map(|(&a, &b)| a && b).collect(),
                Op::BatchNorm { name, .. } => self.zero_norm(name, input(0)),
                Op::Conv { name, bias, .. } | Op::Linear { name, bias } => {
                    let (_, bias) = self.layer(name, *bias);
                    let (sources, input) = (self.sources(i), input(0));
                    let reads = self.reads(name, self.channels[i], sources.len());
                    let silent = |(k, reads): (usize, &Vec<bool>)| {
                        bias.is_none_or(|bias| bias[k] == 0.0)
                            && reads.iter().zip(&sources).all(|(&reads, &c)| !reads || input[c])
                    };
                    reads.iter().enumerate().map(silent).collect()
                }
            };
            zero.push(marks);
        }
        zero
    }

    /// Batch norm's: scale and shift 0, or nothing in and nothing added.
    fn zero_norm(&self, name: &str, input: &[bool]) -> Vec<bool> {
        let part = |part: &str| self.values[&format!("{name}.{part}")].as_slice();
        let (scale, shift, mean) = (part("weight"), part("bias"), part("running_mean"));
        let silent =
            |c: usize| shift[c] == 0.0 && (scale[c] == 0.0 || (input[c] && mean[c] == 0.0));
        (0..input.len()).map(silent).collect()
    }

    /// The channels that are not zero and that a logit depends on.
    fn live(&self, zero: &Marks) -> Marks {
        let mut live: Marks = self.channels.iter().map(|&c| vec![false; c]).collect();
        let last = live.len() - 1;
        live[last].fill(true);
        for (i, node) in self.graph.nodes.iter().enumerate().rev() {
            live[i].iter_mut().zip(&zero[i]).for_each(|(live, &zero)| *live &= !zero);
            let own = live[i].clone();
            match &node.op {
                Op::Conv { name, .. } | Op::Linear { name, .. } => {
                    let input = &mut live[node.inputs[0]];
                    for (c, read) in self.read(i, name, &own) {
                        input[c] |= read;
                    }
                }
                Op::Flatten => {
                    let (input, pixels) = (&mut live[node.inputs[0]], self.pixels(i));
                    own.iter().enumerate().for_each(|(f, &own)| input[f / pixels] |= own);
                }
                _ => {
                    for &input in &node.inputs {
                        live[input].iter_mut().zip(&own).for_each(|(input, &own)| *input |= own);
                    }
                }
            }
        }
        live
    }

    /// For each position of a layer's last dimension: its channel, and whether a filter of `filters` has a weight there.
    fn read(&self, i: usize, name: &str, filters: &[bool]) -> Vec<(usize, bool)> {
        let sources = self.sources(i);
        let reads = self.reads(name, filters.len(), sources.len());
        let any = |j: usize| reads.iter().zip(filters).any(|(reads, &live)| live && reads[j]);
        sources.iter().enumerate().map(|(j, &c)| (c, any(j))).collect()
    }

    /// The channels that each node's stream keeps, in order.
    fn kept(&self, live: &Marks) -> Vec<Vec<usize>> {
        let mut together: BTreeMap<usize, Vec<bool>> = BTreeMap::new();
        for (i, (live, stream)) in live.iter().zip(&self.stream).enumerate() {
            let marks = together.entry(*stream).or_insert_with(|| vec![false; live.len()]);
            marks.iter_mut().zip(live).for_each(|(mark, &live)| *mark |= live);
            // The image and the logits are what they are.
            if i == 0 || i == self.graph.nodes.len() - 1 {
                marks.fill(true);
            }
        }
        together.values_mut().filter(|marks| !marks.contains(&true)).for_each(|m| m[0] = true);
        while self.flatten_alike(&mut together) {}
        let list = |marks: &Vec<bool>| (0..marks.len()).filter(|&c| marks[c]).collect();
        self.stream.iter().map(|stream| list(&together[stream])).collect()
    }

    /// A flattened image keeps every pixel of the channels that it keeps. Whether that changed the marks of a stream.
    fn flatten_alike(&self, together: &mut BTreeMap<usize, Vec<bool>>) -> bool {
        let mut changed = false;
        let flat = self.graph.nodes.iter().enumerate().filter(|(_, node)| node.op == Op::Flatten);
        for (i, node) in flat {
            let (own, input) = (self.stream[i], self.stream[node.inputs[0]]);
            let pixels = self.pixels(i);
            for c in 0..self.channels[node.inputs[0]] {
                let both = [(input, c..c + 1), (own, c * pixels..(c + 1) * pixels)];
                let any = both.iter().any(|(s, range)| together[s][range.clone()].contains(&true));
                for (stream, range) in both {
                    let Some(marks) = together.get_mut(&stream) else { continue };
                    changed |= marks[range.clone()].contains(&!any);
                    marks[range].fill(any);
                }
            }
        }
        changed
    }

    /// Takes what is not kept out of a node's tensors; gives the operation that is left.
    fn remove(
        &self,
        i: usize,
        zero: &Marks,
        live: &Marks,
        kept: &[Vec<usize>],
        tensors: &mut BTreeMap<String, Tensor>,
    ) -> Result<Op> {
        let node = &self.graph.nodes[i];
        let mut op = node.op.clone();
        match &mut op {
            Op::BatchNorm { .. } => {
                for name in node.op.tensors() {
                    select(tensors, &name, &kept[i], None)?;
                }
            }
            Op::Linear { name, bias } => {
                select(tensors, &format!("{name}.weight"), &kept[i], Some(&kept[node.inputs[0]]))?;
                if *bias {
                    select(tensors, &format!("{name}.bias"), &kept[i], None)?;
                }
            }
            Op::Conv { name, bias, channels, .. } => {
                let x = node.inputs[0];
                let read = self.read(i, name, &live[i]);
                let wanted = |&j: &usize| read[j].1 && !zero[x][read[j].0];
                let mut positions: Vec<usize> = (0..read.len()).filter(wanted).collect();
                let silent = positions.is_empty();
                if silent {
                    positions.push(0);
                }
                let place = |&j: &usize| kept[x].binary_search(&read[j].0).unwrap_or(0);
                let list: Vec<usize> = positions.iter().map(place).collect();
                let all = list.iter().copied().eq(0..kept[x].len());
                *channels = (!all).then_some(list);
                let weight = format!("{name}.weight");
                select(tensors, &weight, &kept[i], Some(&positions))?;
                if silent && let Some(weight) = tensors.get_mut(&weight) {
                    // It reads one channel because a tensor has at least one, and makes nothing of it.
                    *weight = Tensor::zeros(weight.shape(), weight.dtype(), &weight.device())?;
                }
                if *bias {
                    select(tensors, &format!("{name}.bias"), &kept[i], None)?;
                }
            }
            _ => {}
        }
        Ok(op)
    }
}

/// The first node of each node's stream: nodes whose channels correspond share one.
fn streams(graph: &Graph) -> Vec<usize> {
    let mut stream: Vec<usize> = (0..graph.nodes.len()).collect();
    for (i, node) in graph.nodes.iter().enumerate() {
        if matches!(node.op, Op::Input | Op::Conv { .. } | Op::Linear { .. } | Op::Flatten) {
            continue;
        }
        for &input in &node.inputs {
            let (a, b) = (stream[i].min(stream[input]), stream[i].max(stream[input]));
            stream[..=i].iter_mut().filter(|stream| **stream == b).for_each(|stream| *stream = a);
        }
    }
    stream
}

/// Keeps the given positions of a tensor's first dimension and, where given, of its last.
fn select(
    tensors: &mut BTreeMap<String, Tensor>,
    name: &str,
    first: &[usize],
    last: Option<&[usize]>,
) -> Result<()> {
    let Some(tensor) = tensors.get_mut(name) else { return Ok(()) };
    let mut shape = tensor.shape().to_vec();
    let (row, inner) = (tensor.len() / shape[0], shape[shape.len() - 1]);
    let values = tensor.to_vec::<f32>()?;
    let rows = first.iter().map(|&k| &values[k * row..(k + 1) * row]);
    let chosen: Vec<f32> = match last {
        None => rows.flatten().copied().collect(),
        Some(last) => rows
            .flat_map(|row| row.chunks_exact(inner))
            .flat_map(|window| last.iter().map(|&c| window[c]))
            .collect(),
    };
    shape[0] = first.len();
    if let Some(last) = last {
        let end = shape.len() - 1;
        shape[end] = last.len();
    }
    *tensor = Tensor::from_vec(chosen, &shape, &tensor.device())?;
    Ok(())
}
