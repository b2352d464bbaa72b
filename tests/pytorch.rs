//! Whole networks against PyTorch in float64: logits, gradients, training.

use crate::fixture::{self, network, network_of, numbers, relative_error};
use rewire::io::{Hints, read_model};
use rewire::nn::{ArchSpec, Model, Normalization, Weights};
use rewire::ops::{self, SgdParameter, SgdStep};
use rewire::prune::{PruneSettings, Pruner, shrink};
use rewire::tensor::nhwc_to_nchw;
use rewire::{Device, Gradients, Mode, Seed, Tape, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;

const CPU: Device = Device::Cpu;

/// Stored logits of the networks whose width `chosen` takes.
fn check_logits(device: &Device, chosen: impl Fn(f64) -> bool) {
    let floats = |v: &Value| numbers(v).into_iter().map(|v| v as f32).collect::<Vec<f32>>();
    let mut checked = 0;
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
        let (x, weights) = (fixture::images(2, 3, 32, device), Weights::default());
        let got = model.forward_eval(&mut Tape::new(Mode::F32), &x, &weights).unwrap();
        let error = relative_error(&got.to_vec().unwrap(), &numbers(&entry["logits"]));
        assert!(error < 1e-5, "{name} on {device}: {error:e}");
        checked += 1;
    }
    assert!(checked >= 3, "{checked} networks on {device}");
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
    let weights = Weights::default();
    let logits = match train {
        true => model.forward_train(&mut tape, x, &weights).unwrap(),
        false => model.forward_eval(&mut tape, x, &weights).unwrap(),
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
            let sgd = SgdStep { lr: 1e-5, momentum: 0.9, nesterov: true, weight_decay: 5.0 };
            for (name, w) in model.params_mut() {
                let g = gradients.get(w).unwrap();
                let v = momenta.entry(name.clone()).or_insert_with(|| g.detach());
                let (mask, z, rho, first) = (None, None, 0.0, step == 0);
                ops::masked_sgd(&mut [SgdParameter { w, v, g, mask, z, rho, first }], &sgd)
                    .unwrap();
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

/// Of names, shapes and values as they stand in the file of `model`.
fn digest(model: &Model) -> String {
    use sha2::{Digest, Sha256};
    let bytes = rewire::io::model_bytes(std::path::Path::new("model"), model).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut hash = Sha256::new();
    let tensors: BTreeMap<String, _> = file.tensors().into_iter().collect();
    for (name, tensor) in &tensors {
        hash.update(format!("{name} {:?}\n", tensor.shape()));
        hash.update(tensor.data());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn pruned_and_shrunk_files_load_in_pytorch_with_the_same_logits() {
    let stored: Value = serde_json::from_str(include_str!("fixtures/pruned.json")).unwrap();
    for entry in stored["pruned"].as_array().unwrap() {
        let arch = entry["arch"].as_str().unwrap();
        let mut model = network_of(arch, &CPU);
        let settings = PruneSettings {
            method: "magnitude".into(),
            granularity: entry["granularity"].as_str().unwrap().parse().unwrap(),
            density: entry["density"].as_f64().unwrap(),
            keys: Default::default(),
        };
        Pruner::new(&settings, &model, Seed(1)).unwrap().apply(&mut model).unwrap();
        let shrunk = entry["shrunk"].as_bool().unwrap();
        if shrunk {
            model = shrink(&model).unwrap();
        }
        let what = format!("{arch}, {}, shrunk: {shrunk}", settings.granularity.name());
        // The file is the one that PyTorch has loaded.
        for (name, want) in entry["widths"].as_object().unwrap() {
            let shape = model.param(name).unwrap().shape();
            assert_eq!(numbers(want), [shape[0] as f64, shape[3] as f64], "{what}: {name}");
        }
        assert_eq!(digest(&model), entry["digest"].as_str().unwrap(), "{what}");
        let (x, weights) = (fixture::images(2, 3, 32, &CPU), Weights::default());
        let got = model.forward_eval(&mut Tape::new(Mode::F32), &x, &weights).unwrap();
        let error = relative_error(&got.to_vec().unwrap(), &numbers(&entry["logits"]));
        assert!(error < 1e-5, "{what}: {error:e}");
    }
}

/// The tensors that `torch.nn.utils.prune` splits, in the state dict of a network that has the others whole.
fn with_pairs(edit: impl Fn(&str, &mut Vec<u8>)) -> Vec<u8> {
    let model = network_of("resnet18:width=0.0625", &CPU);
    let bytes = rewire::io::model_bytes(std::path::Path::new("model"), &model).unwrap();
    let (whole, pairs) = (
        safetensors::SafeTensors::deserialize(&bytes).unwrap(),
        safetensors::SafeTensors::deserialize(include_bytes!("fixtures/prune_pairs.safetensors"))
            .unwrap(),
    );
    let mut tensors: BTreeMap<String, _> = whole.tensors().into_iter().collect();
    for (name, tensor) in pairs.tensors() {
        tensors.remove(name.trim_end_matches("_orig").trim_end_matches("_mask"));
        tensors.insert(name, tensor);
    }
    let mut edited: BTreeMap<String, Vec<u8>> =
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor.data().to_vec())).collect();
    edited.iter_mut().for_each(|(name, data)| edit(name, data));
    let views = tensors.iter().map(|(name, tensor)| {
        let shape = tensor.shape().to_vec();
        let view = safetensors::tensor::TensorView::new(tensor.dtype(), shape, &edited[name]);
        (name.as_str(), view.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn pairs_of_weights_and_masks_are_the_masked_weights() {
    let hints =
        Hints { arch: Some(ArchSpec::parse("resnet18:width=0.0625").unwrap()), ..Hints::default() };
    let read =
        |bytes: &[u8]| read_model(std::path::Path::new("m.safetensors"), bytes, &hints, &CPU);
    let model = read(&with_pairs(|_, _| {})).unwrap();
    let stored: Value = serde_json::from_str(include_str!("fixtures/pruned.json")).unwrap();
    let filter = model.param("conv1.weight").unwrap();
    let &[k, r, s, c] = filter.shape() else { panic!("{:?}", filter.shape()) };
    let oihw = nhwc_to_nchw(&filter.to_vec::<f32>().unwrap(), [k, c, r, s]);
    let bias = model.param("fc.bias").unwrap().to_vec::<f32>().unwrap();
    for (name, got) in [("conv1.weight", oihw), ("fc.bias", bias)] {
        let want = numbers(&stored["pairs"][name]);
        assert!(want.contains(&0.0) && relative_error(&got, &want) < 1e-7, "{name}");
        assert!(got.iter().zip(&want).all(|(&got, &want)| (got == 0.0) == (want == 0.0)), "{name}");
    }
    let lies = with_pairs(|name, data| {
        if name == "conv1.weight_mask" {
            data[..4].copy_from_slice(&0.5f32.to_le_bytes());
        }
    });
    let message = read(&lies).unwrap_err().to_string();
    assert!(message.contains("conv1.weight_mask must hold zeros and ones"), "{message}");
}
