//! The program as a person calls it: results, exit statuses, one line an error.

use crate::fixture::{self, done, refused};
use rewire::io::{Hints, load_model, save_model, save_tensors};
use rewire::{Device, Tensor, npy};
use std::path::Path;
use std::process::{Command, Stdio};

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
    for device in ["cpu", "cuda-host"] {
        let cache = folder.join(device);
        let predict = |file: &str, algorithm: &str| {
            let mut command = fixture::program(folder);
            let args = ["predict", "p.safetensors", "--data", DATA, "--device", device, "-o", file];
            let command = command.args(args).args(["--algorithm", algorithm]);
            let command = command.env("REWIRE_LAUNCH_LOG", cache.join(file));
            let command = command.env_remove("REWIRE_CACHE").env("XDG_CACHE_HOME", &cache);
            assert!(command.status().unwrap().success());
            npy::read(&folder.join(file)).unwrap().to_f32().unwrap()
        };
        // Whether a call ran the sparse kernels, if only to measure them.
        let tried = |file: &str| {
            let launched = std::fs::read_to_string(cache.join(file)).unwrap_or_default();
            launched.contains("infer_sparse_lists_f32")
        };
        std::fs::create_dir(&cache).unwrap();
        let first = predict("first.npy", "measured");
        let plans: Vec<_> = std::fs::read_dir(cache.join("rewire/plans")).unwrap().collect();
        let [Ok(plan)] = &plans[..] else { panic!("{plans:?}") };
        assert_eq!(predict("second.npy", "measured"), first);
        // What is remembered is what runs: dense where the file says so everywhere.
        let text = std::fs::read_to_string(plan.path()).unwrap().replace("lists", "dense");
        std::fs::write(plan.path(), text).unwrap();
        assert_eq!(predict("third.npy", "measured"), predict("dense.npy", "dense"));
        std::fs::write(plan.path(), "{").unwrap();
        predict("fourth.npy", "measured");
        let on_gpu = device == "cuda-host";
        assert_eq!(["first.npy", "third.npy", "fourth.npy"].map(tried), [on_gpu, false, on_gpu]);
    }
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
    let tpu = fixture::program(folder).args(["eval", "m.safetensors", "--device", "tpu"]).output();
    let tpu = tpu.unwrap();
    assert_eq!(tpu.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&tpu.stderr).contains("tpu"));
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
        let mut command = fixture::program(folder.path());
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.args(args).args(["--device", "cpu"]);
        let output = command.stdout(Stdio::from(writer)).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(output.stderr.is_empty(), "{args:?}");
    }
}

/// Logits that `rewire predict` writes for `model`.
fn predicted(folder: &Path, model: &str, device: &[&str]) -> Vec<f32> {
    let args = ["predict", model, "--data", DATA, "-o", "logits.npy"];
    let output = fixture::program(folder).args(args).args(device).output().unwrap();
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

/// The network, the images and the data set's name of `fixtures/make_attack_net.py`, in `folder`.
fn attack_files(folder: &Path) -> String {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for (from, to) in [
        ("attack_net.safetensors", "net.safetensors"),
        ("attack_net_adversarial.safetensors", "source.safetensors"),
        ("attack_images.npy", "test_images.npy"),
        ("attack_labels.npy", "test_labels.npy"),
    ] {
        std::fs::copy(fixtures.join(from), folder.join(to)).unwrap();
    }
    format!("npy:{}", folder.display())
}

#[test]
fn attack_prints_what_it_saves_and_report_draws_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = attack_files(folder);
    let attack = ["attack", "net.safetensors", "--data", &data, "--limit", "24"];
    let run = |more: &[&str]| done(folder, &[&attack[..], more].concat());
    let json = |more: &[&str]| -> serde_json::Value {
        serde_json::from_str(&run(&[more, &["--json"]].concat())).unwrap()
    };
    let names = "fgsm,fgsm-rs,pgd,eot-pgd,transfer";
    let steps = ["--steps", "3", "--seed", "5"];
    let many = ["--attack", names, "--source", "source.safetensors", "--save-adversarial", "a/b"];
    let result = json(&[&many[..], &steps].concat());
    assert_eq!((&result["seed"], &result["images"]), (&5.into(), &24.into()));
    let rows = result["attacks"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    for row in rows {
        assert_eq!(row["eps"], "8/255");
        assert_eq!(row["norm"], "L∞");
        assert!(row["steps"].is_u64() && row["restarts"] == 1 && row["random_start"].is_boolean());
        assert!(row["step_size"].is_number() || row["step_size"].is_string());
        assert!(row["accuracy"].as_f64().unwrap() >= result["worst"].as_f64().unwrap());
    }
    assert_eq!(rows[3]["eot_samples"], 10);
    // The files: images within eps, marked where one was found, exactly what is counted.
    let read = |name: &str| npy::read(&folder.join("a/b").join(name)).unwrap();
    let (twins, found) = (read("adversarial.npy"), read("success.npy").into_u8().unwrap());
    assert_eq!(twins.shape, [24, 1, 14, 14]);
    let distance = read("distance.npy").to_f32().unwrap();
    let stands = |i: usize| found[i] == 0;
    assert!((0..24).all(|i| (distance[i] == 0.0) == stands(i) && distance[i] <= 8.01 / 255.0));
    let fallen = found.iter().filter(|&&found| found == 1).count() as f64;
    let [clean, worst] = ["clean", "worst"].map(|key| result[key].as_f64().unwrap());
    assert!((clean - worst - fallen / 24.0 * 100.0).abs() < 1e-9);
    // A sweep is several runs with the same random numbers.
    let sweep = json(&["--attack", "pgd,fgsm", "--sweep", "eps=0,4/255,0.5", "--steps", "5"]);
    assert_eq!(sweep["sweep"]["key"], "eps");
    assert_eq!(sweep["attacks"].as_array().unwrap().len(), 6);
    assert_eq!(sweep["sweep"]["worst"][0], sweep["clean"]);
    let one = json(&["--eps", "4/255", "--steps", "5"]);
    assert_eq!(one["attacks"][0], sweep["attacks"][2]);
    let table = run(&["--sweep", "restarts=1,2", "--steps", "2"]);
    assert!(table.lines().any(|line| line.trim_start().starts_with("restarts")), "{table}");
    std::fs::write(folder.join("sweep.json"), sweep.to_string()).unwrap();
    done(folder, &["report", "sweep.json", "--out", "drawn"]);
    let page = std::fs::read_to_string(folder.join("drawn/report.html")).unwrap();
    assert!(page.contains("Accuracy against eps") && page.contains("worst case"));
    // Noise, targets, radii of other norms.
    let noisy = json(&["--attack", "pgd", "--weight-noise", "0.3", "--steps", "2"]);
    assert_eq!(noisy["weight_noise"], "0.3");
    assert_ne!(noisy["clean"], result["clean"]);
    // The same α for every convolution, from a file as training leaves it.
    let file = |names: &[&str]| {
        let alpha = || Tensor::from_vec(vec![0.3f32], &[1], &Device::Cpu).unwrap();
        let alphas = names.iter().map(|name| (format!("noise/alpha/{name}"), alpha()));
        save_tensors(&folder.join("alphas.safetensors"), &alphas.collect(), "{}").unwrap();
        ["--attack", "pgd", "--weight-noise", "alphas.safetensors", "--steps", "2"]
    };
    let net = load_model(&folder.join("net.safetensors"), &Hints::default(), &Device::Cpu).unwrap();
    let convolutions = net.prunable();
    let names: Vec<&str> = convolutions.iter().map(String::as_str).collect();
    let learnt = json(&file(&names));
    assert_eq!(learnt["weight_noise"], "alphas.safetensors");
    assert_eq!((&learnt["clean"], &learnt["attacks"]), (&noisy["clean"], &noisy["attacks"]));
    assert_ne!(json(&file(&names[1..]))["clean"], noisy["clean"]);
    let message = refused(folder, &[&attack[..], &file(&["conv9.weight"])].concat());
    assert!(message.contains("conv9.weight"), "{message}");
    let l2 = json(&["--attack", "pgd-l2", "--eps", "2", "--target", "least-likely"]);
    assert_eq!((&l2["attacks"][0]["eps"], &l2["attacks"][0]["norm"]), (&2.0.into(), &"L2".into()));
    assert_eq!(l2["attacks"][0]["target"], "least-likely");
    let list = done(folder, &["list", "attacks"]);
    assert!(list.contains("L2") && list.contains("transfer"), "{list}");
}

#[test]
fn attacks_go_on_from_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = attack_files(folder);
    let attack =
        ["attack", "net.safetensors", "--data", &data, "--batch-size", "10", "--limit", "32"];
    let how = ["--attack", "pgd,pgd-l2", "--eps", "0.03", "--steps", "2", "--restarts", "2"];
    let all = [&attack[..], &how, &["--save-adversarial", "twins", "--out", "o"]].concat();
    let first = done(folder, &all);
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let files = ["o/result.json", "twins/adversarial.npy", "twins/distance.npy"];
    let want = files.map(read);
    // A kill after the second of four batches leaves this.
    for name in ["o/result.json", "o/parts/0-20.json", "o/parts/0-30.json", "o/parts/0-30.npy"] {
        std::fs::remove_file(folder.join(name)).unwrap();
    }
    let kept = std::fs::metadata(folder.join("o/parts/0-10.json")).unwrap().modified().unwrap();
    assert_eq!(done(folder, &all), first);
    assert_eq!(files.map(read), want);
    let now = std::fs::metadata(folder.join("o/parts/0-10.json")).unwrap().modified().unwrap();
    assert_eq!(now, kept);
    // Other settings are refused, and replace it by force alone.
    let other = [&all[..], &["--seed", "2"]].concat();
    assert!(refused(folder, &other).contains("--force"));
    assert_eq!(read("o/result.json"), want[0]);
    done(folder, &[&other[..], &["--force"]].concat());
    assert_ne!(read("o/result.json"), want[0]);
    done(folder, &["report", "o", "--out", "drawn"]);
    assert!(std::fs::read_to_string(folder.join("drawn/report.md")).unwrap().contains("pgd-l2"));
    // A part of fewer images than its batch has, too: the next would be looked for behind the missing ones.
    let text = String::from_utf8(read("o/parts/0-10.json")).unwrap();
    let mut part: serde_json::Value = serde_json::from_str(&text).unwrap();
    for value in part.as_object_mut().unwrap().values_mut() {
        shorten(value, 10);
    }
    std::fs::write(folder.join("o/parts/0-10.json"), part.to_string()).unwrap();
    assert!(refused(folder, &other).contains("0-10.json"));
    // A damaged part is named.
    std::fs::write(folder.join("o/parts/0-10.json"), "{}").unwrap();
    assert!(refused(folder, &other).contains("0-10.json"));
}

/// Cuts whatever has `len` characters or elements to one.
fn shorten(value: &mut serde_json::Value, len: usize) {
    match value {
        serde_json::Value::String(text) => text.truncate(1),
        serde_json::Value::Array(items) if items.len() == len => items.truncate(1),
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| shorten(item, len)),
        _ => {}
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_attack_says_so_in_its_document() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = attack_files(folder);
    let attack = ["attack", "net.safetensors", "--data", &data, "--batch-size", "4", "--json"];
    let mut child = fixture::program(folder)
        .args(attack)
        .args(["--steps", "300", "--out", "o", "--device", "cpu"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !folder.join("o/parts/0-0.json").exists() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it was interrupted");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signal.success());
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(error.contains("go on with the same command"), "{error}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(document["error"].as_str().unwrap().contains("interrupted"), "{document}");
}

#[test]
fn bad_attacks_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let data = attack_files(folder);
    model(folder);
    std::fs::create_dir(folder.join("run")).unwrap();
    std::fs::write(folder.join("run/recipe.toml"), "").unwrap();
    let attack = ["attack", "net.safetensors", "--data", &data];
    for (args, word) in [
        (&["--attack", "hypnosis"][..], "hypnosis"),
        (&["--eps", "1.5"], "eps"),
        (&["--eps", "-1/255"], "--eps"),
        (&["--eps", "nan"], "--eps"),
        (&["--attack", "pgd-l2", "--eps", "inf"], "--eps"),
        (&["--relative-step-size", "-1"], "relative_step_size"),
        (&["--restarts", "0"], "restarts"),
        (&["--target", "best"], "--target"),
        (&["--target", "10"], "target"),
        (&["--attack", "transfer"], "--source"),
        (&["--attack", "transfer", "--source", "absent.safetensors"], "absent.safetensors"),
        (&["--attack", "transfer", "--source", "m.safetensors"], "3×32×32"),
        (&["--weight-noise=-1"], "--weight-noise"),
        (&["--weight-noise", "net.safetensors"], "net.safetensors"),
        (&["--sweep", "eps"], "--sweep"),
        (&["--sweep", "colour=1"], "--sweep"),
        (&["--sweep", "steps=1.5"], "--sweep"),
        (&["--sweep", "eps=2"], "eps"),
        (&["--at-eps", "x"], "--at-eps"),
        (&["--out", "run"], "run"),
        (&["--out", "net.safetensors"], "--out"),
        (&["--force"], "--out"),
        (&["--random-start", "maybe"], "--random-start"),
    ] {
        let message = refused(folder, &[&attack[..], args].concat());
        assert!(message.contains(word), "{args:?}: {message}");
    }
}

#[test]
fn a_training_step_may_begin_with_an_attack_and_keep_masks() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(folder);
    let step = ["bench", "m.safetensors", "--batch", "1,2", "--seconds", "0", "--train-step"];
    let plain = done(folder, &step);
    assert!(plain.lines().count() == 2 && plain.lines().all(|line| line.ends_with(" ms a step")));
    let attack = ["--attack-steps", "3"];
    let attacked = done(folder, &[&step[..], &attack].concat());
    assert!(attacked.lines().all(|line| line.ends_with(" ms a step with PGD-3")), "{attacked}");
    let pruned = ["--density", "0.1", "--granularity", "irregular", "--json"];
    let json = done(folder, &[&step[..], &attack, &pruned].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let density = json["density"].as_f64().unwrap();
    assert!(json["attack_steps"] == 3 && (0.09..0.11).contains(&density), "{json}");
    let times = json["steps"].as_array().unwrap().iter();
    assert!(times.map(|step| step["median_ms"].as_f64().unwrap()).all(|ms| ms > 0.0), "{json}");
}

#[test]
fn report_draws_kernels_and_training_steps_beside_their_peers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // As benches/peers/kernels.py and train_step.py write them; the figures are made up.
    let kernels = r#"{"date": "2026-01-02", "commit": "0123456789abcdef", "gpu": "Made-up GPU, 580.0", "torch": "2.11.0",
        "what": "Kernels", "unit": "us", "clocks": {"before": "1980", "after": "1980"}, "rows": [
        {"row": "conv/c4/bf16/1024", "time": 100.0, "hot": 90.0, "spread": 0.02, "noise": 0.004, "floor": 80.0, "error": 0.003,
         "peers": {"cudnn": {"time": 125.0, "hot": 120.0, "ratio": 1.25, "spread": 0.03, "error": 0.003}}},
        {"row": "sparse/c4/keep5/bf16/1024", "time": 50.0, "spread": 0.01, "noise": 0.002, "error": 0.003,
         "peers": {"cusparse": {"time": 900.0, "ratio": 18.0, "spread": 0.01}, "cudnn": {"time": 60.0, "ratio": 1.2, "spread": 0}},
         "left_out": {"cusparselt": "not in this PyTorch"}}]}"#;
    let training = r#"{"date": "2026-01-02", "commit": "", "gpu": "Made-up GPU, 580.0", "torch": "2.11.0", "what": "Training steps",
        "unit": "ms", "rows": [{"row": "vgg16 pgd-7 bf16 @128", "time": 4.0, "spread": 0.1, "noise": 0.0, "floor": null,
        "peers": {"pytorch graph": {"time": 5.0, "ratio": 1.25, "spread": 0.2}}}]}"#;
    let networks = r#"{"date": "2026-01-02", "commit": "", "device": "cuda", "mode": "bf16", "threads": 2, "cpu": "", "gpu": "Made-up GPU",
        "cases": [{"case": "vgg16 dense", "batch": 128, "median_ms": {"rewire fastest": 0.2, "pytorch": 0.3},
        "ratio_of_rewire_fastest": {"pytorch": 1.5}, "spread": 0.01, "figures":
        {"projected": 1.0, "mac_ratio": 1.0, "measured_compact": 1.0, "measured_sparse": 0.2}},
        {"case": "vgg16 channels", "batch": 128, "median_ms": {"rewire fastest": 0.04, "pytorch": 0.1},
        "ratio_of_rewire_fastest": {"pytorch": 2.5}, "spread": 0.02, "fastest_dense": {"side": "rewire fastest", "ms": 0.2, "ratio": 5.0},
        "figures": {"projected": 3.5, "mac_ratio": 12.5, "measured_compact": 7.5, "measured_sparse": 1.25}}]}"#;
    std::fs::write(folder.join("networks.json"), networks).unwrap();
    std::fs::write(folder.join("kernels.json"), kernels).unwrap();
    std::fs::write(folder.join("training.json"), training).unwrap();
    std::fs::write(folder.join("other.json"), "{\"rows\": []}").unwrap();
    let files = ["kernels.json", "training.json", "networks.json"];
    done(folder, &[&["report"][..], &files, &["--out", "drawn"]].concat());
    let page = std::fs::read_to_string(folder.join("drawn/report.html")).unwrap();
    let text = std::fs::read_to_string(folder.join("drawn/report.md")).unwrap();
    for line in [
        "### Kernels: Made-up GPU, 580.0, PyTorch 2.11.0, 2026-01-02, commit 0123456789ab",
        "| conv/c4/bf16/1024 | 100.00 | 2.0 % | 0.4 % | 80.0 % | cudnn | 125.00 | 1.25× | 3.0 % |",
        "| sparse/c4/keep5/bf16/1024 | 50.00 | 1.0 % | 0.2 % | – | cusparselt: not in this PyTorch | – | – | – |",
        "| vgg16 dense | 128 | 0.200 | 1 % | 1.50× (0.300) |",
        "| vgg16 channels | 128 | 0.040 | 2 % | 2.50× (0.100) |",
        "| vgg16 channels | 128 | 5.00× (rewire fastest) | 3.50× | 12.50× | 7.50× | 1.25× |",
        "| vgg16 pgd-7 bf16 @128 | 4.00 | 10.0 % | 0.0 % | – | pytorch graph | 5.00 | 1.25× | 20.0 % |",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("| vgg16 dense | 128 | –"), "{text}");
    // The bar is that of the fastest peer: the page holds the charts as JSON.
    assert!(page.contains("<svg") && page.contains(r#""values":[1.25,1.2]"#), "{page}");
    let error = refused(folder, &["report", "other.json", "--out", "drawn"]);
    assert!(error.contains("is JSON of no known kind; expected"), "{error}");
}
