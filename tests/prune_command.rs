//! `rewire prune` and what comes after it: what is left out, what is counted, what is said of accuracy, and fine-tuning.

use crate::fixture::{self, done, refused};
use rewire::io::{Hints, load_model, save_model};
use rewire::nn::{ArchSpec, Graph, Model, Node, Op};
use rewire::prune::{Granularity, PruneSettings, Pruner, shrink};
use rewire::{Device, Seed, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const DATA: &str = "synthetic:classes=6,size=8,channels=3,train=64,test=40";

/// A network of 8×8 pixels and 6 classes from operations in a row and tensors of random values.
fn row(ops: Vec<Op>, tensors: &[(&str, &[usize])]) -> Model {
    let arch = ArchSpec::parse("vgg16:classes=6,in_channels=3,size=8").unwrap().resolve();
    let arch = rewire::nn::Arch { name: "imported".into(), ..arch };
    let node = |(i, op): (usize, Op)| Node { inputs: (0..i).rev().take(1).collect(), op };
    let nodes = std::iter::once(Op::Input).chain(ops).enumerate().map(node).collect();
    let tensor = |(name, shape): &(&str, &[usize])| {
        let (philox, len) = (Seed(5).stream(name, 0, 0), shape.iter().product::<usize>());
        let scale = |v: f32| match *name {
            "norm.running_var" => v.abs() + 0.5,
            // No logit of its own accord is 0 behind the last ReLU.
            "norm.bias" => 3.0 + 0.3 * v,
            _ => 0.3 * v,
        };
        let values = (0..len).map(|i| scale(philox.normal(i))).collect();
        ((*name).to_owned(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    };
    let tensors: BTreeMap<String, Tensor> = tensors.iter().map(tensor).collect();
    Model::new(arch, Graph { nodes }, tensors, &Device::Cpu).unwrap()
}

fn conv(name: &str) -> Op {
    Op::Conv { bias: true, channels: None, name: name.into(), padding: 1, stride: 1 }
}

fn linear(name: &str) -> Op {
    Op::Linear { bias: true, name: name.into() }
}

/// Convolutions alone; between the last one and the logits stand batch norm, ReLU and the mean over the image.
fn convolutional() -> Model {
    let norm = Op::BatchNorm { eps: 1e-5, momentum: 0.1, name: "norm".into() };
    row(
        vec![conv("body"), Op::Relu, conv("head"), norm, Op::Relu, Op::GlobalAvgPool],
        &[
            ("body.weight", &[8, 3, 3, 3]),
            ("body.bias", &[8]),
            ("head.weight", &[6, 3, 3, 8]),
            ("head.bias", &[6]),
            ("norm.weight", &[6]),
            ("norm.bias", &[6]),
            ("norm.running_mean", &[6]),
            ("norm.running_var", &[6]),
        ],
    )
}

/// Two hidden linear layers and the one that produces the logits.
fn perceptron() -> Model {
    row(
        vec![Op::Flatten, linear("one"), Op::Relu, linear("two"), Op::Relu, linear("head")],
        &[
            ("one.weight", &[16, 192]),
            ("one.bias", &[16]),
            ("two.weight", &[12, 16]),
            ("two.bias", &[12]),
            ("head.weight", &[6, 12]),
            ("head.bias", &[6]),
        ],
    )
}

fn json(folder: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&done(folder, &[args, &["--json"]].concat())).unwrap()
}

fn load(folder: &Path, name: &str) -> Model {
    load_model(&folder.join(name), &Hints::default(), &Device::Cpu).unwrap()
}

fn values(model: &Model, name: &str) -> Vec<f32> {
    model.param(name).unwrap().to_vec().unwrap()
}

const PRUNE: [&str; 5] = ["prune", "m.safetensors", "-o", "p.safetensors", "--density"];

#[test]
fn what_produces_the_logits_keeps_its_filters() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = convolutional();
    save_model(&folder.join("m.safetensors"), &model).unwrap();
    for granularity in ["filter", "kernel"] {
        let args = [&PRUNE[..], &["0.5", "--granularity", granularity]].concat();
        let printed = json(folder, &args);
        assert_eq!(printed["not_pruned"], serde_json::json!(["head.weight"]));
        assert_eq!(printed["layers"].as_array().unwrap().len(), 1);
        assert!(done(folder, &args).contains("not pruned: head.weight"));
        let pruned = load(folder, "p.safetensors");
        for name in ["head.weight", "head.bias", "norm.weight", "norm.bias"] {
            assert_eq!(values(&pruned, name), values(&model, name), "{granularity} {name}");
        }
        assert!(values(&pruned, "body.weight").contains(&0.0));
        // No logit is the same for all images, before or after dead channels are gone.
        let x = fixture::images(5, 3, 8, &Device::Cpu);
        for model in [&pruned, &shrink(&pruned).unwrap()] {
            let weights = rewire::nn::Weights::default();
            let mut tape = rewire::Tape::new(rewire::Mode::F32);
            let logits = model.forward_eval(&mut tape, &x, &weights).unwrap();
            let logits: Vec<f32> = logits.to_vec().unwrap();
            let moves = |k: usize| logits[k..].iter().step_by(6).any(|&z| z != logits[k]);
            assert!((0..6).all(moves), "{granularity}: {logits:?}");
        }
    }
    // Training's masks follow the same rule; other granularities leave no layer out.
    for (granularity, count) in [("filter", 1), ("kernel", 1), ("channel", 2), ("irregular", 2)] {
        let granularity: Granularity = granularity.parse().unwrap();
        let (method, keys) = ("static".into(), toml::Table::new());
        let settings = PruneSettings { method, granularity, density: 0.5, keys };
        let pruner = Pruner::new(&settings, &model, Seed(1)).unwrap();
        assert_eq!(pruner.masks().count(), count);
        assert_eq!(pruner.spared().len(), 2 - count);
    }
}

#[test]
fn linear_layers_are_pruned_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = perceptron();
    save_model(&folder.join("m.safetensors"), &model).unwrap();
    let message = refused(folder, &[&PRUNE[..], &["0.25"]].concat());
    assert!(message.contains("--linear") && message.contains("no convolution"), "{message}");
    assert!(!folder.join("p.safetensors").exists());
    let printed = json(folder, &[&PRUNE[..], &["0.25", "--linear"]].concat());
    assert_eq!(printed["prunable"], 16 * 192 + 12 * 16);
    assert_eq!(printed["active"], (16 * 192 + 12 * 16) / 4);
    assert_eq!(printed["not_pruned"], serde_json::json!(["head.weight"]));
    let pruned = load(folder, "p.safetensors");
    assert_eq!(values(&pruned, "head.weight"), values(&model, "head.weight"));
    let zeros = values(&pruned, "one.weight").iter().filter(|&&w| w == 0.0).count();
    assert_eq!(zeros, 16 * 192 * 3 / 4);
    // Whole rows go as filters do, with their biases, and shrink removes them.
    let filter = ["0.5", "--linear", "--granularity", "filter"];
    done(folder, &[&PRUNE[..], &filter].concat());
    let shrunk = json(folder, &["shrink", "p.safetensors", "-o", "s.safetensors"]);
    assert_eq!(shrunk["before"]["channels"], 16 + 12 + 6);
    assert_eq!(shrunk["after"]["channels"], 8 + 6 + 6);
    // A network without such a layer has no use for the flag.
    save_model(&folder.join("m.safetensors"), &convolutional()).unwrap();
    let message = refused(folder, &[&PRUNE[..], &["0.5", "--linear"]].concat());
    assert!(message.contains("--linear"), "{message}");
    let message = refused(folder, &[&PRUNE[..], &["0.5", "--keep-bn"]].concat());
    assert!(message.contains("--keep-bn"), "{message}");
}

#[test]
fn kept_weights_that_are_zero_are_counted_apart() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    save_model(&folder.join("m.safetensors"), &convolutional()).unwrap();
    let first = json(folder, &[&PRUNE[..], &["0.25"]].concat());
    assert_eq!(first["active"], first["nonzero"]);
    assert!(!done(folder, &[&PRUNE[..], &["0.25"]].concat()).contains("nonzero"));
    let again = ["prune", "p.safetensors", "-o", "q.safetensors", "--density", "0.5"];
    let second = json(folder, &again);
    assert_eq!(second["nonzero"], first["active"]);
    assert_eq!(second["active"], 324);
    let text = done(folder, &again);
    assert!(text.contains("324 of 648 prunable weights kept (density 0.5000)"), "{text}");
    assert!(text.contains("only 162 of them are nonzero"), "{text}");
}

#[test]
fn accuracy_is_measured_where_data_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    save_model(&folder.join("m.safetensors"), &convolutional()).unwrap();
    let text = done(folder, &[&PRUNE[..], &["0.3"]].concat());
    assert!(text.contains("accuracy not measured") && text.contains("rewire eval"), "{text}");
    assert!(text.contains("rewire train fine-tune --init p.safetensors"), "{text}");
    assert!(json(folder, &[&PRUNE[..], &["0.3"]].concat())["accuracy"].is_null());
    let measured = [&PRUNE[..], &["0.3", "--data", DATA, "--limit", "30"]].concat();
    let printed = json(folder, &measured);
    assert_eq!(printed["accuracy"]["images"], 30);
    // As a user of the library would evaluate the same images.
    for (file, key) in [("m.safetensors", "before"), ("p.safetensors", "after")] {
        let mut data = rewire::data::Dataset::load(DATA).unwrap();
        let split = data.test.as_mut().unwrap();
        split.truncate(30);
        let (model, weights) = (load(folder, file), rewire::nn::Weights::default());
        let forward =
            |x: &Tensor| model.forward_eval(&mut rewire::Tape::new(rewire::Mode::F32), x, &weights);
        let scores = rewire::models::evaluate(&model, split, 7, forward, |_| {}).unwrap();
        assert_eq!(printed["accuracy"][key], scores.accuracy(), "{key}");
    }
    assert!(done(folder, &measured).contains("clean accuracy on 30 test images"));
    assert!(refused(folder, &[&PRUNE[..], &["0.3", "--limit", "3"]].concat()).contains("--data"));
}

#[test]
fn a_pruned_network_is_fine_tuned_with_its_zeros_and_shrinks() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let tune = ["train", "fine-tune", "--data", DATA, "--set", "train.epochs=2", "--force"];
    let init = |file| [&tune[..], &["--init", file]].concat();
    for (model, prune) in [
        (fixture::network_of("resnet18:width=0.0625,classes=6,size=8", &Device::Cpu), "filter"),
        (convolutional(), "filter"),
        (convolutional(), "irregular"),
        (perceptron(), "irregular"),
    ] {
        save_model(&folder.join("m.safetensors"), &model).unwrap();
        let name = &model.arch().name;
        let flags: &[&str] =
            if model.prunable().is_empty() { &["--linear"] } else { &["--granularity", prune] };
        done(folder, &[&PRUNE[..], &["0.5"], flags].concat());
        let result = json(folder, &init("p.safetensors"));
        let (before, after) = (
            load(folder, "p.safetensors"),
            load(folder, "runs/fine-tune/checkpoints/last.safetensors"),
        );
        let (mut moved, mut active) = (0, 0);
        for (key, tensor) in before.params() {
            let (was, is) = (tensor.to_vec::<f32>().unwrap(), values(&after, key));
            // Zeros of biases and batch norms that were not pruned may move.
            let masked = key.ends_with("weight") && tensor.shape().len() > 1;
            let zeros = was.iter().zip(&is).filter(|(was, _)| masked && **was == 0.0);
            assert!(zeros.clone().all(|(_, is)| *is == 0.0), "{name} {prune} {key}");
            // Convolutions, and linear layers that hold a zero.
            let counted = tensor.shape().len() == 4 || (masked && was.contains(&0.0));
            active += was.iter().filter(|was| counted && **was != 0.0).count();
            moved += was.iter().zip(&is).filter(|(was, is)| was != is).count();
        }
        assert!(moved > 100, "{name}: nothing was trained");
        assert_eq!(result["active"], active, "{name} {prune}");
        // Dead channels stay dead, with their biases and batch norms: as many go after it as before.
        let size = |file: &str| json(folder, &["shrink", file, "-o", "s.safetensors"]);
        let [was, is] = ["p.safetensors", "runs/fine-tune/checkpoints/last.safetensors"].map(size);
        assert_eq!(was["after"]["parameters"], is["after"]["parameters"], "{name} {prune}");
    }
    save_model(&folder.join("m.safetensors"), &convolutional()).unwrap();
    let message = refused(folder, &init("m.safetensors"));
    assert!(message.contains("--init") && message.contains("fixed"), "{message}");
    let message = refused(folder, &tune);
    assert!(message.contains("model.init"), "{message}");
    let message =
        refused(folder, &[&init("p.safetensors")[..], &["--set", "prune.density=0.5"]].concat());
    assert!(message.contains("prune.density"), "{message}");
}

#[test]
fn shrink_says_what_it_removed_and_that_the_logits_stay() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    save_model(&folder.join("m.safetensors"), &convolutional()).unwrap();
    let text = done(folder, &["shrink", "m.safetensors", "-o", "s.safetensors"]);
    assert!(text.contains("nothing to remove"), "{text}");
    done(folder, &[&PRUNE[..], &["0.5", "--granularity", "filter"]].concat());
    let bytes = std::fs::metadata(folder.join("p.safetensors")).unwrap().len();
    let sizes = json(folder, &["shrink", "p.safetensors", "-o", "s.safetensors"]);
    assert_eq!(sizes["before"]["bytes"], bytes);
    assert!(sizes["after"]["bytes"].as_u64().unwrap() < bytes);
    let text = done(folder, &["shrink", "p.safetensors", "-o", "s.safetensors"]);
    assert!(text.contains("4 of 14 channels removed") && text.contains("up to rounding"), "{text}");
}

#[test]
fn without_a_command_the_usage_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let output = fixture::program(folder.path()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(error.contains("Usage: rewire") && error.contains("Compress:"), "{error}");
    assert!(error.lines().last().unwrap().starts_with("error: no command"), "{error}");
    for args in [&["help"][..], &["--help"]] {
        let help = fixture::program(folder.path()).args(args).output().unwrap();
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(help.status.success() && help.stderr.is_empty());
        for word in ["MODEL is", "ARCH is", "SPEC is", "Measure:", "  prune "] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
    let help = fixture::program(folder.path()).args(["prune", "--help"]).output().unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.contains("Example:\n  rewire prune"), "{text}");
}
