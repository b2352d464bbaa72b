//! `--json`: one document on standard output, from every command, for results and for errors.

use crate::fixture;
use rewire::Device;
use rewire::io::save_model;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

const DATA: &str = "synthetic:classes=10,size=32,channels=3,train=4,test=4";

const RECIPE: &str = r#"
schema = 1
name = "tiny"
data = { set = "synthetic:classes=4,size=32,channels=1,train=8,test=4" }
model = { arch = "vgg16:width=0.0625" }
train = { epochs = 1, batch_size = 8 }
"#;

fn rewire(folder: &Path, line: &str) -> Output {
    let words = line.split_whitespace().map(|word| word.replace("DATA", DATA));
    fixture::program(folder).args(words).args(["--device", "cpu", "--json"]).output().unwrap()
}

/// The whole of standard output as one document.
#[track_caller]
fn document(line: &str, output: &Output, status: i32) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{line}: {error}");
    match serde_json::from_slice(&output.stdout) {
        Ok(json) => json,
        Err(e) => panic!("{line}: {e}: {:?}", String::from_utf8_lossy(&output.stdout)),
    }
}

/// A row a command: the line, the status, a key of the document (`/` at its start: a JSON pointer).
const LINES: [(&str, i32, &str); 45] = [
    ("train tiny.toml --out run", 0, "density"),
    ("train --resume run", 0, "run"),
    ("train tiny.toml --out run", 2, "error"),
    ("train tiny.toml --out o --set train.epochs=0", 2, "error"),
    ("train unmet.toml --out unmet", 1, "accuracy"),
    ("prune m.safetensors -o p.safetensors --density 0.5", 0, "layers"),
    ("prune m.safetensors -o p.safetensors --density 2", 2, "error"),
    ("eval m.safetensors --data DATA", 0, "top5"),
    ("eval absent.safetensors", 2, "error"),
    ("eval", 2, "error"),
    ("attack m.safetensors --data DATA --attack fgsm", 0, "worst"),
    ("attack m.safetensors --data DATA --eps nan", 2, "error"),
    ("predict m.safetensors --data DATA -o l.npy", 0, "classes"),
    ("predict m.safetensors --data DATA -o no/l.npy", 2, "error"),
    ("inspect m.safetensors", 0, "layers"),
    ("inspect tiny.toml", 2, "error"),
    // Its result takes minutes; `result.json`, which it also writes, is the same document.
    ("demo --out tiny.toml", 2, "error"),
    ("bench m.safetensors --batch 1 --seconds 0", 0, "rows"),
    ("bench m.safetensors --batch 1 --seconds 0 --train-step", 0, "steps"),
    ("bench m.safetensors --batch 1 --seconds 0 --train-step --attack-steps 2", 0, "attack_steps"),
    ("bench m.safetensors --attack-steps 2", 2, "error"),
    ("bench m.safetensors --train-step --attack-steps 0", 2, "error"),
    ("bench", 2, "error"),
    ("report run", 0, "files"),
    ("report absent", 2, "error"),
    ("export m.safetensors -o m.onnx", 0, "output"),
    ("export absent.safetensors -o a.onnx", 2, "error"),
    ("import m.onnx -o i.safetensors", 0, "output"),
    ("import m.safetensors -o i.safetensors", 2, "error"),
    ("shrink m.safetensors -o s.safetensors", 0, "after"),
    ("shrink m.safetensors -o .", 2, "error"),
    ("data list", 0, "/0/form"),
    ("data info DATA", 0, "shape"),
    ("data info nonsense", 2, "error"),
    ("data fetch mnist --mirror ftp://localhost --out tiny.toml", 2, "error"),
    ("list", 0, "recipes"),
    ("list models", 0, "models"),
    ("list colours", 2, "error"),
    ("doctor", 0, "kernels"),
    ("doctor --threads 0", 2, "error"),
    ("completions bash", 0, "script"),
    ("completions cmd", 2, "error"),
    ("man", 0, "text"),
    ("man --out pages", 0, "files"),
    ("nonsense", 2, "error"),
];

#[test]
fn every_command_prints_one_document() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = fixture::network_of("resnet18:width=0.0625", &Device::Cpu);
    save_model(&folder.join("m.safetensors"), &model).unwrap();
    std::fs::write(folder.join("tiny.toml"), RECIPE).unwrap();
    let unmet = "[[expect]]\nmetric = \"density\"\nvalue = 0.5\ntolerance = 0";
    std::fs::write(folder.join("unmet.toml"), format!("{RECIPE}\n{unmet}")).unwrap();
    for (line, status, key) in LINES {
        let output = rewire(folder, line);
        let json = document(line, &output, status);
        let pointer = if key.starts_with('/') { key.to_owned() } else { format!("/{key}") };
        assert!(json.pointer(&pointer).is_some(), "{line}: no {key} in {json}");
        if status == 2 {
            // The same words for people.
            let message = format!("error: {}", json["error"].as_str().unwrap());
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(error.lines().last(), Some(message.as_str()), "{line}");
            assert_eq!(json.as_object().unwrap().len(), 1, "{line}");
        }
    }
    // A command without a row here is a command that nobody looked at.
    let help = fixture::program(folder).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    // The commands stand in groups, before the options.
    let commands = help.lines().skip_while(|line| *line != "Train:");
    let commands = commands.take_while(|line| *line != "Options:").filter(|line| {
        // Descriptions go on further to the right.
        line.starts_with("  ") && !line.starts_with("   ")
    });
    let commands: BTreeSet<&str> =
        commands.filter_map(|line| line.split_whitespace().next()).collect();
    let tried = LINES.iter().filter_map(|(line, ..)| line.split_whitespace().next());
    let tried: BTreeSet<&str> = tried.chain(["help"]).collect();
    let missing: Vec<_> = commands.difference(&tried).collect();
    assert!(commands.len() > 10 && missing.is_empty(), "{missing:?} of {commands:?}");
}

#[test]
fn without_json_errors_leave_standard_output_empty() {
    let folder = tempfile::tempdir().unwrap();
    // After `--` it is an argument.
    for args in [&["eval", "absent"][..], &["inspect", "--", "--json"]] {
        let output = fixture::program(folder.path()).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn manual_pages_name_every_flag() {
    let folder = tempfile::tempdir().unwrap();
    let output = rewire(folder.path(), "man --out pages");
    let json = document("man --out pages", &output, 0);
    assert!(json["files"].as_array().unwrap().len() > 15);
    let page =
        |name: &str| std::fs::read_to_string(folder.path().join("pages").join(name)).unwrap();
    let main = page("rewire.1");
    assert!(main.contains(".TH rewire 1") && main.contains("rewire\\-train(1)"), "{main}");
    let train = page("rewire-train.1");
    for flag in ["resume", "force", "set", "json", "threads"] {
        assert!(train.contains(&format!("\\-\\-{flag}")), "{flag}");
    }
    assert!(page("rewire-data-fetch.1").contains("tiny\\-imagenet"));
    let again = rewire(folder.path(), "man");
    assert_eq!(document("man", &again, 0)["text"], main);
}
