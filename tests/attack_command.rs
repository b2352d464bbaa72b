//! `rewire attack`: what is refused, what is warned of, and what is saved.

use crate::fixture;
use rewire::io::save_model;
use rewire::{Device, Tensor, npy};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

/// The small network under attack in `folder`, with its images; the data set's name.
fn network(folder: &Path, factor: f32) -> String {
    let mut model = fixture::attack_net("attack_net", &Device::Cpu);
    for name in ["fc.weight", "fc.bias"] {
        let tensor = model.param_mut(name).unwrap();
        let values: Vec<f32> = tensor.to_vec().unwrap();
        let values: Vec<f32> = values.into_iter().map(|v| factor * v).collect();
        *tensor = Tensor::from_vec(values, tensor.shape(), &Device::Cpu).unwrap();
    }
    save_model(&folder.join("net.safetensors"), &model).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in ["images", "labels"] {
        let from = fixtures.join(format!("attack_{name}.npy"));
        std::fs::copy(from, folder.join(format!("test_{name}.npy"))).unwrap();
    }
    format!("npy:{}", folder.display())
}

fn attack(folder: &Path, data: &str, more: &[&str]) -> Output {
    let mut command = fixture::program(folder);
    command.args(["attack", "net.safetensors", "--data", data, "--device", "cpu"]);
    command.args(more).output().unwrap()
}

fn json(folder: &Path, data: &str, more: &[&str]) -> Value {
    let output = attack(folder, data, &[more, &["--json"]].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{more:?}: {error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn flags_without_effect_are_refused_with_the_attacks_that_read_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = network(folder, 1.0);
    for (args, words) in [
        (&["--steps", "0"][..], &["steps = 0"][..]),
        (&["--attack", "autoattack", "--steps", "0"], &["steps = 0"]),
        (&["--sweep", "steps=0,5"], &["steps = 0"]),
        (&["--step-size", "0"], &["step_size = 0"]),
        (&["--relative-step-size", "0"], &["relative_step_size = 0"]),
        (&["--source", "net.safetensors"], &["--source", "transfer"]),
        (&["--at-eps", "0.1"], &["--at-eps", "cw-l2, bb-l0"]),
        (&["--attack", "autoattack", "--at-eps", "0.1"], &["--at-eps", "cw-l2"]),
        (&["--attack", "fgsm", "--steps", "7"], &["--steps", "fgsm", "pgd"]),
        (&["--attack", "fgsm", "--restarts", "7"], &["--restarts", "apgd-ce"]),
        (&["--attack", "fgsm", "--random-start", "true"], &["--random-start", "fgsm-rs"]),
        (&["--attack", "apgd-ce,square", "--step-size", "0.1"], &["--step-size", "pgd"]),
        (&["--attack", "fab-t", "--target", "next"], &["--target", "fgsm"]),
        (&["--attack", "fgsm", "--early-stop"], &["--early-stop", "eot-pgd"]),
        (&["--early-stop", "--weight-noise", "0.1"], &["--early-stop", "--weight-noise"]),
        (&["--eot-samples", "3", "--weight-noise", "0.1"], &["--eot-samples", "eot-pgd"]),
        (&["--attack", "eot-pgd", "--eot-samples", "3"], &["--weight-noise"]),
        (&["--binary-search-steps", "3"], &["--binary-search-steps", "cw-l2, zoo"]),
        (&["--faithful"], &["--faithful", "cw-l2, bb-l0"]),
        (&["--attack", "cw-l2", "--decay-interval", "3"], &["--decay-interval", "bb-l0"]),
        (&["--attack", "fgsm", "--sweep", "steps=1,2"], &["--sweep", "fgsm", "pgd"]),
        (&["--eps", "0.1", "--sweep", "eps=0.1,0.2"], &["--eps", "--sweep eps"]),
        (&["--restarts", "3", "--random-start", "false"], &["restarts = 3", "random_start"]),
    ] {
        let output = attack(folder, &data, args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(output.stdout.is_empty() && error.trim_end().lines().count() == 1, "{error}");
        for word in words {
            assert!(error.contains(word), "{args:?}: {word} in {error}");
        }
    }
    // A flag that one attack of the list reads is that attack's.
    let few = ["--limit", "4", "--attack", "fgsm,pgd,apgd-ce", "--steps", "3"];
    let rows = json(folder, &data, &[&few[..], &["--step-size", "0.01"]].concat());
    let steps: Vec<_> = (0..3).map(|i| rows["attacks"][i]["steps"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 3, 3]);
    assert_eq!(rows["attacks"][0]["step_size"], rows["attacks"][0]["eps"]);
    assert!(rows["attacks"][2].get("step_size").is_none());
}

#[test]
fn recipes_with_an_attack_that_does_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (set, word) in [
        ("train.adversary={attack='pgd', steps=0}", "steps = 0"),
        ("train.adversary={attack='pgd', step_size=0}", "step_size = 0"),
        ("train.adversary={attack='fgsm', steps=7}", "absent for fgsm"),
        ("train.adversary={attack='pgd', eot_samples=7}", "only eot-pgd"),
        ("train.adversary={attack='pgd', early_stop=true}", "early_stop"),
        ("eval=[{attack='pgd', steps=0}]", "steps = 0"),
        ("eval=[{attack='apgd-ce', step_size=0.1}]", "absent for apgd-ce"),
        ("eval=[{attack='autoattack', target='next'}]", "absent for autoattack"),
    ] {
        let args = ["train", "small-clean", "--device", "cpu", "--out", "run", "--set", set];
        let output = fixture::program(folder).args(args).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{set}: {error}");
        assert!(error.contains(word), "{set}: {error}");
        assert!(!folder.join("run").exists(), "{set}");
    }
}

#[test]
fn vanished_gradients_are_counted_and_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let run = |data: &str, names: &str, more: &[&str]| {
        json(folder, data, &[&["--limit", "32", "--steps", "5", "--attack", names], more].concat())
    };
    let warnings = |result: &Value| -> Vec<String> {
        let lines = result["warnings"].as_array().unwrap();
        lines.iter().map(|line| line.as_str().unwrap().to_owned()).collect()
    };
    let about = |result: &Value, name: &str| {
        let lines = warnings(result);
        lines.into_iter().find(|line| line.starts_with(&format!("{name}: for ")))
    };
    let names = "pgd,fgsm,fgsm-rs,pgd-l2,apgd-ce,apgd-t,square,cw-l2";
    let plain = run(&network(folder, 1.0), names, &["--eps", "0.1"]);
    assert!(warnings(&plain).iter().all(|line| !line.contains("gradient")), "{plain}");
    let data = network(folder, 1000.0);
    let result = run(&data, names, &["--eps", "0.1", "--out", "o"]);
    assert_eq!(result["clean"], plain["clean"]);
    let attacked = (result["clean"].as_f64().unwrap() * 0.32).round();
    for name in ["pgd", "fgsm", "fgsm-rs", "pgd-l2"] {
        let line = about(&result, name).expect(name);
        assert!(line.contains(&format!(" of {attacked} attacked images")), "{line}");
        assert!(line.contains("apgd-t") && line.contains("square"), "{line}");
    }
    // Losses on logits do not saturate.
    for name in ["apgd-t", "cw-l2", "square"] {
        assert_eq!(about(&result, name), None);
    }
    // What is counted are the images that cannot move: without random starts they stay where they are.
    let still = ["--random-start", "false", "--save-adversarial", "a"];
    let result = run(&data, "pgd", &still);
    let line = about(&result, "pgd").unwrap();
    let counted: usize = line.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!(counted > 10, "{line}");
    let found = npy::read(&folder.join("a/success.npy")).unwrap().into_u8().unwrap();
    let fallen = found.iter().filter(|&&found| found == 1).count();
    assert!(fallen + counted <= attacked as usize, "{fallen} fell, {line}");
    // A run that goes on from its folder knows of the batches before.
    std::fs::remove_file(folder.join("o/result.json")).unwrap();
    let again = run(&data, names, &["--eps", "0.1", "--out", "o"]);
    assert_eq!(about(&again, "pgd-l2"), about(&again, "pgd-l2"));
    assert!(about(&again, "pgd").is_some());
}

#[test]
fn the_worst_case_lies_inside_eps_and_the_nearest_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = network(folder, 1.0);
    let images = npy::read(&folder.join("test_images.npy")).unwrap();
    let pixels: Vec<f32> =
        images.into_u8().unwrap().into_iter().map(|v| f32::from(v) / 255.0).collect();
    let far = |twins: &[f32], i: usize| {
        let differences = twins[i * 196..][..196].iter().zip(&pixels[i * 196..][..196]);
        let differences: Vec<f32> = differences.map(|(a, b)| (a - b).abs()).collect();
        let l2 = differences.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>().sqrt();
        (differences.iter().copied().fold(0.0, f32::max), l2)
    };
    let read = |name: &str| npy::read(&folder.join("a").join(name)).unwrap().to_f32();
    let few = ["--limit", "24", "--steps", "20", "--eps", "4/255", "--save-adversarial", "a"];
    let n = 24;
    let names = "pgd,cw-l2";
    let mixed = [&few[..], &["--attack", names, "--batch-size", "10"]].concat();
    let whole = json(folder, &data, &[&mixed[..], &["--out", "o"]].concat());
    let found = npy::read(&folder.join("a/success.npy")).unwrap().into_u8().unwrap();
    let (twins, distance) = (read("adversarial.npy").unwrap(), read("distance.npy").unwrap());
    let (nearest, nearest_distance) =
        (read("nearest.npy").unwrap(), read("nearest_distance.npy").unwrap());
    let fallen = found.iter().filter(|&&found| found == 1).count() as f64;
    let share = |key: &str| whole[key].as_f64().unwrap();
    assert!((share("clean") - share("worst") - 100.0 * fallen / n as f64).abs() < 1e-9);
    assert!(fallen > 0.0 && fallen < n as f64);
    let mut outside = 0;
    for i in 0..n {
        // Inside eps in L∞, or in L2 where cw-l2 found it; else the image itself.
        let (linf, l2) = far(&twins, i);
        assert!(f64::from(linf).min(l2) <= 4.01 / 255.0, "{i}: {linf} {l2}");
        assert_eq!(linf > 0.0, found[i] == 1);
        assert_eq!(distance[i] > 0.0, found[i] == 1);
        // The nearest is cw-l2's.
        let (_, l2) = far(&nearest, i);
        assert!(
            (l2 - f64::from(nearest_distance[i])).abs() < 1e-5
                || nearest_distance[i] == f32::INFINITY
        );
        outside += usize::from(l2 > 4.0 / 255.0);
    }
    assert!(outside > 5, "{outside}");
    // Batches that were kept in a folder hold the same.
    std::fs::remove_file(folder.join("o/result.json")).unwrap();
    std::fs::remove_dir_all(folder.join("a")).unwrap();
    json(folder, &data, &[&mixed[..], &["--out", "o"]].concat());
    assert_eq!(read("nearest.npy").unwrap(), nearest);
    assert_eq!(read("nearest_distance.npy").unwrap(), nearest_distance);
    assert_eq!(read("adversarial.npy").unwrap(), twins);
    // Attacks that all search the nearest store it as the example, wherever it is.
    json(folder, &data, &[&few[..], &["--attack", "cw-l2"]].concat());
    assert_eq!(read("adversarial.npy").unwrap(), nearest);
    assert!(!folder.join("a/nearest.npy").exists());
    let found = npy::read(&folder.join("a/success.npy")).unwrap().into_u8().unwrap();
    assert!((0..n).all(|i| (found[i] == 1) == (far(&nearest, i).1 > 0.0)));
}
