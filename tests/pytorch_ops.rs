//! Single operations, results and gradients, against PyTorch in float64.

use crate::fixture::{numbers, relative_error, uniform};
use rewire::ops::{self, SparseFilter};
use rewire::tensor::{nchw_to_nhwc, nhwc_to_nchw};
use rewire::{Device, Mode, Result, Tape, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;

fn sizes(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

/// Values in PyTorch's order as a tensor in the crate's.
fn tensor(values: Vec<f32>, shape: &[usize], device: &Device) -> Tensor {
    match *shape {
        [n, c, h, w] => {
            let values = nchw_to_nhwc(&values, [n, c, h, w]);
            Tensor::from_vec(values, &[n, h, w, c], device).unwrap()
        }
        _ => Tensor::from_vec(values, shape, device).unwrap(),
    }
}

/// The operand of the formula.
fn operand(name: &str, shape: &[usize], device: &Device) -> Tensor {
    let u = uniform(name);
    let values = (0..shape.iter().product()).map(|i| u(i) as f32).collect();
    tensor(values, shape, device)
}

/// The values of a tensor in PyTorch's order.
fn pytorch_order(tensor: &Tensor) -> Vec<f32> {
    let values = tensor.to_vec::<f32>().unwrap();
    match *tensor.shape() {
        [n, h, w, c] => nhwc_to_nchw(&values, [n, c, h, w]),
        _ => values,
    }
}

/// `1 + operand/2` or the operand, a channel's constants.
fn channels(name: &str, count: usize, device: &Device) -> Tensor {
    let u = uniform(name);
    let scale = |i| if name == "running_var" { 1.0 + 0.5 * u(i) } else { u(i) };
    tensor((0..count).map(|i| scale(i) as f32).collect(), &[count], device)
}

fn convolution(
    case: &Value,
    tape: &mut Tape,
    leaves: &BTreeMap<String, Tensor>,
    device: &Device,
) -> Result<Tensor> {
    let (x, w, bias) = (&leaves["x"], &leaves["w"], leaves.get("bias"));
    let [stride, padding] = ["stride", "padding"].map(|key| case[key].as_u64().unwrap() as usize);
    match case["op"].as_str().unwrap() {
        "conv2d" => ops::conv2d(tape, x, w, bias, stride, padding),
        "gather_conv2d" => {
            let list: Vec<i32> = sizes(&case["channels"]).iter().map(|&c| c as i32).collect();
            let list = Tensor::from_vec(list.clone(), &[list.len()], device)?;
            ops::gather_conv2d(tape, x, w, &list, bias, stride, padding)
        }
        _ => {
            let drawn = operand("mask", &sizes(&case["shapes"]["w"]), device).to_vec::<f32>()?;
            let mask: Vec<u8> = drawn.iter().map(|&v| u8::from(v > 0.0)).collect();
            let mask = Tensor::from_vec(mask, w.shape(), device)?;
            let filter = SparseFilter::build(w, &mask)?;
            ops::sparse_conv2d(tape, x, &filter, w, bias, stride, padding)
        }
    }
}

/// Checks running statistics that a pass has left behind.
fn check_running(case: &Value, running: &[Tensor; 2]) {
    for (key, tensor) in ["running_mean", "running_var"].iter().zip(running) {
        let error = relative_error(&tensor.to_vec().unwrap(), &numbers(&case[key]));
        assert!(error < 1e-5, "batch_norm {key}: {error:e}");
    }
}

fn run(
    case: &Value,
    tape: &mut Tape,
    leaves: &BTreeMap<String, Tensor>,
    device: &Device,
) -> Result<Tensor> {
    let x = &leaves["x"];
    let last = x.shape()[x.shape().len() - 1];
    match case["op"].as_str().unwrap() {
        "linear" => ops::linear(tape, x, &leaves["w"], leaves.get("bias")),
        "batch_norm" => {
            let (w, bias) = (&leaves["w"], &leaves["bias"]);
            let mut running = ["running_mean", "running_var"].map(|n| channels(n, last, device));
            let [mean, var] = &mut running;
            let y = match case["train"].as_bool().unwrap() {
                true => ops::batch_norm_train(tape, x, w, bias, mean, var, 0.1, 1e-5)?,
                false => ops::batch_norm_eval(tape, x, w, bias, mean, var, 1e-5)?,
            };
            check_running(case, &running);
            Ok(y)
        }
        "relu" => ops::relu(tape, x),
        "add" => ops::add(tape, x, &leaves["w"]),
        "max_pool2" => ops::max_pool(tape, x, ops::Window::HALVES),
        "global_avg_pool" => ops::global_avg_pool(tape, x),
        "normalize" => {
            let [mean, std] = ["running_mean", "running_var"].map(|n| channels(n, last, device));
            ops::normalize(tape, x, &mean, &std)
        }
        "softmax_xent" => {
            let [count, classes] = x.dims2("test", "x")?;
            let labels = (0..count).map(|i| (i * 3 % classes) as i32).collect();
            let labels = Tensor::from_vec(labels, &[count], device)?;
            let twice = ops::add(tape, x, x)?;
            let scaled = ops::add(tape, &twice, &twice)?;
            ops::softmax_xent(tape, &scaled, &labels)
        }
        _ => convolution(case, tape, leaves, device),
    }
}

fn check(device: &Device) {
    let stored: Value = serde_json::from_str(include_str!("fixtures/ops.json")).unwrap();
    for case in stored["cases"].as_array().unwrap() {
        let name = format!("{} {} on {device}", case["op"], case["shapes"]);
        let shapes = case["shapes"].as_object().unwrap();
        let leaves: BTreeMap<String, Tensor> = shapes
            .iter()
            .map(|(leaf, shape)| (leaf.clone(), operand(leaf, &sizes(shape), device)))
            .collect();
        let mut tape = Tape::new(Mode::F32);
        leaves.values().for_each(|leaf| tape.watch(leaf));
        let y = run(case, &mut tape, &leaves, device).unwrap();
        let error = relative_error(&pytorch_order(&y), &numbers(&case["y"]["values"]));
        assert!(error < 1e-5, "{name}: {error:e}");
        let dy = operand("dy", &sizes(&case["y"]["shape"]), device);
        let gradients = tape.backward(&y, dy).unwrap();
        for (leaf, tensor) in &leaves {
            let got = pytorch_order(gradients.get(tensor).unwrap());
            let error = relative_error(&got, &numbers(&case["gradients"][leaf]));
            assert!(error < 1e-5, "{name}, gradient of {leaf}: {error:e}");
        }
    }
}

#[test]
fn operations_equal_pytorchs_on_cpu() {
    check(&Device::Cpu);
}

#[test]
fn operations_equal_pytorchs_on_cuda_host() {
    check(&Device::new("cuda-host").unwrap());
}
