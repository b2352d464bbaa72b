//! Whole networks against PyTorch in float64: logits, gradients, training.

use crate::fixture::{self, network, network_of, numbers, relative_error};
use rewire::nn::{ArchSpec, Execution, Model, Normalization};
use rewire::ops::{self, SgdStep};
use rewire::tensor::nhwc_to_nchw;
use rewire::{Device, Gradients, Mode, Tape, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;

const CPU: Device = Device::Cpu;

/// Stored logits of the networks whose width `chosen` takes.
fn check_logits(device: &Device, chosen: impl Fn(f64) -> bool) {
    let floats = |v: &Value| numbers(v).into_iter().map(|v| v as f32).collect::<Vec<f32>>();
    for entry in fixture::stored()["logits"].as_array().unwrap() {
        let mut arch = ArchSpec::parse(entry["arch"].as_str().unwrap()).unwrap().resolve();
        if !chosen(arch.width) {
            continue;
        }
        if !entry["mean"].is_null() {
            let (mean, std) = (floats(&entry["mean"]), floats(&entry["std"]));
            arch.normalize = Some(Normalization { mean, std });
        }
        let name = arch.to_string();
        let model = network(arch, device);
        let (x, how) = (fixture::images(2, 3, 32, device), Execution::default());
        let got = model.forward_eval(&mut Tape::new(Mode::F32), &x, &how).unwrap();
        let error = relative_error(&got.to_vec().unwrap(), &numbers(&entry["logits"]));
        assert!(error < 1e-5, "{name} on {device}: {error:e}");
    }
}

#[test]
fn logits_equal_pytorchs() {
    check_logits(&Device::Cpu, |_| true);
}

#[test]
fn logits_of_narrow_networks_equal_pytorchs_on_cuda_host() {
    check_logits(&Device::new("cuda-host").unwrap(), |width| width < 1.0);
}

/// Mean cross-entropy and the gradients of all parameters and of the images.
fn backward(model: &mut Model, x: &Tensor, labels: Vec<i32>, train: bool) -> (f32, Gradients) {
    let mut tape = Tape::new(Mode::F32);
    model.watch(&mut tape);
    tape.watch(x);
    let how = Execution::default();
    let logits = match train {
        true => model.forward_train(&mut tape, x, &how).unwrap(),
        false => model.forward_eval(&mut tape, x, &how).unwrap(),
    };
    let count = labels.len();
    let labels = Tensor::from_vec(labels, &[count], &CPU).unwrap();
    let loss = ops::softmax_xent(&mut tape, &logits, &labels).unwrap();
    let value = loss.to_vec::<f32>().unwrap()[0];
    let one = Tensor::from_vec(vec![1.0f32], &[1], &CPU).unwrap();
    (value, tape.backward(&loss, one).unwrap())
}

/// A gradient in PyTorch's order.
fn pytorch_order(gradient: &Tensor) -> Vec<f32> {
    let values = gradient.to_vec::<f32>().unwrap();
    match *gradient.shape() {
        [n, h, w, c] => nhwc_to_nchw(&values, [n, c, h, w]),
        _ => values,
    }
}

#[test]
fn gradients_equal_pytorchs() {
    for entry in fixture::stored()["gradients"].as_array().unwrap() {
        let (name, train) = (entry["arch"].as_str().unwrap(), entry["train"].as_bool().unwrap());
        let mut model = network_of(name, &CPU);
        let x = fixture::images(8, 3, 32, &CPU);
        let (loss, gradients) = backward(&mut model, &x, fixture::labels(8, 10), train);
        let want = entry["loss"].as_f64().unwrap();
        assert!((f64::from(loss) / want - 1.0).abs() < 1e-5, "{name}: loss {loss}, not {want}");
        let mut leaves: BTreeMap<&str, &Tensor> =
            model.params().iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        leaves.insert("images", &x);
        for (leaf, tensor) in leaves {
            let stored = &entry["gradients"][leaf];
            let got = pytorch_order(gradients.get(tensor).unwrap());
            let want = numbers(&stored["values"]);
            let norm = stored["norm"].as_f64().unwrap();
            // Before batch norm a bias changes nothing: its gradient is rounding, so nothing to compare.
            if train && name.starts_with("vgg") && norm < 1e-12 {
                assert!(got.iter().all(|g| g.abs() < 1e-5), "{name} {leaf}: {got:?}");
                continue;
            }
            let step = got.len().div_ceil(32);
            let samples: Vec<f32> = got.iter().copied().step_by(step).collect();
            let scale = norm * (samples.len() as f64 / got.len() as f64).sqrt();
            let error = samples.iter().zip(&want).map(|(&g, w)| (f64::from(g) - w).powi(2));
            let error = error.sum::<f64>().sqrt() / scale;
            assert!(error < 1e-4, "{name}, train {train}, {leaf}: {error:e}");
            let length = got.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            assert!((length / norm - 1.0).abs() < 1e-4, "{name}, train {train}, {leaf}: norm");
        }
    }
}

#[test]
fn twenty_training_steps_equal_pytorchs() {
    for entry in fixture::stored()["training"].as_array().unwrap() {
        let name = entry["arch"].as_str().unwrap();
        let [count, batch] = ["images", "batch"].map(|key| entry[key].as_u64().unwrap() as usize);
        let mut model = network_of(name, &CPU);
        let (x, t) = (fixture::images(count, 3, 32, &CPU), fixture::labels(count, 10));
        let x = x.to_vec::<f32>().unwrap();
        let mut momenta: BTreeMap<String, Tensor> = BTreeMap::new();
        for (step, want) in numbers(&entry["losses"]).into_iter().enumerate() {
            let start = step * batch % count;
            let part = x[start * 3072..(start + batch) * 3072].to_vec();
            let part = Tensor::from_vec(part, &[batch, 32, 32, 3], &CPU).unwrap();
            let labels = t[start..start + batch].to_vec();
            let (loss, gradients) = backward(&mut model, &part, labels, true);
            let bound = if step == 0 { 1e-5 } else { 3e-4 };
            let error = (f64::from(loss) / want - 1.0).abs();
            assert!(error < bound, "{name}, step {step}: {loss}, not {want} ({error:e})");
            let sgd = SgdStep {
                lr: 1e-5,
                momentum: 0.9,
                nesterov: true,
                weight_decay: 5.0,
                rho: 0.0,
                first: step == 0,
            };
            for (name, w) in model.params_mut() {
                let g = gradients.get(w).unwrap();
                let v = momenta.entry(name.clone()).or_insert_with(|| g.detach());
                ops::masked_sgd(w, v, g, None, None, &sgd).unwrap();
            }
        }
        for (key, want) in entry["running"].as_object().unwrap() {
            let prefix = key.trim_end_matches(".running_var");
            let got = model.running()[prefix].var.to_vec::<f32>().unwrap();
            let error = relative_error(&got, &numbers(want));
            assert!(error < 1e-4, "{name} {key}: {error:e}");
        }
    }
}
