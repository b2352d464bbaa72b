//! ONNX files: what PyTorch's exporters write comes in, what goes out comes back, what is wrong is refused.

use crate::fixture::{self, numbers, relative_error};
use crate::plan::unusual;
use base64::Engine;
use rewire::infer::{Algorithm, Choice, Plan, reference};
use rewire::io::{
    Hints, ImportSettings, load_model, load_onnx, onnx_bytes, read_onnx, save_model, save_onnx,
};
use rewire::nn::{ArchSpec, Model, Normalization, Op, Weights};
use rewire::prune::shrink;
use rewire::{Device, ErrorKind, Mode, Seed, Tape, Tensor};
use std::path::{Path, PathBuf};

const CPU: Device = Device::Cpu;

/// By file: the network in `logits.json` that it holds.
const EXPORTS: [(&str, &str); 8] = [
    ("residual_script", "residual"),
    ("residual_script_unfolded", "residual"),
    ("residual_dynamo", "residual"),
    ("residual_dynamo_unfolded", "residual"),
    ("plain_script", "plain"),
    ("plain_dynamo", "plain"),
    ("plain_bn_script", "plain_bn"),
    ("plain_bn_dynamo_unfolded", "plain_bn"),
];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/onnx").join(name)
}

fn imported(name: &str, device: &Device) -> Model {
    load_onnx(&file(&format!("{name}.onnx")), &ImportSettings::default(), device).unwrap()
}

fn stored(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(file(name)).unwrap()).unwrap()
}

fn images(model: &Model) -> Tensor {
    fixture::images(2, model.arch().in_channels, model.arch().size, model.device())
}

fn logits(model: &Model) -> Vec<f32> {
    let weights = Weights::default();
    let y = model.forward_eval(&mut Tape::new(Mode::F32), &images(model), &weights).unwrap();
    y.to_vec().unwrap()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn read(content: &[u8]) -> rewire::Result<Model> {
    read_onnx(Path::new("model.onnx"), content, None, &ImportSettings::default(), &CPU)
}

fn refused(content: &[u8]) -> String {
    let error = read(content).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::File { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.starts_with("model.onnx: ") && !message.contains('\n'), "{message}");
    message
}

#[test]
fn logits_of_exported_networks_are_pytorchs() {
    let stored = stored("logits.json");
    for device in [CPU, Device::new("cuda-host").unwrap()] {
        for (name, network) in EXPORTS {
            let (model, want) = (imported(name, &device), numbers(&stored[network]));
            let error = relative_error(&logits(&model), &want);
            assert!(error < 1e-5, "{name} on {device}: {error:e}");
            let plan = |mode| {
                let choice = Choice::Forced(Algorithm::Dense);
                let mut plan = Plan::build(&model, 2, mode, choice).unwrap();
                relative_error(&plan.run(&images(&model)).unwrap().to_vec().unwrap(), &want)
            };
            for (mode, tolerance) in [(Mode::F32, 1e-5), (Mode::Bf16, 2e-2)] {
                let error = plan(mode);
                assert!(error < tolerance, "plan of {name} on {device}, {mode}: {error:e}");
            }
        }
    }
}

#[test]
fn plans_of_every_layout_give_the_logits_of_float64() {
    for (name, batch) in [
        ("residual_script", 1),
        ("residual_script", 16),
        ("plain_dynamo", 3),
        ("plain_bn_script", 32),
    ] {
        let mut model = imported(name, &CPU);
        // Enough zeros for sparse convolutions.
        for weight in model.prunable() {
            let values = model.param_mut(&weight).unwrap().cpu_mut::<f32>().unwrap();
            values.iter_mut().enumerate().filter(|(i, _)| i % 3 != 0).for_each(|(_, w)| *w = 0.0);
        }
        let x = fixture::images(batch, 3, model.arch().size, &CPU);
        let want = reference(&model, &x).unwrap().logits;
        for algorithm in [Algorithm::Dense, Algorithm::Sparse] {
            let choice = Choice::Forced(algorithm);
            let mut plan = Plan::build(&model, batch, Mode::F32, choice).unwrap();
            let got = plan.run(&x).unwrap().to_vec().unwrap();
            let error = relative_error(&got, &want);
            assert!(error < 1e-5, "{name}, batch {batch}, {algorithm:?}: {error:e}");
        }
    }
}

#[test]
fn unfolded_networks_have_pytorchs_state_dict() {
    for name in [
        "residual_script_unfolded",
        "residual_dynamo_unfolded",
        "plain_dynamo",
        "plain_bn_dynamo_unfolded",
    ] {
        let model = imported(name, &CPU);
        let state = model.state_dict();
        let first = if name.starts_with("plain") {
            "features.0.weight"
        } else {
            "layer1.1.downsample.1.running_var"
        };
        assert!(state.contains_key(first), "{name}: {:?}", state.keys());
        for (parameter, tensor) in &state {
            let want = fixture::parameter(parameter, tensor.shape());
            assert_eq!(tensor.to_vec::<f32>().unwrap(), want, "{name}: {parameter}");
        }
    }
    // Folded ones keep the names of the modules.
    for (name, layers) in [("residual_script", 7), ("residual_dynamo", 7), ("plain_bn_script", 5)] {
        let names: Vec<String> =
            imported(name, &CPU).layers().unwrap().into_iter().map(|layer| layer.name).collect();
        assert_eq!(names.len(), layers);
        let wanted = if name.starts_with("plain") { "features.4" } else { "layer1.1.downsample.0" };
        assert!(names.iter().any(|name| name == wanted), "{name}: {names:?}");
    }
}

#[test]
fn normalisation_and_size_may_come_from_the_caller() {
    let normalize = Normalization { mean: vec![0.5, 0.4, 0.3], std: vec![0.2, 0.3, 0.4] };
    let settings =
        ImportSettings { normalize: Some(normalize.clone()), ..ImportSettings::default() };
    let model = load_onnx(&file("plain_script.onnx"), &settings, &CPU).unwrap();
    assert_eq!(model.arch().normalize, Some(normalize.clone()));
    assert_eq!(
        model.graph().nodes[1].op,
        Op::Normalize { mean: normalize.mean, std: normalize.std }
    );
    let own = load_onnx(&file("residual_script.onnx"), &settings, &CPU).unwrap_err().to_string();
    assert!(own.contains("--normalize"), "{own}");
    let arch = imported("residual_dynamo", &CPU).arch().clone();
    let normalize =
        Normalization { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] };
    assert_eq!(arch.normalize, Some(normalize));
    assert_eq!(
        (arch.name.as_str(), arch.in_channels, arch.classes, arch.size),
        ("imported", 3, 5, 32)
    );
    let settings = ImportSettings { size: Some(64), ..ImportSettings::default() };
    let fixed = load_onnx(&file("plain_script.onnx"), &settings, &CPU).unwrap_err().to_string();
    assert!(fixed.contains("--size"), "{fixed}");
}

/// Networks of every kind that can be exported.
fn exportable() -> Vec<(String, Model)> {
    let mut all: Vec<(String, Model)> = Vec::new();
    for text in [
        "vgg16:width=0.0625",
        "resnet18:width=0.0625",
        "resnet50:width=0.03,in_channels=1,classes=7",
    ] {
        let mut arch = ArchSpec::parse(text).unwrap().resolve();
        if arch.in_channels == 3 {
            arch.normalize = Some(Normalization { mean: vec![0.4, 0.5, 0.6], std: vec![0.25; 3] });
        }
        let dense = fixture::network(arch, &CPU);
        let mut masked = dense.clone();
        mask(&mut masked);
        all.push((format!("{text}, shrunk"), shrink(&masked).unwrap()));
        all.push((format!("{text}, masked"), masked));
        all.push((format!("{text}, dense"), dense));
    }
    all.push(("unusual".to_owned(), unusual()));
    all.extend(EXPORTS.map(|(name, _)| (name.to_owned(), imported(name, &CPU))));
    all
}

/// Zeroes input channels, whole filters and single weights.
fn mask(model: &mut Model) {
    for (layer, name) in model.prunable().into_iter().enumerate() {
        let rng = Seed(5).stream("test.mask", 0, layer as u32);
        let weight = model.param_mut(&name).unwrap();
        let inputs = weight.shape()[3];
        let values = weight.cpu_mut::<f32>().unwrap().iter_mut().enumerate();
        let drop = |i: usize| rng.uniform(i % inputs) < 0.4 || rng.uniform(inputs + i) < 0.3;
        values.filter(|(i, _)| drop(*i)).for_each(|(_, w)| *w = 0.0);
    }
}

#[test]
fn what_is_exported_comes_back_the_same() {
    let mut gathers = 0;
    for (what, model) in exportable() {
        for sparse in [false, true] {
            let bytes = onnx_bytes(&model, sparse).unwrap();
            assert_eq!(bytes, onnx_bytes(&model, sparse).unwrap(), "{what}: the bytes differ");
            let back = read(&bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
            // A network whose first layers are not normalised may have nodes that nobody reads; they stay away.
            assert_eq!(back.graph(), model.graph(), "{what}");
            assert_eq!(back.arch().normalize, model.arch().normalize, "{what}");
            assert_eq!(logits(&back), logits(&model), "{what}");
            let (state, known) = (back.state_dict(), model.state_dict());
            assert!(state.keys().eq(known.keys()), "{what}");
            for (name, tensor) in &state {
                let values = |tensor: &Tensor| tensor.to_vec::<f32>().unwrap();
                assert_eq!(values(tensor), values(&known[name]), "{what}: {name}");
            }
        }
        let gather = |op: &Op| matches!(op, Op::Conv { channels: Some(_), .. });
        gathers += model.graph().nodes.iter().filter(|node| gather(&node.op)).count();
    }
    assert!(gathers > 0, "no network gathered channels");
}

#[test]
fn sparse_files_of_pruned_networks_are_smaller() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = fixture::network_of("resnet18:width=0.125", &CPU);
    for name in model.prunable() {
        let values = model.param_mut(&name).unwrap().cpu_mut::<f32>().unwrap().iter_mut();
        values.enumerate().filter(|(i, _)| i % 10 != 0).for_each(|(_, w)| *w = 0.0);
    }
    let [dense, sparse] = [false, true].map(|sparse| {
        let path = folder.path().join("model.onnx");
        let length = save_onnx(&path, &model, sparse).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len() as usize, length);
        length
    });
    // A kept weight takes 4 bytes and its place 8.
    assert!(3 * sparse < 2 * dense, "{sparse} of {dense} bytes");
}

#[test]
fn imported_networks_are_pruned_and_shrunk() {
    for (name, _) in EXPORTS {
        let mut masked = imported(name, &CPU);
        mask(&mut masked);
        // Outputs of the hidden linear layers that nobody reads go, too.
        if name.starts_with("plain") {
            let weight = masked.param_mut("classifier.3.weight").unwrap();
            let inputs = weight.shape()[1];
            let values = weight.cpu_mut::<f32>().unwrap().iter_mut().enumerate();
            values.filter(|(i, _)| i % inputs == 2).for_each(|(_, w)| *w = 0.0);
            // And a channel of the flattened image.
            let weight = masked.param_mut("classifier.0.weight").unwrap();
            let inputs = weight.shape()[1];
            let values = weight.cpu_mut::<f32>().unwrap().iter_mut().enumerate();
            values.filter(|(i, _)| i % inputs / 4 == 1).for_each(|(_, w)| *w = 0.0);
        }
        let small = shrink(&masked).unwrap();
        let error = relative_error(&logits(&small), &wide(&logits(&masked)));
        assert!(error < 1e-5, "{name}: {error:e}");
        assert!(small.parameter_count() < masked.parameter_count(), "{name}");
        if name.starts_with("plain") {
            let shape = |name: &str| small.param(name).unwrap().shape().to_vec();
            assert_eq!(shape("classifier.0.weight"), [7, 20], "{name}");
            assert_eq!(shape("classifier.0.bias"), [7], "{name}");
            assert_eq!(shape("classifier.3.weight"), [7, 7], "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.safetensors");
        save_model(&path, &small).unwrap();
        let read = load_model(&path, &Hints::default(), &CPU).unwrap();
        assert_eq!(read.graph(), small.graph());
        assert_eq!(logits(&read), logits(&small));
    }
}

/// `wrong.json`.
fn wrong(name: &str) -> Vec<u8> {
    let text = stored("wrong.json")[name].as_str().unwrap().to_owned();
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

#[test]
fn everything_that_is_not_supported_is_named_at_once() {
    let message = refused(&wrong("faults"));
    for words in [
        "Conv `grouped`: 3 groups",
        "Conv `dilated`: dilation 2",
        "Conv `lopsided`: pads [0, 0, 1, 1] differ",
        "Sigmoid `curved`: not supported",
        "MaxPool `rounded`: ceil_mode=1",
        "Own `foreign`: the operator is of the domain `com.example`",
        "Sum `joined`: not supported",
    ] {
        assert!(message.contains(words), "{words} is not in: {message}");
    }
    // What only stands behind a fault has none of its own.
    assert!(!message.contains("behind"), "{message}");
}

#[test]
fn files_that_lie_are_refused() {
    for (name, words) in [
        ("cycle", "nothing before it computes"),
        ("absent", "reads `nowhere`, which nothing before it computes"),
        ("huge", "shape [4611686018427387904, 4611686018427387904]"),
        ("negative", "shape [-5, -3]"),
        ("short", "holds 1 values; its shape is [5, 3]"),
        ("sparse", "too many for a file of few values"),
        ("outside", "lies in another file, `../secret`"),
        ("shared", "more values than the file can be meant to hold"),
        ("expanded", "more values than the file can be meant to hold"),
        ("doubled", "joins lists"),
        ("bare", "its weight is missing"),
        ("two outputs", "one output"),
        ("an image as logits", "is [N, 3, 8, 8]; must be logits [N, classes]"),
        ("old", "opset 8"),
        ("alias", "Add `aside`: adds a constant; only the bias of a matrix product"),
        ("integers", "holds uint8; must hold floating point pixels"),
        ("oblong", "AveragePool `oblong`: kernel_shape [4, 6] differ"),
        ("turned", "Transpose `turned`: transposes a constant of the shape [0, "),
    ] {
        let message = refused(&wrong(name));
        assert!(message.contains(words), "{name}: {words} is not in: {message}");
    }
    refused(b"");
    refused(b"not a file of ONNX");
    refused(&vec![0x0b; 1 << 20]);
    refused(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    // Values beside the file are read only where the caller allows it, and must all be there.
    let content = std::fs::read(file("residual_dynamo.onnx")).unwrap();
    assert!(refused(&content).contains("lies in another file"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("residual_dynamo.onnx");
    std::fs::write(&path, content).unwrap();
    let load = || load_onnx(&path, &ImportSettings::default(), &CPU).unwrap_err().to_string();
    assert!(load().contains("residual_dynamo.onnx.data"), "{}", load());
    let values = std::fs::read(file("residual_dynamo.onnx.data")).unwrap();
    std::fs::write(folder.path().join("residual_dynamo.onnx.data"), &values[..100]).unwrap();
    assert!(load().contains("residual_dynamo.onnx.data is 100 bytes long, but `"), "{}", load());
    assert!(load().contains("cut short"), "{}", load());
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9999\n";
    std::fs::write(folder.path().join("residual_dynamo.onnx.data"), pointer).unwrap();
    assert!(load().contains("is a Git LFS pointer; fetch"), "{}", load());
}

#[test]
fn broken_files_are_refused_or_read_but_never_panic() {
    for name in ["plain_script", "residual_script_unfolded", "plain_bn_dynamo_unfolded"] {
        let whole = std::fs::read(file(&format!("{name}.onnx"))).unwrap();
        for len in (0..whole.len()).step_by(97) {
            // A file may end between two of its outermost fields; the graph is never whole then.
            refused(&whole[..len.min(whole.len() - 20)]);
        }
        let rng = fixture::fresh_seed().stream("test.flips", 0, 0);
        for i in 0..3000 {
            let mut bytes = whole.clone();
            for k in 0..1 + i % 4 {
                let at = rng.bits(8 * i + 2 * k) as usize % bytes.len();
                bytes[at] ^= 1 << (rng.bits(8 * i + 2 * k + 1) % 8);
            }
            let _ = read(&bytes);
        }
    }
}

fn done(folder: &Path, args: &[&str]) -> String {
    let output = fixture::program(folder).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "rewire {}: {stderr}", args.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_takes_an_imported_network() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (name, size) in [("residual_script_unfolded", 32), ("plain_bn_script", 16)] {
        let source = file(&format!("{name}.onnx"));
        let data = format!("synthetic:classes=5,size={size},channels=3,train=16,test=6");
        let run = |args: &[&str]| done(folder, &[args, &["--device", "cpu"]].concat());
        run(&["import", source.to_str().unwrap(), "-o", "m.safetensors"]);
        assert!(run(&["inspect", "m.safetensors"]).contains("imported:in_channels=3,classes=5"));
        run(&["eval", "m.safetensors", "--data", &data]);
        run(&["attack", "m.safetensors", "--attack", "fgsm", "--data", &data]);
        run(&["bench", "m.safetensors", "--batch", "1,16", "--seconds", "0"]);
        run(&[
            "prune",
            "m.safetensors",
            "-o",
            "p.safetensors",
            "--granularity",
            "filter",
            "--density",
            "0.5",
        ]);
        run(&["shrink", "p.safetensors", "-o", "s.safetensors"]);
        run(&["export", "s.safetensors", "-o", "s.onnx"]);
        run(&["import", "s.onnx", "-o", "back.safetensors"]);
        let predicted = |model: &str| {
            run(&["predict", model, "--data", &data, "-o", "logits.npy", "--algorithm", "dense"]);
            rewire::npy::read(&folder.join("logits.npy")).unwrap().to_f32().unwrap()
        };
        assert_eq!(predicted("back.safetensors"), predicted("s.safetensors"));
        assert!(
            relative_error(&predicted("s.safetensors"), &wide(&predicted("p.safetensors"))) < 1e-5
        );
        // Neither --arch nor --normalize: the network has its own, and a run goes on with it.
        let run_folder = format!("run-{name}");
        std::fs::write(
            folder.join("tiny.toml"),
            "schema = 1\nname = \"tiny\"\n[train]\nepochs = 2\nbatch_size = 8\n",
        )
        .unwrap();
        run(&[
            "train",
            "tiny.toml",
            "--init",
            "m.safetensors",
            "--data",
            &data,
            "--out",
            &run_folder,
        ]);
        let last = format!("{run_folder}/checkpoints/last.safetensors");
        assert!(run(&["inspect", &last]).contains("imported:in_channels=3,classes=5"));
        assert_ne!(predicted(&last), predicted("m.safetensors"));
        run(&["train", "--resume", &run_folder]);
    }
}

#[test]
fn layers_whose_tensors_are_named_alike_keep_their_own() {
    let settings = ImportSettings::default();
    let content = wrong("named alike");
    let model = read_onnx(Path::new("m.onnx"), &content, None, &settings, &CPU).unwrap();
    let mut first: Vec<f32> = Vec::new();
    for (name, weight) in model.state_dict().iter().filter(|(name, _)| name.ends_with(".weight")) {
        let values = weight.to_vec::<f32>().unwrap();
        assert!(values.iter().all(|v| *v == values[0]), "{name}");
        first.push(values[0]);
    }
    first.sort_by(f32::total_cmp);
    assert_eq!(first, [1.0, 2.0]);
}

#[test]
fn no_window_fits_into_absurd_padding() {
    let window = rewire::ops::Window { size: 2, stride: 1, padding: usize::MAX };
    assert_eq!(window.count(4), None);
}
