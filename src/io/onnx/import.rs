//! Reads an ONNX file as a network.

use super::constant::Refusal;
use super::graph::{Affine, Value};
use super::importer::Importer;
use super::proto;
use crate::io::checkpoint::check_values;
use crate::nn::{Arch, Model, Normalization};
use crate::{Device, Error, Result, file, models};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Versions of the operators: the first whose meaning of what is read here is today's.
const OLDEST_OPSET: i64 = 9;
/// Faults that are listed.
const MOST_FAULTS: usize = 100;

/// What the caller knows of a network that its file does not say.
#[derive(Debug, Clone, Default)]
pub struct ImportSettings {
    /// Height and width of the image, where the file leaves them open.
    pub size: Option<usize>,
    /// Put in front of a network that expects normalised pixels.
    pub normalize: Option<Normalization>,
}

/// Reads the network in the ONNX file `path`; values that lie in other files beside it are read from there.
///
/// Errors: [`crate::ErrorKind::Io`] where it cannot be read; as [`read_onnx`].
pub fn load_onnx(path: &Path, settings: &ImportSettings, device: &Device) -> Result<Model> {
    let content = file::read(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    read_onnx(path, &content, Some(folder), settings, device)
}

/// The network in the bytes of an ONNX file; `path` is for messages. Where `folder` is given, values that the file keeps in
/// other files are read from there, else refused.
///
/// The model's architecture is called `imported` and its file carries the graph. Weights that several nodes share become
/// one copy for each.
///
/// Errors: [`crate::ErrorKind::File`] for bytes that are no ONNX file, with all nodes that cannot be imported and why, and for
/// values that are not finite; [`crate::ErrorKind::Param`] for settings that contradict the file.
pub fn read_onnx(
    path: &Path,
    content: &[u8],
    folder: Option<&Path>,
    settings: &ImportSettings,
    device: &Device,
) -> Result<Model> {
    let invalid = |what: String| Error::file(path, what);
    let model = proto::Model::decode(content)
        .map_err(|error| invalid(format!("is not a whole ONNX file: {error}")))?;
    let own =
        |set: &&proto::OperatorSet| matches!(set.domain.as_deref(), None | Some("" | "ai.onnx"));
    let opset = model.opset_import.iter().find(own).and_then(|set| set.version).unwrap_or(0);
    let Some(graph) = &model.graph else {
        return Err(invalid("is not an ONNX file: it holds no graph".into()));
    };
    if opset < OLDEST_OPSET {
        return Err(invalid(format!("is of opset {opset}; must be {OLDEST_OPSET} or newer")));
    }
    let (input, output) = ends(graph).map_err(invalid)?;
    let (batch, [channels, size]) = image(input, settings.size).map_err(invalid)?;
    let affine = match &settings.normalize {
        Some(normalize) => {
            normalize.check(channels)?;
            Affine::of(normalize)
        }
        None => Affine::identity(channels),
    };
    let image = [size, size, channels];
    let pixels = (input.name.as_str(), Value::Pixels(affine));
    let mut importer = Importer::new(graph, folder, batch, image, pixels);
    let logits = importer.run(graph, &output.name).map_err(invalid)?;
    let written = importer.written;
    let normalize = match written.normalizations.as_slice() {
        [] => None,
        [(normalization, _)] => Some(normalization.clone()),
        _ => return Err(invalid("normalises the image in more than one way".into())),
    };
    if settings.normalize.is_some() && normalize != settings.normalize {
        let want = "left out: the file normalises pixels by itself";
        return Err(Error::param("--normalize", format!("{:?}", settings.normalize), want));
    }
    let classes = written.shapes[logits][0];
    let name = models::IMPORTED.to_owned();
    let arch =
        Arch { name, in_channels: channels, classes, width: 1.0, divisor: 1, size, normalize };
    arch.check().map_err(|error| invalid(error.to_string()))?;
    let (graph, tensors) = written.finish(logits);
    check_values(path, &tensors)?;
    Model::new(arch, graph, tensors, device).map_err(|error| invalid(error.to_string()))
}

/// The input, images, and the output, logits; initial values of weights can be listed as inputs, too.
fn ends(
    graph: &proto::Graph,
) -> std::result::Result<(&proto::ValueInfo, &proto::ValueInfo), Refusal> {
    let initial = graph.initializer.iter().map(|tensor| tensor.name.as_str());
    let sparse = graph.sparse_initializer.iter().filter_map(|tensor| tensor.values.as_ref());
    let initial: BTreeSet<&str> =
        initial.chain(sparse.map(|values| values.name.as_str())).collect();
    let inputs = graph.input.iter().filter(|input| !initial.contains(input.name.as_str()));
    let (inputs, outputs): (Vec<_>, Vec<_>) = (inputs.collect(), graph.output.iter().collect());
    let ([input], [output]) = (inputs.as_slice(), outputs.as_slice()) else {
        let found = format!("it has {} and {}", inputs.len(), outputs.len());
        return Err(format!(
            "must have one input, the images, and one output, the logits; {found}"
        ));
    };
    Ok((input, output))
}

/// The number of images, where it is fixed, and channels and size of the input `[N, C, H, W]`.
fn image(
    input: &proto::ValueInfo,
    size: Option<usize>,
) -> std::result::Result<(Option<i64>, [usize; 2]), Refusal> {
    let name = &input.name;
    let values = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let floats =
        [proto::data::FLOAT, proto::data::FLOAT16, proto::data::BFLOAT16, proto::data::DOUBLE];
    if values.is_some_and(|values| !floats.contains(&values.elem_type)) {
        return Err(format!("input {name} must hold floating point pixels in [0, 1]"));
    }
    let shape = values.and_then(|values| values.shape.as_ref());
    let Some([n, c, h, w]) = shape.map(|shape| shape.dim.as_slice()) else {
        return Err(format!("input {name} must be images [N, C, H, W]"));
    };
    let known = |dim: &proto::Dimension| dim.dim_value.filter(|&value| value > 0);
    let side = |dim: &proto::Dimension| match (known(dim), size) {
        (Some(value), None) => Ok(value as usize),
        (Some(value), Some(size)) if value as usize == size => Ok(size),
        (Some(value), Some(_)) => {
            Err(format!("input {name} is {value} pixels wide; leave out --size"))
        }
        (None, Some(size)) => Ok(size),
        (None, None) => {
            Err(format!("input {name} leaves the size of images open; give it by --size"))
        }
    };
    let (height, width) = (side(h)?, side(w)?);
    let Some(channels) = known(c) else {
        return Err(format!("input {name} leaves the number of channels open"));
    };
    if height != width || height > 4096 || channels > 4096 {
        return Err(format!(
            "input {name} is {channels}×{height}×{width}; must be square, of at most 4096 channels and pixels a side"
        ));
    }
    Ok((known(n), [channels as usize, height]))
}

impl<'a> Importer<'a> {
    /// Writes the network that computes `output`; its last node. All faults at once.
    fn run(
        &mut self,
        graph: &'a proto::Graph,
        output: &'a str,
    ) -> std::result::Result<usize, Refusal> {
        let needed = needed(graph, output);
        for node in needed.iter().map(|&i| &graph.node[i]) {
            node.input.iter().for_each(|input| *self.readers.entry(input).or_default() += 1);
        }
        *self.readers.entry(output).or_default() += 1;
        let mut faults = Vec::new();
        for node in needed.into_iter().map(|i| &graph.node[i]) {
            let value = self.node(node).unwrap_or_else(|why| {
                let named = [&node.name, &node.output[0]].into_iter().find(|name| !name.is_empty());
                faults.push(format!("{} ({}) {why}", named.map_or("", |name| name), node.op_type));
                Value::Unknown
            });
            self.values.insert(&node.output[0], value);
        }
        let logits = match self.values.get(output) {
            Some(Value::Node(node)) if self.written.shapes[*node].len() == 1 => Some(*node),
            Some(Value::Unknown) => None,
            None => {
                faults.push(format!("no node computes the output {output}"));
                None
            }
            Some(_) => {
                faults.push(format!("the output {output} must be logits [N, classes]"));
                None
            }
        };
        if let (Some(logits), []) = (logits, faults.as_slice()) {
            return Ok(logits);
        }
        let more = faults.len().saturating_sub(MOST_FAULTS);
        faults.truncate(MOST_FAULTS);
        if more > 0 {
            faults.push(format!("and {more} more"));
        }
        Err(format!("cannot be imported: {}", faults.join("; ")))
    }

    /// The value that a node computes first.
    fn node(&mut self, node: &'a proto::Node) -> std::result::Result<Value, Refusal> {
        let mut inputs = Vec::with_capacity(node.input.len());
        let mut unknown = false;
        for name in &node.input {
            let value = if name.is_empty() { None } else { Some(self.value(name)?) };
            unknown |= matches!(value, Some(Value::Unknown));
            inputs.push(value);
        }
        self.operator(node, &inputs, unknown)
    }
}

/// Positions of the nodes that `output` depends on, in the order of the file.
fn needed(graph: &proto::Graph, output: &str) -> Vec<usize> {
    let mut makers: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, node) in graph.node.iter().enumerate().rev() {
        makers.extend(
            node.output.iter().filter(|name| !name.is_empty()).map(|name| (name.as_str(), i)),
        );
    }
    let (mut found, mut open) = (BTreeSet::new(), vec![output]);
    while let Some(name) = open.pop() {
        if let Some(&i) = makers.get(name)
            && found.insert(i)
        {
            open.extend(graph.node[i].input.iter().map(String::as_str));
        }
    }
    found.into_iter().collect()
}
