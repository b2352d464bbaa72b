//! What is refused whatever a node reads: operators, attributes, windows.

use super::attributes::Attributes;
use super::constant::{QUANTISED, Refusal};
use super::graph::Value;
use super::proto;
use super::shapes::JOINS;
use crate::ops::Window;

/// Side of the largest window of a pooling.
const MOST_WINDOW: usize = 15;

/// What is wrong with a node whatever it reads: one of its operands is behind a fault.
pub(super) fn whatever_it_reads(
    node: &proto::Node,
    inputs: &[Option<Value>],
) -> Result<(), Refusal> {
    let all = Attributes(node);
    let weight = match inputs.get(1) {
        Some(Some(Value::Constant(weight))) => weight.dims.as_slice(),
        _ => &[],
    };
    match (node.op_type.as_str(), weight) {
        ("Conv", &[_, _, r, s]) => all.convolution(r, s).map(drop),
        ("MaxPool" | "AveragePool", _) => all.pooling(None).map(drop),
        ("Gemm", _) => all.product(inputs.len() > 2),
        ("BatchNormalization", _) => all.not_training(),
        ("Flatten", _) => flattens_images(&all),
        // Lists, of shapes, are joined along their only axis.
        ("Concat", _) if all.int("axis", 0) != 0 => Err(JOINS.into()),
        _ => Ok(()),
    }
}

/// Refuses windows that pooling does not have.
pub(super) fn small(Window { size, .. }: Window) -> Result<(), Refusal> {
    match (1..=MOST_WINDOW).contains(&size) {
        true => Ok(()),
        false => Err(format!(
            "windows of {size}×{size} pixels; at most {MOST_WINDOW}×{MOST_WINDOW} are supported"
        )),
    }
}

pub(super) fn flattens_images(all: &Attributes) -> Result<(), Refusal> {
    match all.int("axis", 1) {
        1 => Ok(()),
        axis => Err(format!("flattens from axis {axis}; must keep the images apart, axis 1")),
    }
}

/// Why an operator that is not in [`KNOWN`] is refused.
pub(super) fn unsupported(operator: &str) -> &'static str {
    match operator {
        "Softmax" | "LogSoftmax" | "Sigmoid" => {
            "not supported; where it is the network's last operation, export the network without it: logits are needed here"
        }
        "QuantizeLinear"
        | "DequantizeLinear"
        | "DynamicQuantizeLinear"
        | "QLinearConv"
        | "QLinearMatMul"
        | "ConvInteger"
        | "MatMulInteger" => QUANTISED,
        "LeakyRelu" | "PRelu" | "HardSwish" | "HardSigmoid" | "Swish" | "Elu" | "Selu" | "Gelu"
        | "Mish" | "Tanh" | "Softplus" => {
            "not supported; Relu is the only activation here: train the network with it instead"
        }
        "Clip" => "not supported (ReLU6 is a Clip, too); train the network with ReLU instead",
        "Pad" => "not supported; give the padding to the convolution behind it, equal on all sides",
        _ => "not supported",
    }
}
