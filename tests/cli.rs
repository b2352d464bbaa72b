//! The program as a person calls it: results, exit statuses, one line an error.

use crate::fixture;
use rewire::io::save_model;
use rewire::{Device, npy};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn rewire(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rewire"));
    command.current_dir(folder).args(args).arg("--device").arg("cpu").output().unwrap()
}

fn done(folder: &Path, args: &[&str]) -> String {
    let output = rewire(folder, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The message of a command that is refused: status 2, nothing on standard output, one line `error: …`.
fn refused(folder: &Path, args: &[&str]) -> String {
    let output = rewire(folder, args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
    assert!(output.stdout.is_empty(), "{args:?}");
    assert!(error.starts_with("error: ") && error.trim_end().lines().count() == 1, "{error}");
    error
}

const DATA: &str = "synthetic:classes=10,size=32,channels=3,train=1,test=9";

fn model(folder: &Path) {
    let model = fixture::network_of("resnet18:width=0.0625", &Device::Cpu);
    save_model(&folder.join("m.safetensors"), &model).unwrap();
}

#[test]
fn predict_writes_the_logits_that_eval_counts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(folder);
    done(folder, &["predict", "m.safetensors", "--data", DATA, "-o", "logits.npy"]);
    let logits = npy::read(&folder.join("logits.npy")).unwrap();
    assert_eq!(logits.shape, [9, 10]);
    let first = logits.to_f32().unwrap();
    // Batches and threads change nothing.
    let args = ["predict", "m.safetensors", "--data", DATA, "-o", "b.npy", "--batch-size", "2"];
    done(folder, &[&args[..], &["--threads", "1"]].concat());
    assert_eq!(npy::read(&folder.join("b.npy")).unwrap().to_f32().unwrap(), first);
    let json = done(folder, &["eval", "m.safetensors", "--data", DATA, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["images"], 9);
    let accuracy = json["accuracy"].as_f64().unwrap();
    assert!(json["top5"].as_f64().unwrap() >= accuracy && json["loss"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_measured_choice_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(folder);
    let sparse = ["--granularity", "irregular", "--density", "0.05"];
    done(folder, &[&["prune", "m.safetensors", "-o", "p.safetensors"], &sparse[..]].concat());
    let predict = |file: &str, algorithm: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rewire"));
        let args = ["predict", "p.safetensors", "--data", DATA, "--device", "cpu", "-o", file];
        let command = command.current_dir(folder).args(args).args(["--algorithm", algorithm]);
        assert!(command.env("XDG_CACHE_HOME", folder.join("cache")).status().unwrap().success());
        npy::read(&folder.join(file)).unwrap().to_f32().unwrap()
    };
    let first = predict("first.npy", "measured");
    let plans: Vec<_> = std::fs::read_dir(folder.join("cache/rewire/plans")).unwrap().collect();
    let [Ok(plan)] = &plans[..] else { panic!("{plans:?}") };
    assert_eq!(predict("second.npy", "measured"), first);
    // What is remembered is what runs: dense where the file says so everywhere.
    let text = std::fs::read_to_string(plan.path()).unwrap().replace("sparse", "dense");
    std::fs::write(plan.path(), text).unwrap();
    assert_eq!(predict("third.npy", "measured"), predict("dense.npy", "dense"));
    std::fs::write(plan.path(), "{").unwrap();
    predict("fourth.npy", "measured");
}

#[test]
fn inspect_and_list_print_tables_and_json() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    let text = done(folder.path(), &["inspect", "m.safetensors"]);
    assert!(text.contains("layer4.1.conv2") && text.contains("total"));
    let json = done(folder.path(), &["inspect", "m.safetensors", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["layers"].as_array().unwrap().len(), 21);
    assert_eq!(json["total"]["weights"], json["total"]["weights_kept"]);
    assert!(done(folder.path(), &["list", "models"]).contains("resnet50"));
    assert!(done(folder.path(), &["completions", "bash"]).contains("rewire"));
}

#[test]
fn bad_usage_is_one_line_and_status_2() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(folder);
    std::fs::write(folder.join("broken.safetensors"), b"no").unwrap();
    for (args, word) in [
        (&["evaluate"][..], "evaluate"),
        (&["eval"], "MODEL"),
        (&["eval", "m.safetensors", "--colour"], "--colour"),
        (&["eval", "absent.safetensors"], "absent.safetensors"),
        (&["eval", "broken.safetensors"], "broken.safetensors"),
        (&["eval", "m.safetensors", "--mode", "f16"], "--mode"),
        (&["eval", "m.safetensors", "--threads", "0"], "--threads"),
        (&["eval", "m.safetensors", "--threads", "x"], "--threads"),
        (&["eval", "m.safetensors", "--data", "cifar11"], "cifar11"),
        (&["eval", "m.safetensors", "--data", DATA, "--batch-size", "0"], "batch_size"),
        (&["eval", "m.safetensors", "--arch", "vgg16"], "--arch"),
        (&["eval", "m.safetensors"], "3×32×32"),
        (&["predict", "m.safetensors", "--data", DATA], "--output"),
        (&["predict", "m.safetensors", "--data", DATA, "-o", "no/such/folder.npy"], "no/such"),
        (&["list", "colours"], "colours"),
    ] {
        let message = refused(folder, args);
        assert!(message.contains(word), "{args:?}: {message}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_rewire"));
    let output = command.current_dir(folder).args(["eval", "m.safetensors", "--device", "tpu"]);
    assert_eq!(output.output().unwrap().status.code(), Some(2));
    assert!(!folder.join("no").exists());
}

#[test]
fn inspect_lists_files_that_are_no_networks() {
    use safetensors::tensor::{Dtype, TensorView};
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let floats: Vec<u8> =
        [0.0f32, -0.0, 1.5, f32::NAN].iter().flat_map(|v| v.to_le_bytes()).collect();
    let halves: Vec<u8> = [0u16, 0x8000, 0x3c00].iter().flat_map(|v| v.to_le_bytes()).collect();
    let integers: Vec<u8> = [0i64, i64::MIN].iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensors = [
        ("a name/with anything", TensorView::new(Dtype::F32, vec![2, 2], &floats).unwrap()),
        ("halves", TensorView::new(Dtype::BF16, vec![3], &halves).unwrap()),
        ("count", TensorView::new(Dtype::I64, vec![2], &integers).unwrap()),
        ("flags", TensorView::new(Dtype::BOOL, vec![1, 2], &[1, 0]).unwrap()),
        ("nothing", TensorView::new(Dtype::F32, vec![0, 3], &[]).unwrap()),
    ];
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).unwrap();
    std::fs::write(folder.join("any.safetensors"), bytes).unwrap();
    let text = done(folder, &["inspect", "any.safetensors"]);
    assert!(text.contains("5 tensors") && text.contains("format: pt"), "{text}");
    let json = done(folder, &["inspect", "any.safetensors", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let listed = |key: &str| -> Vec<serde_json::Value> {
        json["tensors"].as_array().unwrap().iter().map(|tensor| tensor[key].clone()).collect()
    };
    assert_eq!(listed("name"), ["a name/with anything", "count", "flags", "halves", "nothing"]);
    assert_eq!(listed("dtype"), ["F32", "I64", "BOOL", "BF16", "F32"]);
    assert_eq!(listed("nonzero"), [2, 1, 1, 1, 0]);
    assert_eq!(json["tensors"][0]["shape"], serde_json::json!([2, 2]));
    assert_eq!(json["metadata"]["format"], "pt");
    // With an architecture it is read as a network.
    let message = refused(folder, &["inspect", "any.safetensors", "--arch", "vgg16"]);
    assert!(message.contains("count is of type I64"), "{message}");
    std::fs::write(folder.join("cut.safetensors"), [9, 0, 0]).unwrap();
    refused(folder, &["inspect", "cut.safetensors"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    for args in [&["list"][..], &["inspect", "m.safetensors"], &["completions", "zsh"], &["--help"]]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rewire"));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.current_dir(folder.path()).args(args).args(["--device", "cpu"]);
        let output = command.stdout(Stdio::from(writer)).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(output.stderr.is_empty(), "{args:?}");
    }
}

/// Logits that `rewire predict` writes for `model`.
fn predicted(folder: &Path, model: &str, device: &[&str]) -> Vec<f32> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rewire"));
    let args = ["predict", model, "--data", DATA, "-o", "logits.npy"];
    let output = command.current_dir(folder).args(args).args(device).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    npy::read(&folder.join("logits.npy")).unwrap().to_f32().unwrap()
}

#[test]
fn pruned_shrunk_and_served_the_logits_stay() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let cpu = ["--device", "cpu"];
    for arch in ["vgg16:width=0.0625", "resnet18:width=0.0625"] {
        let model = fixture::network_of(arch, &Device::Cpu);
        save_model(&folder.join("m.safetensors"), &model).unwrap();
        for granularity in ["irregular", "kernel", "channel", "filter"] {
            let what = format!("{arch} {granularity}");
            let prune = ["prune", "m.safetensors", "-o", "p.safetensors", "--density", "0.4"];
            done(folder, &[&prune[..], &["--granularity", granularity]].concat());
            let json = ["shrink", "p.safetensors", "-o", "s.safetensors", "--json"];
            let json: serde_json::Value = serde_json::from_str(&done(folder, &json)).unwrap();
            let [before, after] = ["before", "after"].map(|k| json[k]["macs"].as_u64().unwrap());
            assert!(after <= before, "{what}");
            if matches!(granularity, "channel" | "filter") {
                assert!(after < before * 6 / 10, "{what}: {before} -> {after}");
            }
            let want = predicted(folder, "p.safetensors", &cpu);
            let want: Vec<f64> = want.into_iter().map(f64::from).collect();
            let got = predicted(folder, "s.safetensors", &cpu);
            let error = fixture::relative_error(&got, &want);
            assert!(error < 1e-5, "{what}: {error:e}");
        }
        let args = ["shrink", "p.safetensors", "-o", "s.safetensors"];
        done(folder, &args);
        let want = predicted(folder, "s.safetensors", &cpu);
        let want: Vec<f64> = want.into_iter().map(f64::from).collect();
        let got = predicted(folder, "s.safetensors", &["--device", "cuda-host"]);
        assert!(fixture::relative_error(&got, &want) < 1e-5, "{arch} on cuda-host");
    }
}
