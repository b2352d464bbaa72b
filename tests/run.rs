//! Runs: folders, resume after a kill, Ctrl-C, bad input.

use crate::fixture::{self, done, refused};
use rewire::run::{Progress, Recipe, RunFolder, RunResult, Session, recipes::RECIPES};
use rewire::{Device, ErrorKind};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const RECIPE: &str = r#"
schema = 1
name = "small"
seed = 5
data = { set = "synthetic:classes=4,size=32,channels=1,train=40,test=16", augment = ["pad-crop-4", "flip"] }
model = { arch = "vgg16:width=0.0625" }
[train]
epochs = 4
batch_size = 8
warmup_epochs = 1
optimizer = { lr = 0.02 }
schedule = { kind = "cosine" }
adversary = { attack = "pgd", eps = "8/255", steps = 2, step_size = 0.02 }
[prune]
method = "dnr"
density = 0.2
rho = 1e-4
[[eval]]
attack = "fgsm"
[[eval]]
attack = "pgd"
# A step size of 17 digits: the identity of an unfinished evaluation is read back to the bit.
steps = 7
restarts = 2
"#;

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = fixture::program(folder);
    command.args(args).args(["--device", "cpu"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("small.toml"), RECIPE).unwrap();
    folder
}

/// The files of a run whose bytes must not depend on how often it was resumed.
fn content_names() -> [&'static str; 9] {
    [
        "recipe.toml",
        "events.jsonl",
        "steps.csv",
        "epochs.csv",
        "events.out.tfevents.rewire",
        "samples.json",
        "checkpoints/last.safetensors",
        "checkpoints/best.safetensors",
        "checkpoints/state.safetensors",
    ]
}

fn content(run: &Path) -> BTreeMap<&'static str, Vec<u8>> {
    content_names().into_iter().map(|name| (name, fs::read(run.join(name)).unwrap())).collect()
}

fn assert_same_run(a: &Path, b: &Path) {
    for ((name, a), b) in content(a).iter().zip(content(b).values()) {
        assert!(a == b, "{name} differs");
    }
    let result = |run: &Path| {
        let text = fs::read_to_string(run.join("result.json")).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json["seconds"] = 0.into();
        json
    };
    assert_eq!(result(a), result(b));
}

#[test]
fn a_run_killed_at_any_moment_ends_with_the_same_bits() {
    let folder = folder();
    let folder = folder.path();
    done(folder, &["train", "small.toml", "--out", "whole"]);
    let lines = |run: &str| fs::read_to_string(folder.join(run)).unwrap().lines().count();
    assert_eq!((lines("whole/steps.csv"), lines("whole/epochs.csv")), (21, 5));
    // Kills at growing distances, from before the first file to the last measurement.
    let mut child = command(folder, &["train", "small.toml", "--out", "killed"]).spawn().unwrap();
    let mut kills = 0;
    for pause in (0..).map(|k| 20 + 35 * (k % 12)) {
        std::thread::sleep(Duration::from_millis(pause));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if status.success() {
            break;
        }
        kills += 1;
        let args: &[&str] = match folder.join("killed/recipe.toml").exists() {
            true => &["train", "--resume", "killed", "--threads", "1"],
            false => &["train", "small.toml", "--out", "killed"],
        };
        if kills > 14 {
            done(folder, args);
            break;
        }
        child = command(folder, args).spawn().unwrap();
    }
    assert!(kills > 0);
    assert_same_run(&folder.join("whole"), &folder.join("killed"));
    // A finished run: nothing to do.
    let before = content(&folder.join("killed"));
    assert!(done(folder, &["train", "--resume", "killed"]).contains("finished"));
    assert_eq!(content(&folder.join("killed")), before);
}

#[test]
fn logs_that_ran_ahead_of_the_checkpoint_are_cut_back() {
    let folder = folder();
    let folder = folder.path();
    done(folder, &["train", "small.toml", "--out", "whole"]);
    // As after a kill between two checkpoints, with a torn last line.
    let stopped = folder.join("stopped");
    fs::create_dir_all(stopped.join("checkpoints")).unwrap();
    let logs = ["events.jsonl", "steps.csv", "epochs.csv", "events.out.tfevents.rewire"];
    for name in ["recipe.toml", "environment.json"].iter().chain(&logs) {
        fs::copy(folder.join("whole").join(name), stopped.join(name)).unwrap();
    }
    let scalars = fs::read(stopped.join(logs[3])).unwrap();
    fs::write(stopped.join(logs[3]), &scalars[..scalars.len() / 2 + 1]).unwrap();
    let steps = fs::read_to_string(stopped.join("steps.csv")).unwrap();
    fs::write(stopped.join("steps.csv"), &steps[..steps.len() / 2]).unwrap();
    done(folder, &["train", "--resume", "stopped"]);
    assert_same_run(&folder.join("whole"), &stopped);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_at_a_point_where_the_run_goes_on() {
    let folder = folder();
    let folder = folder.path();
    done(folder, &["train", "small.toml", "--out", "whole"]);
    let mut child = command(folder, &["train", "small.toml", "--out", "run"]).spawn().unwrap();
    let started = || {
        let steps = fs::read_to_string(folder.join("run/steps.csv"));
        steps.is_ok_and(|steps| steps.lines().count() > 2)
    };
    while !started() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it was stopped");
        std::thread::sleep(Duration::from_millis(5));
    }
    let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signal.success());
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(error.contains("train --resume run"), "{error}");
    done(folder, &["train", "--resume", "run"]);
    assert_same_run(&folder.join("whole"), &folder.join("run"));
}

/// Runs a session; also how many images were done when measuring first told of it.
fn measured(session: Session, stop: &AtomicBool) -> (rewire::Result<RunResult>, Option<usize>) {
    let mut first = None;
    let result = session.run(stop, &mut |progress| {
        if let Progress::Measuring { done, .. } = progress {
            first.get_or_insert(done);
        }
    });
    (result, first)
}

#[test]
fn an_evaluation_goes_on_behind_its_last_batch() {
    let folder = folder();
    let folder = folder.path();
    let recipe = Recipe::parse(Path::new("r"), RECIPE, &["train.epochs=1".into()]).unwrap();
    let start = |dir: &Path| Session::start(dir, recipe.clone(), false, &Device::Cpu).unwrap();
    let resume = |dir: &Path| Session::resume(dir, None).unwrap().unwrap();
    let never = AtomicBool::new(false);
    let whole = folder.join("whole");
    let (result, first) = measured(start(&whole), &never);
    assert!(result.is_ok() && first.unwrap() <= 8);
    // Stopped in the first of two batches of eight.
    let stopped = |name: &str| {
        let (dir, stop) = (folder.join(name), AtomicBool::new(false));
        let error = start(&dir).run(&stop, &mut |progress| {
            let measuring = matches!(progress, Progress::Measuring { .. });
            stop.store(measuring, Ordering::Relaxed);
        });
        assert!(matches!(error.unwrap_err().kind(), ErrorKind::Interrupted(_)));
        let evaluation = dir.join("checkpoints/evaluation");
        let parts = fs::read_dir(evaluation.join("parts")).unwrap();
        let parts: Vec<_> = parts.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(parts, ["0-0.json"]);
        (dir, evaluation)
    };
    let (run, evaluation) = stopped("run");
    let (result, first) = measured(resume(&run), &never);
    assert!(result.is_ok() && first.unwrap() > 8, "{first:?}");
    assert_same_run(&whole, &run);
    assert!(!evaluation.exists());

    // Batches of another job are not taken for this one's, whatever they say.
    let (run, evaluation) = stopped("foreign");
    let identity = fs::read_to_string(evaluation.join("attack.json")).unwrap();
    let other = identity.replace("\"restarts\": 2", "\"restarts\": 3");
    assert_ne!(identity, other);
    fs::write(evaluation.join("attack.json"), other).unwrap();
    fs::write(evaluation.join("parts/0-0.json"), "{}").unwrap();
    let (result, first) = measured(resume(&run), &never);
    assert!(result.is_ok() && first.unwrap() <= 8, "{first:?}");
    assert_same_run(&whole, &run);

    // A damaged batch is named; a new run in the folder leaves none behind.
    let (run, evaluation) = stopped("damaged");
    fs::write(evaluation.join("parts/0-0.json"), "{}").unwrap();
    let error = measured(resume(&run), &never).0.unwrap_err().to_string();
    assert!(error.contains("0-0.json"), "{error}");
    drop(RunFolder::create(&run, true).unwrap());
    assert!(!evaluation.exists());
}

#[test]
fn a_folder_that_holds_a_run_is_replaced_only_by_force() {
    let folder = folder();
    let folder = folder.path();
    let quick = ["train", "small.toml", "--out", "run", "--set", "train.max_steps=1"];
    let json: serde_json::Value =
        serde_json::from_str(&done(folder, &[&quick[..], &["--json"]].concat())).unwrap();
    assert!(json["density"].as_f64().unwrap() > 0.19 && json["accuracy"]["pgd"].is_number());
    fs::write(folder.join("run/notes.txt"), "mine").unwrap();
    let before = content(&folder.join("run"));
    assert!(refused(folder, &quick).contains("--force"));
    assert_eq!(content(&folder.join("run")), before);
    done(folder, &[&quick[..], &["--force", "--seed", "6"]].concat());
    assert_ne!(content(&folder.join("run")), before);
    assert_eq!(fs::read_to_string(folder.join("run/notes.txt")).unwrap(), "mine");
    let recipe = fs::read_to_string(folder.join("run/recipe.toml")).unwrap();
    assert!(recipe.contains("seed = 6") && recipe.contains("max_steps = 1"), "{recipe}");
}

#[test]
fn train_attack_and_prune_fit_together() {
    let folder = folder();
    let folder = folder.path();
    done(folder, &["train", "small.toml", "--out", "run", "--set", "train.epochs=2"]);
    let model = "run/checkpoints/best.safetensors";
    let data = "synthetic:classes=4,size=32,channels=1,train=40,test=16";
    let attack = ["attack", model, "--data", data, "--attack", "fgsm,pgd", "--json"];
    let run = |extra: &[&str]| -> serde_json::Value {
        serde_json::from_str(&done(folder, &[&attack[..], extra].concat())).unwrap()
    };
    let all = run(&["--eps", "16/255", "--save-adversarial", "twins"]);
    let limited = run(&["--eps", "0", "--limit", "5"]);
    assert_eq!((&all["images"], &limited["images"]), (&16.into(), &5.into()));
    assert_eq!(
        (&limited["worst"], &limited["attacks"][1]["accuracy"]),
        (&limited["clean"], &limited["clean"])
    );
    let array = |name: &str| rewire::npy::read(&folder.join("twins").join(name)).unwrap();
    assert_eq!(array("adversarial.npy").shape, [16, 1, 32, 32]);
    let success = array("success.npy").into_u8().unwrap();
    let fell = success.iter().filter(|&&s| s == 1).count() as f64;
    let (clean, worst) = (all["clean"].as_f64().unwrap(), all["worst"].as_f64().unwrap());
    assert!((100.0 * fell / 16.0 - (clean - worst)).abs() < 1e-9);
    let moved = array("distance.npy").to_f32().unwrap();
    assert!(moved.iter().zip(&success).all(|(&d, &s)| (s == 1) == (d > 0.0) && d <= 0.0628));

    // The noise that a run has learnt is read where the run has left it.
    let noisy = ["--set", "train.max_steps=1", "--set", "train.weight_noise=0.5"];
    done(folder, &[&["train", "small.toml", "--out", "noisy"][..], &noisy].concat());
    let state = "noisy/checkpoints/state.safetensors";
    assert_eq!(run(&["--weight-noise", state])["weight_noise"], state);

    for granularity in ["irregular", "kernel", "channel", "filter"] {
        for scope in ["layer", "global"] {
            let args = ["prune", model, "-o", "p.safetensors", "--density", "0.1"];
            let how = ["--granularity", granularity, "--scope", scope, "--json"];
            let json: serde_json::Value =
                serde_json::from_str(&done(folder, &[&args[..], &how].concat())).unwrap();
            let density = json["density"].as_f64().unwrap();
            assert!((0.05..0.2).contains(&density), "{granularity} {scope}: {density}");
            done(folder, &["eval", "p.safetensors", "--data", data]);
        }
    }
}

#[test]
fn bad_input_is_refused_in_one_line_and_leaves_nothing() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("broken.toml"), "schema = 1\nname = ").unwrap();
    fs::write(folder.join("binary.toml"), [0xff, 0xfe, 0x00]).unwrap();
    fs::write(folder.join("short.safetensors"), [1, 2, 3]).unwrap();
    let set = |assignment| vec!["train", "small.toml", "--out", "o", "--set", assignment];
    let deep = &*format!("{}a=1", "a.".repeat(60_000));
    let table: &[(Vec<&str>, &str)] = &[
        (vec!["train", "no-such-recipe", "--out", "o"], "no-such-recipe"),
        (vec!["train", "absent.toml", "--out", "o"], "absent.toml"),
        (vec!["train", "broken.toml", "--out", "o"], "broken.toml"),
        (vec!["train", "binary.toml", "--out", "o"], "binary.toml"),
        (vec!["train"], "RECIPE"),
        (vec!["train", "--resume", "absent"], "absent"),
        (vec!["train", "--resume", "."], "recipe.toml"),
        (vec!["train", "small.toml", "--out", "small.toml"], "--out"),
        (vec!["train", "small.toml", "--out", "o", "--data", "nothing"], "nothing"),
        (vec!["train", "small.toml", "--out", "o", "--data", "npy:/nowhere"], "/nowhere"),
        (vec!["train", "small.toml", "--out", "o", "--arch", "vgg99"], "vgg99"),
        (
            vec!["train", "small.toml", "--out", "o", "--init", "short.safetensors"],
            "short.safetensors",
        ),
        (vec!["train", "small.toml", "--out", "o", "--mode", "f64"], "f64"),
        (set("train.epoch=3"), "epoch"),
        (set("train.epochs=0"), "train.epochs"),
        (set("train.epochs=-1"), "epochs"),
        (set("train.epochs=many"), "epochs"),
        (set("train.epochs"), "--set"),
        (set("train.epochs=[1,"), "--set"),
        (set("name.x=1"), "--set"),
        // 60,000 tables, one in the other, overflowed the stack.
        (set(deep), "at most 16 parts"),
        (set("schema=2"), "schema"),
        (set("name='../x'"), "name"),
        (set("train.batch_size=0"), "train.batch_size"),
        (set("train.optimizer.lr=nan"), "train.optimizer.lr"),
        (set("train.optimizer.lr=-0.1"), "train.optimizer.lr"),
        (set("train.optimizer.kind=lion"), "lion"),
        (set("train.optimizer.momentum=1"), "momentum"),
        (set("train.schedule.kind=rising"), "rising"),
        (set("train.beta=1.5"), "train.beta"),
        (set("train.adversary.eps=nan"), "eps"),
        (set("train.adversary.eps=inf"), "eps"),
        (set("train.adversary.eps=-1/255"), "eps"),
        (set("train.adversary.attack=magic"), "magic"),
        (set("train.adversary.restarts=0"), "restarts"),
        (set("prune.density=0"), "prune.density"),
        (set("prune.density=nan"), "prune.density"),
        (set("prune.method=wishful"), "wishful"),
        (set("prune.granularity=filter"), "prune.granularity"),
        (set("prune.rho=inf"), "prune.rho"),
        (set("prune.nonsense=1"), "nonsense"),
        (set("data.set=synthetic:classes=0"), "classes"),
        (set("data.augment=['twirl']"), "twirl"),
        (set("data.train_limit=100"), "data.train_limit"),
        (set("model.arch=vgg16:width=0"), "width"),
        (set("model.normalize=cifar10"), "normalize"),
        (set("mode=f16"), "mode"),
        (vec!["attack", "absent.safetensors"], "absent.safetensors"),
        (vec!["attack", "short.safetensors", "--eps", "nan"], "--eps"),
        (vec!["attack", "short.safetensors", "--eps", "-8/255"], "--eps"),
        (vec!["attack", "short.safetensors", "--attack", "magic"], "magic"),
        (vec!["attack", "short.safetensors", "--restarts", "0"], "restarts"),
        (vec!["attack", "short.safetensors", "--step-size", "inf"], "--step-size"),
        (vec!["prune", "short.safetensors", "-o", "o", "--density", "0.5"], "short.safetensors"),
        (vec!["prune", "short.safetensors", "-o", "o", "--density", "0"], "--density"),
        (vec!["prune", "short.safetensors", "-o", "o", "--density", "nan"], "--density"),
        (
            vec!["prune", "short.safetensors", "-o", "o", "--density", "0.5", "--method", "dnr"],
            "--method",
        ),
        (
            vec!["prune", "short.safetensors", "-o", "o", "--density", "0.5", "--scope", "all"],
            "--scope",
        ),
    ];
    for (args, word) in table {
        let error = refused(folder, args);
        assert!(error.contains(word), "{args:?}: {error}");
        assert!(!folder.join("o").exists(), "{args:?} left something");
    }
}

#[test]
fn a_damaged_run_is_refused_by_the_name_of_its_file() {
    let folder = folder();
    let folder = folder.path();
    let out = ["train", "small.toml", "--out", "whole", "--set", "train.max_steps=2"];
    done(folder, &out);
    let run = folder.join("run");
    for (name, content) in [
        ("recipe.toml", &b"schema = 1"[..]),
        ("environment.json", b"{"),
        ("checkpoints/state.safetensors", b"short"),
    ] {
        let _ = fs::remove_dir_all(&run);
        fs::create_dir_all(run.join("checkpoints")).unwrap();
        for name in content_names().iter().filter(|name| **name != "samples.json") {
            fs::copy(folder.join("whole").join(name), run.join(name)).unwrap();
        }
        fs::copy(folder.join("whole/environment.json"), run.join("environment.json")).unwrap();
        fs::write(run.join(name), content).unwrap();
        let error = refused(folder, &["train", "--resume", "run"]);
        assert!(error.contains(name), "{name}: {error}");
    }
    // A state of another network.
    let other = ["train", "small.toml", "--out", "other", "--set", "train.max_steps=1"];
    done(folder, &[&other[..], &["--arch", "vgg16:width=0.125"]].concat());
    let state = "checkpoints/state.safetensors";
    fs::copy(folder.join("other").join(state), run.join(state)).unwrap();
    assert!(refused(folder, &["train", "--resume", "run"]).contains(state));
}

#[test]
fn the_table_of_recipe_keys_is_complete() {
    let docs = include_str!("../docs/recipes.md");
    let text = RECIPE.replace("[prune]", "execution = 'sparse'\nweight_noise = 0.1\n[prune]");
    let recipe = Recipe::parse(Path::new("small.toml"), &text, &[]).unwrap();
    let table: toml::Table = recipe.text().unwrap().parse().unwrap();
    // What stands as code: whole, and its words.
    let spans: BTreeSet<&str> = docs.split('`').skip(1).step_by(2).collect();
    let parts = |span: &'static str| span.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let words: BTreeSet<&str> = spans.iter().copied().flat_map(parts).collect();
    let mut named = Vec::new();
    for (key, value) in &table {
        match value {
            toml::Value::Table(inner) if key != "prune" => {
                for (name, value) in inner {
                    named
                        .push((format!("{key}.{name}"), spans.contains(&*format!("{key}.{name}"))));
                    let deeper = value.as_table().into_iter().flat_map(|table| table.keys());
                    named.extend(deeper.map(|name| (name.clone(), words.contains(&**name))));
                }
            }
            toml::Value::Table(inner) => {
                named.extend(inner.keys().map(|name| (name.clone(), words.contains(&**name))));
            }
            toml::Value::Array(tables) => {
                named.push((key.clone(), spans.contains(&*format!("[[{key}]]"))));
                let keys = tables.iter().filter_map(|table| table.as_table());
                let keys = keys.flat_map(|table| table.keys());
                named.extend(keys.map(|name| (name.clone(), spans.contains(&**name))));
            }
            _ => named.push((key.clone(), spans.contains(&**key))),
        }
    }
    let missing: Vec<_> = named.iter().filter(|(_, there)| !there).map(|(key, _)| key).collect();
    assert!(named.len() > 30 && missing.is_empty(), "docs/recipes.md does not name {missing:?}");
    for method in rewire::prune::METHODS {
        assert!(docs.contains(&format!("| `{}` |", method.name)), "{}", method.name);
    }
}

#[test]
fn embedded_recipes_parse_and_are_all_there() {
    let mut files: Vec<String> =
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes"))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
    let mut names: Vec<&str> = RECIPES.iter().map(|(name, _)| *name).collect();
    files.sort();
    names.sort();
    assert_eq!(names, files);
    for (name, text) in RECIPES {
        let recipe = Recipe::parse(Path::new(name), text, &[]).unwrap();
        assert_eq!(recipe.name, *name);
        let again = Recipe::parse(Path::new(name), &recipe.text().unwrap(), &[]).unwrap();
        assert_eq!(again, recipe);
        assert!(text.starts_with("# "), "{name} does not say what it is for");
    }
}
