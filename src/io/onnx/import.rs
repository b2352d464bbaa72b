//! Reads an ONNX file as a network.

use super::constant::Refusal;
use super::export::{MOST_BYTES, PRODUCER};
use super::faults::{Faults, check_names};
use super::graph::{Affine, Value, Written};
use super::importer::Importer;
use super::pixels::{self, Pixels};
use super::proto;
use crate::io::checkpoint::check_values;
use crate::io::kind::{self, Expected};
use crate::nn::{Arch, Model, Normalization};
use crate::{Device, Error, Result, file, models};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Versions of the operators: the first whose meaning of what is read here is today's, and the newest that ONNX 1.23 defines.
const OPSETS: std::ops::RangeInclusive<i64> = 9..=28;

/// What the caller knows of a network that its file does not say.
#[derive(Debug, Clone, Default)]
pub struct ImportSettings {
    /// Height and width of the image, where the file leaves them open.
    pub size: Option<usize>,
    /// Put in front of a network that expects normalised pixels.
    pub normalize: Option<Normalization>,
    /// The pixels that the network was made for; recognised by the file's own normalisation where absent.
    pub pixels: Option<Pixels>,
    /// Hears in a sentence what the import decided by itself.
    pub note: Option<fn(&str)>,
}

/// Reads the network in the ONNX file `path`; values that lie in other files beside it are read from there.
///
/// Errors: [`crate::ErrorKind::Io`] where it cannot be read; as [`read_onnx`].
pub fn load_onnx(path: &Path, settings: &ImportSettings, device: &Device) -> Result<Model> {
    let content = file::read_bounded(path, MOST_BYTES as u64)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    read_onnx(path, &content, Some(folder), settings, device)
}

/// The network in the bytes of an ONNX file; `path` is for messages. Where `folder` is given, values that the file keeps in
/// other files are read from there, else refused.
///
/// The model's architecture is called `imported` and its file carries the graph. Weights that several nodes share become
/// one copy for each. The model reads pixels in [0, 1], also where the file expects 0 to 255. One logit z of the file becomes the
/// two logits 0 and z, whose softmax is the sigmoid of z.
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
    kind::check(path, content, Expected::Onnx)?;
    let model = proto::Model::decode(content).map_err(|error| {
        invalid(format!("is not a whole ONNX file: it is cut short or damaged ({error})"))
    })?;
    let Some(graph) = &model.graph else {
        return Err(invalid("is not an ONNX file: it holds no graph".into()));
    };
    let mut faults = Faults::default();
    check_opset(&model, &mut faults);
    check_names(graph, &mut faults);
    let ends = ends(graph).map_err(|why| faults.file(why));
    let Ok((input, output)) = ends else { return Err(invalid(faults.message())) };
    let found = image(input, settings.size).map_err(|why| faults.file(why)).ok();
    let (batch, [channels, size]) = found.unwrap_or((None, [1, 1]));
    let affine = start(settings, channels)?;
    let walk = |affine: Option<Affine>, faults: Faults| {
        let pixels = affine.map_or(Value::Unknown, Value::Pixels);
        let pixels = (input.name.as_str(), pixels);
        let importer = Importer::new(graph, folder, batch, [size, size, channels], pixels);
        importer.run(graph, &output.name, faults).map_err(invalid)
    };
    let (mut written, mut logits) = walk(found.is_some().then_some(affine), faults)?;
    // What this crate writes reads pixels in [0, 1] whatever its normalisation is.
    let open = model.producer_name != PRODUCER
        && settings.pixels.is_none()
        && settings.normalize.is_none();
    if let Some((normalization, _)) = written.normalizations.first().filter(|_| open)
        && pixels::expected(normalization).map_err(invalid)? == Pixels::Bytes
    {
        settings.say(&format!(
            "the first nodes of {} {}: the network was made for pixels from 0 to 255. The network as stored reads pixels from 0 \
             to 1, as all networks do here, and its normalisation does the rest (with --pixels 1, the first nodes get pixels from 0 to 1)",
            path.display(),
            pixels::described(normalization)
        ));
        (written, logits) = walk(Some(Affine::of_bytes(channels)), Faults::default())?;
    }
    let normalize = match written.normalizations.as_slice() {
        [] => None,
        [(normalization, _)] => Some(normalization.clone()),
        _ => return Err(invalid("normalises the image in more than one way".into())),
    };
    if let Some(given) =
        settings.normalize.as_ref().filter(|given| normalize.as_ref() != Some(given))
    {
        let want = format!("left out: {} normalises pixels by its own first nodes", path.display());
        return Err(Error::param("--normalize", given, want));
    }
    if written.shapes[logits] == [1] {
        written.two_logits(logits).map_err(invalid)?;
        settings.say(&format!(
            "{} has one output, z: the network as stored has the two logits 0 and z, so class 1 is predicted where z is above 0, \
             as a sigmoid above 0.5 says",
            path.display()
        ));
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

impl ImportSettings {
    fn say(&self, sentence: &str) {
        if let Some(note) = self.note {
            note(sentence);
        }
    }
}

/// What happens to pixels in [0, 1] before the file's first node.
fn start(settings: &ImportSettings, channels: usize) -> Result<Affine> {
    let bytes = settings.pixels == Some(Pixels::Bytes);
    match &settings.normalize {
        Some(normalize) if bytes => {
            let want = "left out where --pixels 255 is given: the pixels of a normalisation are those from 0 to 1";
            Err(Error::param("--normalize", normalize, want))
        }
        Some(normalize) => normalize.check(channels).map(|()| Affine::of(normalize)),
        None if bytes => Ok(Affine::of_bytes(channels)),
        None => Ok(Affine::identity(channels)),
    }
}

/// Notes an opset that is not read.
fn check_opset(model: &proto::Model, faults: &mut Faults) {
    let own =
        |set: &&proto::OperatorSet| matches!(set.domain.as_deref(), None | Some("" | "ai.onnx"));
    let opset = model.opset_import.iter().find(own).and_then(|set| set.version).unwrap_or(0);
    if !OPSETS.contains(&opset) {
        let (oldest, newest) = (OPSETS.start(), OPSETS.end());
        faults.file(format!(
            "the file is of opset {opset}; opsets {oldest} to {newest} are read: export it with opset_version=17, or convert it \
             with onnx.version_converter.convert_version(model, 17)"
        ));
    }
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
        let found = format!("it has {} inputs and {} outputs", inputs.len(), outputs.len());
        return Err(format!(
            "the file must have one input, the images, and one output, the logits; {found}"
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
        let found = values.map_or("", |values| proto::data::name(values.elem_type));
        return Err(format!(
            "the input `{name}` holds {found}; must hold floating point pixels: export the network with float32 images"
        ));
    }
    let shape = values.and_then(|values| values.shape.as_ref());
    let Some([n, c, h, w]) = shape.map(|shape| shape.dim.as_slice()) else {
        return Err(format!("the input `{name}` must be images [N, C, H, W]"));
    };
    let known = |dim: &proto::Dimension| dim.dim_value.filter(|&value| value > 0);
    let side = |dim: &proto::Dimension| match (known(dim), size) {
        (Some(value), None) => Ok(value as usize),
        (Some(value), Some(size)) if value as usize == size => Ok(size),
        (Some(value), Some(_)) => {
            Err(format!("the input `{name}` is {value} pixels wide; leave out --size"))
        }
        (None, Some(size)) => Ok(size),
        (None, None) => {
            Err(format!("the input `{name}` leaves the size of images open; give it by --size"))
        }
    };
    let (height, width) = (side(h)?, side(w)?);
    let Some(channels) = known(c) else {
        return Err(format!(
            "the input `{name}` leaves the number of channels open; export it with a fixed one"
        ));
    };
    if height != width || height > 4096 || channels > 4096 {
        return Err(format!(
            "the input `{name}` is {channels}×{height}×{width}; must be square, of at most 4096 channels and pixels a side"
        ));
    }
    Ok((known(n), [channels as usize, height]))
}

impl<'a> Importer<'a> {
    /// Writes the network that computes `output`: it and its last node. All faults at once, behind those that are known.
    fn run(
        mut self,
        graph: &'a proto::Graph,
        output: &'a str,
        mut faults: Faults,
    ) -> std::result::Result<(Written, usize), Refusal> {
        let needed = needed(graph, output);
        for node in needed.iter().map(|&i| &graph.node[i]) {
            node.input.iter().for_each(|input| *self.readers.entry(input).or_default() += 1);
        }
        *self.readers.entry(output).or_default() += 1;
        for node in needed.into_iter().map(|i| &graph.node[i]) {
            let value = self.node(node).unwrap_or_else(|why| {
                faults.node(node, why);
                Value::Unknown
            });
            self.values.insert(&node.output[0], value);
        }
        match self.values.get(output) {
            Some(Value::Node(node)) if self.written.shapes[*node].len() == 1 && faults.is_empty() => {
                return Ok((self.written, *node));
            }
            Some(Value::Node(node)) if self.written.shapes[*node].len() == 1 => {}
            Some(Value::Unknown) => {}
            None => faults.file(format!("no node computes the output `{output}`")),
            Some(other) => faults.file(format!(
                "the output `{output}` is {}; must be logits [N, classes]: export the network up to its logits, flattened",
                self.written.described(other)
            )),
        }
        Err(faults.message())
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
