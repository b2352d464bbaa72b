//! Removal of channels: the logits stay those of the masked network.

use crate::fixture::{self, relative_error};
use rewire::io::{Hints, load_model, model_bytes, save_model};
use rewire::nn::{Layer, Model, Op, Weights};
use rewire::prune::shrink;
use rewire::{Device, Mode, Seed, Tape, Tensor};

const CPU: Device = Device::Cpu;
const ARCHS: [&str; 3] =
    ["vgg16:width=0.0625", "resnet18:width=0.0625,size=16", "resnet50:width=0.03,size=8"];

/// What a mask is constant over.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Unit {
    Irregular,
    Channel,
    /// With the bias and the batch norm of the filter.
    Filter,
    /// Without them.
    FilterKeepBn,
}

/// Zeroes each unit of each convolution with probability `1 − density`.
fn mask(model: &mut Model, unit: Unit, density: f32, seed: Seed) {
    for (layer, name) in model.prunable().into_iter().enumerate() {
        let rng = seed.stream("test.mask", 0, layer as u32);
        let drop = |index: usize| rng.uniform(index) >= density;
        let weight = model.param_mut(&name).unwrap();
        let (filters, inputs) = (weight.shape()[0], weight.shape()[3]);
        let size = weight.len() / filters;
        for (i, w) in weight.cpu_mut::<f32>().unwrap().iter_mut().enumerate() {
            let index = match unit {
                Unit::Irregular => i,
                Unit::Channel => i % inputs,
                Unit::Filter | Unit::FilterKeepBn => i / size,
            };
            if drop(index) {
                *w = 0.0;
            }
        }
        if unit == Unit::Filter {
            let prefix = name.trim_end_matches(".weight");
            for tensor in after(model, prefix) {
                if let Ok(tensor) = model.param_mut(&tensor) {
                    let values = tensor.cpu_mut::<f32>().unwrap().iter_mut().enumerate();
                    values.filter(|(k, _)| drop(*k)).for_each(|(_, value)| *value = 0.0);
                }
            }
        }
    }
}

/// Bias of a convolution, scale and shift of the batch norm that reads it.
fn after(model: &Model, prefix: &str) -> Vec<String> {
    let nodes = &model.graph().nodes;
    let at = |op: &Op| matches!(op, Op::Conv { name, .. } if name == prefix);
    let conv = nodes.iter().position(|node| at(&node.op)).unwrap();
    let norm = nodes.iter().find_map(|node| match &node.op {
        Op::BatchNorm { name, .. } if node.inputs == [conv] => Some(name.clone()),
        _ => None,
    });
    let norm = norm.unwrap();
    vec![format!("{prefix}.bias"), format!("{norm}.weight"), format!("{norm}.bias")]
}

fn logits(model: &Model) -> Vec<f32> {
    let arch = model.arch();
    let x = fixture::images(3, arch.in_channels, arch.size, &CPU);
    let weights = Weights::default();
    model.forward_eval(&mut Tape::new(Mode::F32), &x, &weights).unwrap().to_vec().unwrap()
}

fn weights(model: &Model) -> usize {
    model.layers().unwrap().iter().map(Layer::weights).sum()
}

fn nonzero(model: &Model) -> usize {
    model.layers().unwrap().iter().map(|layer| model.kept(layer).unwrap().weights).sum()
}

fn assert_same(shrunk: &Model, masked: &Model, what: &str) {
    let want: Vec<f64> = logits(masked).into_iter().map(f64::from).collect();
    let error = relative_error(&logits(shrunk), &want);
    assert!(error < 1e-5, "{what}: {error:e}");
}

#[test]
fn logits_are_those_of_the_masked_network() {
    let seed = fixture::fresh_seed();
    for arch in ARCHS {
        for unit in [Unit::Irregular, Unit::Channel, Unit::Filter, Unit::FilterKeepBn] {
            for density in [0.0, 0.05, 0.5, 1.0] {
                let what = format!("{arch}, {unit:?}, density {density}, {seed:?}");
                let mut masked = fixture::network_of(arch, &CPU);
                mask(&mut masked, unit, density, seed);
                let shrunk = shrink(&masked).unwrap();
                assert_same(&shrunk, &masked, &what);
                assert!(nonzero(&shrunk) <= nonzero(&masked), "{what}");
                if matches!(unit, Unit::Channel | Unit::Filter) && density < 1.0 {
                    assert!(weights(&shrunk) < weights(&masked), "{what}: nothing is gone");
                }
                if density == 1.0 {
                    assert_eq!(shrunk.graph(), masked.graph(), "{what}");
                    assert_eq!(weights(&shrunk), weights(&masked), "{what}");
                }
                // Nothing is left for a second pass over a network that has lost what it can.
                let twice = shrink(&shrunk).unwrap();
                assert_same(&twice, &masked, &what);
                assert_eq!(weights(&twice), weights(&shrunk), "{what}");
            }
        }
    }
}

#[test]
fn channels_that_nobody_reads_go_with_their_filters_and_their_readers() {
    let mut model = fixture::network_of("vgg16:width=0.0625", &CPU);
    // The second convolution no longer reads channel 2; the fifth filter of the third is exactly zero.
    zero(&mut model, "features.3.weight", |i| i % 4 == 2);
    zero(&mut model, "features.7.weight", |i| i / 36 == 5);
    for name in ["features.7.bias", "features.8.weight", "features.8.bias"] {
        zero(&mut model, name, |i| i == 5);
    }
    let shrunk = shrink(&model).unwrap();
    let shape = |name: &str| shrunk.state_dict()[name].shape().to_vec();
    assert_eq!(shape("features.0.weight"), [3, 3, 3, 3]);
    assert_eq!(shape("features.1.running_var"), [3]);
    assert_eq!(shape("features.3.weight"), [4, 3, 3, 3]);
    assert_eq!(shape("features.7.weight"), [7, 3, 3, 4]);
    assert_eq!(shape("features.8.bias"), [7]);
    assert_eq!(shape("features.10.weight"), [8, 3, 3, 7]);
    assert!(shrunk.graph().nodes.iter().all(|node| !gathers(&node.op)));
    assert_same(&shrunk, &model, "vgg16");
}

#[test]
fn a_stream_keeps_what_any_consumer_reads_and_the_others_gather() {
    let mut model = fixture::network_of("resnet18:width=0.0625", &CPU);
    // Stage 1 has 4 channels. The first block does not read channel 1, nobody reads channel 3.
    zero(&mut model, "layer1.0.conv1.weight", |i| i % 4 == 1 || i % 4 == 3);
    for name in ["layer1.1.conv1.weight", "layer2.0.conv1.weight", "layer2.0.downsample.0.weight"] {
        zero(&mut model, name, |i| i % 4 == 3);
    }
    let shrunk = shrink(&model).unwrap();
    let shape = |name: &str| shrunk.state_dict()[name].shape().to_vec();
    assert_eq!(shape("conv1.weight"), [3, 3, 3, 3]);
    assert_eq!(shape("layer1.0.conv1.weight"), [4, 3, 3, 2]);
    assert_eq!(shape("layer1.0.conv2.weight"), [3, 3, 3, 4]);
    assert_eq!(shape("layer1.1.conv1.weight"), [4, 3, 3, 3]);
    assert_eq!(shape("layer2.0.downsample.0.weight"), [8, 1, 1, 3]);
    let gathered = shrunk.graph().nodes.iter().filter(|node| gathers(&node.op)).count();
    assert_eq!(gathered, 1);
    assert_same(&shrunk, &model, "resnet18");
}

#[test]
fn a_shrunk_network_comes_back_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.safetensors");
    for arch in ARCHS {
        let mut masked = fixture::network_of(arch, &CPU);
        mask(&mut masked, Unit::Channel, 0.4, Seed(3));
        let shrunk = shrink(&masked).unwrap();
        assert!(weights(&shrunk) < weights(&masked));
        save_model(&path, &shrunk).unwrap();
        let read = load_model(&path, &Hints::default(), &CPU).unwrap();
        assert_eq!(read.graph(), shrunk.graph());
        assert_eq!(logits(&read), logits(&shrunk));
        assert_eq!(model_bytes(&path, &read).unwrap(), std::fs::read(&path).unwrap());
    }
}

#[test]
fn a_graph_that_lies_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.safetensors");
    let mut masked = fixture::network_of("resnet18:width=0.0625", &CPU);
    mask(&mut masked, Unit::Channel, 0.4, Seed(3));
    let bytes = model_bytes(&path, &shrink(&masked).unwrap()).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(bytes[8..header].to_vec()).unwrap();
    for (from, to) in [
        (r#"\"channels\":[0"#, r#"\"channels\":[99"#),
        (r#"\"inputs\":[1]"#, r#"\"inputs\":[9]"#),
        (r#"\"inputs\":[1]"#, r#"\"inputs\":[]"#),
        (r#"\"stride\":1"#, r#"\"stride\":0"#),
        (r#"\"padding\":1"#, r#"\"padding\":18446744073709551615"#),
        (r#"\"name\":\"bn1\""#, r#"\"name\":\"fc\""#),
        (r#"\"eps\":"#, r#"\"eps\":-"#),
        (r#"\"relu\""#, r#"\"tanh\""#),
    ] {
        let edited = text.replacen(from, to, 1);
        assert_ne!(edited, text, "{from}");
        let mut changed = (edited.len() as u64).to_le_bytes().to_vec();
        changed.extend(edited.as_bytes());
        changed.extend(&bytes[header..]);
        std::fs::write(&path, changed).unwrap();
        let message = load_model(&path, &Hints::default(), &CPU).unwrap_err().to_string();
        assert!(message.contains("small.safetensors"), "{message}");
    }
}

fn gathers(op: &Op) -> bool {
    matches!(op, Op::Conv { channels: Some(_), .. })
}

fn zero(model: &mut Model, name: &str, which: impl Fn(usize) -> bool) {
    let tensor: &mut Tensor = model.param_mut(name).unwrap();
    let values = tensor.cpu_mut::<f32>().unwrap().iter_mut().enumerate();
    values.filter(|(i, _)| which(*i)).for_each(|(_, value)| *value = 0.0);
}
