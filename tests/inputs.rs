//! Files as people have them: of the wrong kind, with pixels of 0 to 255, with one logit, with names of other schemes, and what a
//! message about them says.

use crate::fixture::{self, numbers, relative_error};
use base64::Engine;
use rewire::io::{Hints, ImportSettings, Pixels, load_model, model_bytes, read_onnx, save_model};
use rewire::nn::{ArchSpec, Model, Normalization, Weights};
use rewire::{Device, Mode, Tape};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

const CPU: Device = Device::Cpu;

/// `fixtures/inputs.json`.
fn stored() -> serde_json::Value {
    serde_json::from_str(include_str!("fixtures/inputs.json")).unwrap()
}

fn content(entry: &serde_json::Value) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(entry["file"].as_str().unwrap()).unwrap()
}

fn import(name: &str, settings: &ImportSettings) -> rewire::Result<Model> {
    read_onnx(Path::new("model.onnx"), &content(&stored()[name]), None, settings, &CPU)
}

fn refused(name: &str) -> String {
    import(name, &ImportSettings::default()).unwrap_err().to_string()
}

fn logits(model: &Model) -> Vec<f32> {
    let x = fixture::images(2, model.arch().in_channels, model.arch().size, &CPU);
    let weights = Weights::default();
    model.forward_eval(&mut Tape::new(Mode::F32), &x, &weights).unwrap().to_vec().unwrap()
}

/// Standard output and standard error of the program, and its exit status.
fn program(folder: &Path, args: &[&str]) -> (String, String, Option<i32>) {
    let output = fixture::program(folder).args(args).args(["--device", "cpu"]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn pixels_of_0_to_255_are_recognised() {
    let stored = stored();
    let mut of_bytes = 0;
    for (name, entry) in stored.as_object().unwrap() {
        let Some(scale) = entry.get("scale") else { continue };
        if name == "one logit" {
            continue;
        }
        let want = numbers(&entry["logits"]);
        let model = import(name, &ImportSettings::default()).unwrap();
        let error = relative_error(&logits(&model), &want);
        assert!(error < 1e-5, "{name}: {error:e}");
        // Said outright, the same; said otherwise, another network.
        let forced = |pixels| {
            let settings = ImportSettings { pixels: Some(pixels), ..ImportSettings::default() };
            relative_error(&logits(&import(name, &settings).unwrap()), &want)
        };
        let (unit, bytes) = (forced(Pixels::Unit), forced(Pixels::Bytes));
        let (right, other) = if scale == 255 { (bytes, unit) } else { (unit, bytes) };
        assert!(right < 1e-5 && other > 1e-2, "{name}: {right:e} {other:e}");
        of_bytes += usize::from(scale == 255);
    }
    assert!(of_bytes >= 5, "only {of_bytes} files of 255ths");
    assert!(refused("unclear pixels").contains("--pixels 255"));
    let unit = ImportSettings { pixels: Some(Pixels::Unit), ..ImportSettings::default() };
    assert!(import("unclear pixels", &unit).is_ok());
    // What this program exports reads pixels from 0 to 1 whatever its normalisation looks like.
    let model = import("a mean of Caffe", &unit).unwrap();
    let bytes = rewire::io::onnx_bytes(&model, false).unwrap();
    let back =
        read_onnx(Path::new("back.onnx"), &bytes, None, &ImportSettings::default(), &CPU).unwrap();
    assert_eq!(logits(&back), logits(&model));
}

#[test]
fn a_scale_is_said_and_a_normalisation_answered_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("m.onnx"), content(&stored()["a mean of Caffe"])).unwrap();
    let (out, said, status) = program(folder, &["import", "m.onnx", "-o", "m.safetensors"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("subtract a mean of 103.9, 116.8, 123.7"), "{said}");
    assert!(said.contains("from 0 to 255") && said.lines().count() == 1, "{said}");
    assert!(!out.contains("255"), "{out}");
    let unit = ["import", "m.onnx", "-o", "u.safetensors", "--pixels", "1"];
    assert_eq!(program(folder, &unit).1, "");
    for more in [&["--normalize", "cifar10"][..], &["--normalize", "cifar10", "--pixels", "255"]] {
        let args = [&["import", "m.onnx", "-o", "n.safetensors"], more].concat();
        let (_, said, status) = program(folder, &args);
        assert_eq!(status, Some(2));
        assert!(said.contains("--normalize = mean=0.4913725"), "{said}");
        assert!(!said.contains("Some(") && !said.contains("Normalization"), "{said}");
    }
    let given = Normalization { mean: vec![0.5; 3], std: vec![0.5; 3] };
    save_model(&folder.join("c.safetensors"), &fixture::network_of("resnet18:width=0.0625", &CPU))
        .unwrap();
    let hints = Hints { normalize: Some(Some(given)), ..Hints::default() };
    let said = load_model(&folder.join("c.safetensors"), &hints, &CPU).unwrap_err().to_string();
    assert!(said.contains("--normalize = mean=0.5:0.5:0.5,std=0.5:0.5:0.5"), "{said}");
    assert!(said.ends_with("says: none"), "{said}");
}

#[test]
fn one_logit_becomes_two() {
    let entry = &stored()["one logit"];
    let model = import("one logit", &ImportSettings::default()).unwrap();
    assert_eq!(model.arch().classes, 2);
    let z: Vec<f32> = logits(&model).chunks(2).map(|row| row[1]).collect();
    assert!(logits(&model).chunks(2).all(|row| row[0] == 0.0));
    assert!(relative_error(&z, &numbers(&entry["logits"])) < 1e-5);
    let said = refused("one logit of a convolution");
    assert!(said.contains("one output") && said.contains("two logits"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("m.onnx"), content(entry)).unwrap();
    let (_, said, status) = program(folder.path(), &["import", "m.onnx", "-o", "m.safetensors"]);
    assert!(status == Some(0) && said.contains("the two logits 0 and z"), "{said}");
    // A network of this program has two logits at least.
    assert!(ArchSpec::parse("vgg16:classes=1").unwrap_err().to_string().contains("two logits"));
    let mut arch = ArchSpec::parse("vgg16:width=0.0625").unwrap().resolve();
    arch.classes = 1;
    assert!(rewire::models::blueprint(&arch).is_err());
}

#[test]
fn all_problems_of_a_file_are_named_in_few_words() {
    let said = refused("many faults");
    for words in [
        "opset 8",
        "Clip: 18 nodes, first `/features/0/Clip`: not supported",
        "Conv: 18 nodes, first `/features/0/Conv`: 8 groups",
        "Concat `Concat_37`: joining images",
        "MaxPool `MaxPool_38`: dilation 2",
        "Softmax `Softmax_42`: not supported",
        "--help",
    ] {
        assert!(said.contains(words), "{words} is not in: {said}");
    }
    assert!(said.len() < 1500, "{} bytes: {said}", said.len());
    for (name, words) in [
        ("int8", "holds int8: a quantised file; import the float32 file"),
        ("an initializer twice", "2 initializers have the name `c0`; every name must"),
        ("an output twice", "2 inputs and outputs of nodes have the name `v0`"),
        ("opset 9999", "opset 9999; opsets 9 to 28 are read"),
    ] {
        let said = refused(name);
        assert!(said.contains(words), "{name}: {words} is not in: {said}");
    }
    assert!(import("opset 28", &ImportSettings::default()).is_ok());
}

/// Files that are no networks, by their name: their bytes, and words of the message of `predict` and of `import`.
fn wrong_kinds() -> Vec<(&'static str, Vec<u8>, &'static str, &'static str)> {
    let stored = stored();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 102530333\n";
    let convert = "safetensors.torch";
    let export = "torch.onnx.export(";
    vec![
        ("pointer", pointer.into(), "git lfs pull", "git lfs pull"),
        ("page", b"\n<!DOCTYPE html><html>404</html>".to_vec(), "a web page", "a web page"),
        ("answer", b"{\"message\": \"Not Found\"}".to_vec(), "JSON text", "JSON text"),
        ("text", b"schema = 1\nname = 'x'".to_vec(), "a text file", "a text file"),
        ("empty", Vec::new(), "is empty", "is empty"),
        ("packed", vec![0x1f, 0x8b, 8, 0, 0], "gzip -dc", "gzip -dc"),
        ("array", b"\x93NUMPY\x01\x00".to_vec(), "an array of NumPy", "an array of NumPy"),
        ("zip", content(&stored["torch.save"]), convert, export),
        ("pickle", content(&stored["torch.save, legacy"]), convert, export),
        ("onnx", content(&stored["from 0 to 1"]), "rewire import", ""),
    ]
}

#[test]
fn wrong_kinds_of_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (name, bytes, of_predict, of_import) in wrong_kinds() {
        for extension in ["safetensors", "onnx"] {
            let file = format!("{name}.{extension}");
            std::fs::write(folder.join(&file), &bytes).unwrap();
            for (command, words) in [("predict", of_predict), ("import", of_import)] {
                let (_, said, status) = program(folder, &[command, &file, "-o", "out"]);
                if words.is_empty() {
                    assert_eq!(status, Some(0), "{file}: {said}");
                    continue;
                }
                assert_eq!(status, Some(2), "{command} {file}: {said}");
                assert!(said.contains(words), "{command} {file}: {words} is not in: {said}");
                // What is suggested leaves the file as it is.
                for to in ["-o ", "> ", "sys.argv[2])\" "] {
                    let Some((_, to)) = said.split_once(to) else { continue };
                    let written = to
                        .split('\'')
                        .nth(if to.starts_with('\'') && said.contains("argv") { 3 } else { 1 });
                    assert_ne!(written, Some(file.as_str()), "{said}");
                }
            }
            assert_eq!(std::fs::read(folder.join(&file)).unwrap(), bytes);
        }
    }
    // A safetensors file is sent on; one whose header begins as a pickle does is read.
    let model = fixture::network_of("resnet18:width=0.0625", &CPU);
    save_model(&folder.join("m.safetensors"), &model).unwrap();
    let (_, said, _) = program(folder, &["import", "m.safetensors", "-o", "out"]);
    assert!(said.contains("is a safetensors file") && said.contains("rewire eval"), "{said}");
    let mut header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.to_vec();
    header.resize(0x0280, b' ');
    let bytes = [&0x0280u64.to_le_bytes()[..], &header, &[0; 4]].concat();
    std::fs::write(folder.join("m.pt"), bytes).unwrap();
    assert!(program(folder, &["inspect", "m.pt"]).0.contains("1 tensors"));
}

#[test]
fn names_from_files_do_not_reach_the_terminal_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("m.onnx"), content(&stored()["names of a terminal"])).unwrap();
    let (_, said, _) = program(folder, &["import", "m.onnx", "-o", "out"]);
    assert!(said.contains(r"a\u{1b}[31mred\u{9b} line"), "{said:?}");
    let value = 0.0f32.to_le_bytes();
    let tensors =
        [("\u{1b}]0;title\u{7}name\nmore", TensorView::new(Dtype::F32, vec![1], &value).unwrap())];
    let metadata =
        HashMap::from([("k\u{1b}[2J".to_owned(), "v\u{1b}[31m\nline\u{202e}".to_owned())]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).unwrap();
    std::fs::write(folder.join("m.safetensors"), bytes).unwrap();
    let listed = program(folder, &["inspect", "m.safetensors"]).0;
    let refused = program(folder, &["eval", "m.safetensors", "--arch", "vgg16"]).1;
    for text in [&said, &listed, &refused] {
        let harmful = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(harmful), "{text:?}");
    }
    // One line for each tensor and each entry of the metadata.
    assert_eq!(listed.lines().count(), 4, "{listed:?}");
    assert_eq!(refused.lines().count(), 1, "{refused:?}");
}

#[test]
fn an_error_is_one_line_of_bounded_length() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let recipe = format!("schema = 1\nname = \"x\"\ndeep = {}", "[".repeat(200_000));
    std::fs::write(folder.join("deep.toml"), recipe).unwrap();
    let (out, said, status) = program(folder, &["train", "deep.toml", "--json"]);
    assert_eq!(status, Some(2));
    assert!(said.len() < 2200 && said.contains("characters left out"), "{} bytes", said.len());
    assert!(out.len() < 2400 && out.contains("characters left out"), "{} bytes", out.len());
    let long = "a".repeat(100_000);
    let (_, said, _) = program(folder, &["eval", &format!("{long}.safetensors")]);
    assert!(said.len() < 2200, "{} bytes", said.len());
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("npy")).unwrap();
    std::fs::create_dir(folder.join("run")).unwrap();
    for name in ["pipe", "npy/test_images.npy", "run/steps.csv", "run/result.json"] {
        let path = folder.join(name);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    }
    std::fs::write(folder.join("run/recipe.toml"), "schema = 1\nname = \"x\"\n").unwrap();
    let started = Instant::now();
    for args in [
        &["eval", "pipe"][..],
        &["eval", "/dev/zero"],
        &["import", "pipe", "-o", "out"],
        &["import", "/dev/zero", "-o", "out"],
        &["inspect", "."],
        &["train", "pipe"],
        &["train", "/dev/zero"],
        &["predict", "pipe", "-o", "out"],
        &["data", "info", "npy:npy"],
        &["report", "run"],
    ] {
        let mut command = fixture::program(folder);
        let mut child = command
            .args(args)
            .args(["--device", "cpu"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        while child.try_wait().unwrap().is_none() {
            if started.elapsed() > Duration::from_secs(120) {
                child.kill().unwrap();
                panic!("{args:?} waits");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains("must be a regular file"), "{args:?}: {said}");
    }
    // A file without content of that size, too large for a recipe.
    let large = std::fs::File::create(folder.join("large.toml")).unwrap();
    large.set_len(1 << 40).unwrap();
    let (_, said, _) = program(folder, &["train", "large.toml"]);
    assert!(said.contains("bytes long"), "{said}");
    let (_, said, _) = program(folder, &["eval", "large.toml"]);
    assert!(said.contains("bytes long"), "{said}");
}

/// The tensors of `model` in a file without metadata, each under the name that `rename` gives, and more entries of one integer.
fn state_dict(model: &Model, rename: impl Fn(&str) -> String, more: &[&str]) -> Vec<u8> {
    let bytes = model_bytes(Path::new("model"), model).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let one = 7i64.to_le_bytes();
    let mut views: BTreeMap<String, TensorView> =
        stored.iter().map(|(name, view)| (rename(name), view)).collect();
    for name in more {
        let view = TensorView::new(Dtype::I64, vec![], &one).unwrap();
        views.insert((*name).to_owned(), view);
    }
    safetensors::serialize(views, None::<HashMap<String, String>>).unwrap()
}

#[test]
fn state_dicts_are_read_as_people_have_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = folder.join("s.safetensors");
    let scheme = |name: &str| name.replace("downsample", "shortcut").replace("fc.", "linear.");
    for arch in ["resnet18:width=0.0625", "vgg16:width=0.0625"] {
        let model = fixture::network_of(arch, &CPU);
        let hints = Hints { arch: Some(ArchSpec::parse(arch).unwrap()), ..Hints::default() };
        let resnet = arch.starts_with("resnet");
        for prefix in [
            "",
            "module.",
            "model.",
            "_orig_mod.",
            "net.",
            "state_dict.module.",
            "module._orig_mod.",
        ] {
            for other in [false, true] {
                let name = |name: &str| {
                    format!("{prefix}{}", if other { scheme(name) } else { name.into() })
                };
                let count = format!("{prefix}features.1.num_batches_tracked");
                let more = [count.as_str(), "epoch", "optimizer.state.0.step", "best_acc"];
                std::fs::write(&path, state_dict(&model, name, &more)).unwrap();
                let read = load_model(&path, &hints, &CPU)
                    .unwrap_or_else(|error| panic!("{arch} {prefix} {other}: {error}"));
                assert_eq!(logits(&read), logits(&model), "{arch} {prefix}");
                let (_, said, status) =
                    program(folder, &["inspect", "s.safetensors", "--arch", arch]);
                assert_eq!(status, Some(0), "{said}");
                assert_eq!(said.lines().count(), 1, "{said}");
                assert!(said.contains("3 entries") && said.contains("`best_acc`"), "{said}");
                assert!(
                    prefix.is_empty() || said.contains(&format!("the prefix `{prefix}`")),
                    "{said}"
                );
                assert_eq!(said.contains("`shortcut` is `downsample`"), other && resnet, "{said}");
            }
        }
        // What needs no change is not spoken of.
        std::fs::write(&path, state_dict(&model, str::to_owned, &[])).unwrap();
        assert_eq!(program(folder, &["inspect", "s.safetensors", "--arch", arch]).1, "");
    }
}

#[test]
fn a_state_dict_that_does_not_fit_is_described_in_few_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.safetensors");
    let refused = |arch: &str, bytes: Vec<u8>| {
        std::fs::write(&path, bytes).unwrap();
        let hints = Hints { arch: Some(ArchSpec::parse(arch).unwrap()), ..Hints::default() };
        load_model(&path, &hints, &CPU).unwrap_err().to_string()
    };
    let small = fixture::network_of("resnet18:width=0.0625", &CPU);
    // 20 convolutions, 20 batch norms, one linear layer.
    let said = refused("resnet18", state_dict(&small, |name| format!("module.{name}"), &[]));
    assert!(
        said.contains("101 tensors are of another shape: conv1.weight [4, 3, 3, 3] (must be [64"),
        "{said}"
    );
    assert!(said.contains("rewire import") && said.len() < 1000, "{said}");
    let said = refused("vgg16", state_dict(&small, str::to_owned, &[]));
    assert!(
        said.contains("tensors are missing") && said.contains("tensors are unexpected"),
        "{said}"
    );
    let values = vec![0; 4 * 4 * 3 * 7 * 7];
    let stem = TensorView::new(Dtype::F32, vec![4, 3, 7, 7], &values).unwrap();
    let stem = safetensors::serialize(
        [("module.conv1.weight", stem.clone()), ("module.fc.bias", stem)],
        None,
    )
    .unwrap();
    let said = refused("resnet18", stem);
    assert!(said.contains("ImageNet variant of resnet18") && said.contains("7×7 stem"), "{said}");
    let vgg = fixture::network_of("vgg16:width=0.0625", &CPU);
    let head = state_dict(&vgg, |name| name.replace("classifier.", "classifier.6."), &[]);
    let said = refused("vgg16:width=0.0625", head);
    assert!(said.contains("ImageNet variant of vgg16") && said.contains("rewire import"), "{said}");
    std::fs::write(&path, state_dict(&small, str::to_owned, &[])).unwrap();
    let said = load_model(&path, &Hints::default(), &CPU).unwrap_err().to_string();
    assert!(said.contains("--arch") && said.contains("vgg16, resnet18, resnet50"), "{said}");
}
