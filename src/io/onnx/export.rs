//! A network as an ONNX file.

use super::proto::{
    self, Attribute, Dimension, Graph, Node, OperatorSet, Shape, SparseTensor, Tensor as Stored,
    TensorType, Type, ValueInfo, data, kind,
};
use crate::nn::{Model, Op};
use crate::ops::Window;
use crate::tensor::nhwc_to_nchw;
use crate::{Error, Result, Tensor, file};
use prost::Message;
use std::path::Path;

/// Of the operators; every reader of the last years knows them.
const OPSET: i64 = 17;
/// Of the file; the one that came with them.
const IR_VERSION: i64 = 8;
/// Who wrote a file.
pub(super) const PRODUCER: &str = "rewire";
/// What a message of protocol buffers can hold.
pub(super) const MOST_BYTES: usize = (1 << 31) - 1;

/// Writes `model` as ONNX, atomically: input `input` `[N, C, H, W]` in [0, 1] with N free, output `logits` `[N, classes]`,
/// normalisation inside, tensors under their names in the state dict. The bytes depend on the network alone.
///
/// Returns the file's length. `sparse` stores the weight of every convolution of which less than half is left as a sparse initializer.
///
/// Errors: [`crate::ErrorKind::Io`] where the file cannot be written, [`crate::ErrorKind::File`] for a network of 2 GiB.
pub fn save_onnx(path: &Path, model: &Model, sparse: bool) -> Result<usize> {
    let bytes = onnx_bytes(model, sparse)?;
    if bytes.len() > MOST_BYTES {
        let message =
            format!("would be {} bytes long; ONNX files are at most {MOST_BYTES}", bytes.len());
        return Err(Error::file(path, message));
    }
    file::write_bytes(path, &bytes)?;
    Ok(bytes.len())
}

/// The content of the file that [`save_onnx`] writes.
pub fn onnx_bytes(model: &Model, sparse: bool) -> Result<Vec<u8>> {
    let mut writer =
        Writer { graph: Graph { name: model.arch().name.clone(), ..Graph::default() } };
    let arch = model.arch();
    let nodes = &model.graph().nodes;
    let mut values: Vec<String> = Vec::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        let inputs: Vec<&str> = node.inputs.iter().map(|&input| values[input].as_str()).collect();
        let output = match i {
            0 => "input".to_owned(),
            _ if i + 1 == nodes.len() => "logits".to_owned(),
            _ => format!("value{i}"),
        };
        writer.node(&node.op, &inputs, &output);
        values.push(output);
    }
    for (name, tensor) in model.state_dict() {
        let (dims, values) = outside(&tensor)?;
        let zeros = values.iter().filter(|&&value| value == 0.0).count();
        match sparse && dims.len() == 4 && 2 * zeros > values.len() {
            true => writer.graph.sparse_initializer.push(coordinates(&name, &dims, &values)),
            false => writer.graph.initializer.push(floats(&name, &dims, &values)),
        }
    }
    let image = [arch.in_channels, arch.size, arch.size];
    writer.graph.input = vec![value_info("input", &image)];
    writer.graph.output = vec![value_info("logits", &[arch.classes])];
    let model = proto::Model {
        ir_version: Some(IR_VERSION),
        producer_name: PRODUCER.to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(writer.graph),
        opset_import: vec![OperatorSet { domain: Some(String::new()), version: Some(OPSET) }],
    };
    Ok(model.encode_to_vec())
}

/// Shape and values as PyTorch has them.
fn outside(tensor: &Tensor) -> Result<(Vec<usize>, Vec<f32>)> {
    let values = tensor.to_vec::<f32>()?;
    Ok(match *tensor.shape() {
        [k, r, s, c] => (vec![k, c, r, s], nhwc_to_nchw(&values, [k, c, r, s])),
        _ => (tensor.shape().to_vec(), values),
    })
}

struct Writer {
    graph: Graph,
}

impl Writer {
    /// The operators of one node, from `inputs` to `output`.
    fn node(&mut self, op: &Op, inputs: &[&str], output: &str) {
        let x = inputs.first().copied().unwrap_or_default();
        match op {
            Op::Input => {}
            Op::Normalize { mean, std } => {
                let centered = format!("{output}.centered");
                for (operator, part, values, from, to) in [
                    ("Sub", "mean", mean, x, centered.as_str()),
                    ("Div", "std", std, centered.as_str(), output),
                ] {
                    let name = format!("{output}.{part}");
                    self.graph.initializer.push(floats(&name, &[1, values.len(), 1, 1], values));
                    self.push(operator, &[from, &name], to, Vec::new());
                }
            }
            Op::Conv { bias, channels, name, padding, stride } => {
                let mut from = x.to_owned();
                if let Some(list) = channels {
                    from = format!("{output}.gathered");
                    let index = format!("{name}.channels");
                    self.graph.initializer.push(integers(&index, list));
                    self.push("Gather", &[x, &index], &from, vec![int("axis", 1)]);
                }
                let names = op.tensors();
                let mut inputs = vec![from.as_str(), names[0].as_str()];
                inputs.extend(bias.then(|| names[1].as_str()));
                let attributes = vec![ints("pads", &[*padding; 4]), ints("strides", &[*stride; 2])];
                self.push("Conv", &inputs, output, attributes);
            }
            Op::BatchNorm { eps, momentum, .. } => {
                let names = op.tensors();
                let inputs: Vec<&str> =
                    std::iter::once(x).chain(names.iter().map(String::as_str)).collect();
                let attributes = vec![float("epsilon", *eps), float("momentum", 1.0 - momentum)];
                self.push("BatchNormalization", &inputs, output, attributes);
            }
            Op::Relu => self.push("Relu", &[x], output, Vec::new()),
            Op::MaxPool(window) => self.push("MaxPool", &[x], output, windows(*window)),
            Op::AvgPool(window) => {
                let mut attributes = windows(*window);
                attributes.insert(0, int("count_include_pad", 1));
                self.push("AveragePool", &[x], output, attributes);
            }
            Op::GlobalAvgPool => {
                let pooled = format!("{output}.pooled");
                self.push("GlobalAveragePool", &[x], &pooled, Vec::new());
                self.push("Flatten", &[&pooled], output, vec![int("axis", 1)]);
            }
            Op::Flatten => self.push("Flatten", &[x], output, vec![int("axis", 1)]),
            Op::Linear { .. } => {
                let names = op.tensors();
                let inputs: Vec<&str> =
                    std::iter::once(x).chain(names.iter().map(String::as_str)).collect();
                self.push("Gemm", &inputs, output, vec![int("transB", 1)]);
            }
            Op::Add => self.push("Add", inputs, output, Vec::new()),
        }
    }

    fn push(&mut self, operator: &str, inputs: &[&str], output: &str, attribute: Vec<Attribute>) {
        self.graph.node.push(Node {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            name: format!("{output}.{operator}"),
            op_type: operator.to_owned(),
            attribute,
            domain: String::new(),
        });
    }
}

fn windows(Window { padding, stride, size }: Window) -> Vec<Attribute> {
    vec![
        ints("kernel_shape", &[size; 2]),
        ints("pads", &[padding; 4]),
        ints("strides", &[stride; 2]),
    ]
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: name.to_owned(), i: Some(value), kind: kind::INT, ..Attribute::default() }
}

fn ints(name: &str, values: &[usize]) -> Attribute {
    let ints = values.iter().map(|&value| value as i64).collect();
    Attribute { name: name.to_owned(), ints, kind: kind::INTS, ..Attribute::default() }
}

fn float(name: &str, value: f32) -> Attribute {
    Attribute { name: name.to_owned(), f: Some(value), kind: kind::FLOAT, ..Attribute::default() }
}

fn floats(name: &str, dims: &[usize], values: &[f32]) -> Stored {
    Stored {
        dims: dims.iter().map(|&dim| dim as i64).collect(),
        data_type: data::FLOAT,
        name: name.to_owned(),
        raw_data: Some(bytemuck::cast_slice(values).to_vec()),
        ..Stored::default()
    }
}

fn integers(name: &str, values: &[usize]) -> Stored {
    Stored {
        dims: vec![values.len() as i64],
        data_type: data::INT64,
        name: name.to_owned(),
        raw_data: Some(values.iter().flat_map(|&value| (value as i64).to_le_bytes()).collect()),
        ..Stored::default()
    }
}

/// The values that are not 0 and their positions in the row-major tensor, in ascending order.
fn coordinates(name: &str, dims: &[usize], values: &[f32]) -> SparseTensor {
    let kept = values.iter().enumerate().filter(|(_, value)| **value != 0.0);
    let (indices, kept): (Vec<usize>, Vec<f32>) = kept.map(|(i, &value)| (i, value)).unzip();
    SparseTensor {
        values: Some(floats(name, &[kept.len()], &kept)),
        indices: Some(integers(&format!("{name}.indices"), &indices)),
        dims: dims.iter().map(|&dim| dim as i64).collect(),
    }
}

/// A value `[N, ..dims]` with N free.
fn value_info(name: &str, dims: &[usize]) -> ValueInfo {
    let open = Dimension { dim_value: None, dim_param: Some("N".to_owned()) };
    let dims = dims.iter().map(|&dim| Dimension { dim_value: Some(dim as i64), dim_param: None });
    let shape = Shape { dim: std::iter::once(open).chain(dims).collect() };
    let tensor_type = TensorType { elem_type: data::FLOAT, shape: Some(shape) };
    ValueInfo { name: name.to_owned(), r#type: Some(Type { tensor_type: Some(tensor_type) }) }
}
