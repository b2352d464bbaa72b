//! Files and flags that ask for more than a machine has: memory, nodes, threads, a cache that is no file.

use crate::fixture;
use rewire::infer::{Algorithm, Choice, Plan, reference};
use rewire::io::save_model;
use rewire::nn::{ArchSpec, Graph, Model, Node, Op, Weights};
use rewire::{DType, Device, Mode, Tape, Tensor};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

const CPU: Device = Device::Cpu;

fn node(inputs: &[usize], op: Op) -> Node {
    Node { inputs: inputs.to_vec(), op }
}

/// One channel of 8 × 8 pixels, padded by `padding` pixels on each side and multiplied by two filters of one weight.
fn padded(padding: usize) -> Model {
    let conv = |name: &str| Op::Conv {
        bias: false,
        channels: None,
        name: name.into(),
        padding,
        stride: 1,
    };
    let nodes = vec![
        node(&[], Op::Input),
        node(&[0], conv("wide")),
        node(&[1], Op::GlobalAvgPool),
        node(&[2], Op::Linear { bias: false, name: "fc".into() }),
    ];
    let tensor =
        |values: &[f32], shape: &[usize]| Tensor::from_vec(values.to_vec(), shape, &CPU).unwrap();
    let tensors = BTreeMap::from([
        ("wide.weight".to_owned(), tensor(&[1.0, 2.0], &[2, 1, 1, 1])),
        ("fc.weight".to_owned(), tensor(&[1.0, 2.0, -3.0, 4.0], &[2, 2])),
    ]);
    let arch = ArchSpec::parse("resnet18:in_channels=1,classes=2,size=8").unwrap().resolve();
    Model::new(arch, Graph { nodes }, tensors, &CPU).unwrap()
}

#[test]
fn a_pass_that_memory_does_not_hold_is_refused_before_it_starts() {
    let model = padded(5000);
    let x = Tensor::zeros(&[4096, 8, 8, 1], DType::F32, &CPU).unwrap();
    let mut tape = Tape::new(Mode::F32);
    let eval = model.forward_eval(&mut tape, &x, &Weights::default()).unwrap_err().to_string();
    let mut tape = Tape::new(Mode::F32);
    tape.watch(&x);
    let recorded = model.forward_eval(&mut tape, &x, &Weights::default()).unwrap_err().to_string();
    // The image and two values for each pixel of the padded one, of 4 bytes.
    let need = format!("{:.1} GB", 4096.0 * (64.0 + 2.0 * 10_008f64.powi(2)) * 4.0 / 1e9);
    for error in [&eval, &recorded] {
        let words = ["batch of 4096", &need, "graph[1] conv2d (wide.weight)", "smaller batch"];
        assert!(words.iter().all(|words| error.contains(words)), "{error}");
    }
    assert!(eval.contains("holds at once") && recorded.contains("keeps for gradients"));
    let x = Tensor::zeros(&[2048, 8, 8, 1], DType::F32, &CPU).unwrap();
    let error = reference(&model, &x).err().unwrap().to_string();
    assert!(error.contains("batch of 2048"), "{error}");
}

#[test]
fn a_plan_takes_as_many_images_at_once_as_memory_holds() {
    let model = padded(1000);
    let choice = Choice::Forced(Algorithm::Dense);
    // All at once they would take 2 TB.
    let mut plan = Plan::build(&model, 65_536, Mode::F32, choice).unwrap();
    assert!(plan.activation_bytes() < 1 << 32);
    let x = fixture::images(3, 1, 8, &CPU);
    let got = plan.run(&x).unwrap().to_vec::<f32>().unwrap();
    let mut alone = Plan::build(&model, 3, Mode::F32, choice).unwrap();
    assert_eq!(got, alone.run(&x).unwrap().to_vec::<f32>().unwrap());
    assert!(got.iter().all(|&logit| logit != 0.0));
}

#[test]
fn a_network_has_a_limited_number_of_nodes() {
    let chain = |len: usize| {
        let mut nodes = vec![node(&[], Op::Input), node(&[0], Op::GlobalAvgPool)];
        nodes.extend((2..len).map(|i| node(&[i - 1], Op::Relu)));
        let arch = ArchSpec::parse("resnet18:in_channels=2,classes=2,size=8").unwrap().resolve();
        Model::new(arch, Graph { nodes }, BTreeMap::new(), &CPU)
    };
    assert!(chain(1 << 14).is_ok());
    let error = chain(100_000).unwrap_err().to_string();
    assert!(error.contains("100000 nodes") && error.contains("at most 16384 nodes"), "{error}");
}

#[test]
fn no_more_threads_run_than_there_are_processors() {
    let folder = tempfile::tempdir().unwrap();
    let run = |threads: usize| {
        let args = ["bench", "--arch", "vgg16:width=0.0625", "--device", "cpu", "--batch", "1"];
        let mut command = fixture::program(folder.path());
        let command = command.args(args).args(["--seconds", "0", "--json"]);
        let output = command.args(["--threads", &threads.to_string()]).output().unwrap();
        assert!(output.status.success());
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (json["threads"].as_u64(), String::from_utf8(output.stderr).unwrap())
    };
    let most = std::thread::available_parallelism().unwrap().get();
    let (threads, warning) = run(1024);
    assert_eq!(threads, Some(most.min(1024) as u64));
    let words = format!("warning: --threads 1024: {most} processors are available");
    assert!(most >= 1024 || warning.contains(&words), "{warning}");
    assert_eq!(run(1), (Some(1), String::new()));
}

#[test]
fn a_remembered_choice_that_is_no_small_file_counts_as_absent() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = fixture::network_of("resnet18:width=0.0625", &CPU);
    save_model(&folder.join("m.safetensors"), &model).unwrap();
    let data = "synthetic:classes=10,size=32,channels=3,train=1,test=3";
    let predict = || {
        let mut command = fixture::program(folder);
        command.args(["predict", "m.safetensors", "--data", data, "-o", "o.npy"]);
        // More than one, so that the number of threads is measured and remembered.
        command.args(["--device", "cpu"]).env("RAYON_NUM_THREADS", "2");
        command.env_remove("REWIRE_CACHE").env("XDG_CACHE_HOME", folder);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return assert!(status.success());
            }
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                panic!("predict hangs");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    predict();
    let plans = folder.join("rewire/plans");
    let plan = std::fs::read_dir(&plans).unwrap().next().unwrap().unwrap().path();
    let content = std::fs::read(&plan).unwrap();
    std::fs::remove_file(&plan).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&plan).status().unwrap().success());
    predict();
    std::fs::remove_file(&plan).unwrap();
    // What is too long is not read, and replaced.
    let file = std::fs::File::create(&plan).unwrap();
    file.set_len(1 << 33).unwrap();
    predict();
    assert_eq!(std::fs::metadata(&plan).unwrap().len(), content.len() as u64);
    let read = |most| rewire::file::read_bounded(&plan, most).ok().map(|bytes| bytes.len());
    assert_eq!(read(content.len() as u64), Some(content.len()));
    assert_eq!(read(content.len() as u64 - 1), None);
    assert_eq!(rewire::file::read_bounded(folder, 100).ok(), None);
}
