//! Compiled networks: every algorithm against float64, whatever the batch, the mode and the graph.

use crate::fixture::{self, relative_error};
use crate::ops::devices;
use rewire::infer::{Algorithm, Choice, Format, Plan, reference};
use rewire::nn::{Arch, ArchSpec, Graph, Model, Node, Op};
use rewire::ops::Window;
use rewire::prune::{Granularity, PruneSettings, Pruner, shrink};
use rewire::{Device, Mode, Seed, Tensor};
use std::collections::BTreeMap;

const CPU: Device = Device::Cpu;
const ARCHS: [&str; 3] =
    ["vgg16:width=0.0625", "resnet18:width=0.0625,size=16", "resnet50:width=0.03,size=8"];
const CHOICES: [Choice; 3] =
    [Choice::Forced(Algorithm::Dense), Choice::Forced(Algorithm::Sparse), Choice::Measured];

fn pruned(arch: &str, granularity: Granularity, density: f64) -> Model {
    let mut model = fixture::network_of(arch, &CPU);
    let (method, keys) = ("magnitude".to_owned(), toml::Table::new());
    let settings = PruneSettings { method, granularity, density, keys };
    Pruner::new(&settings, &model, Seed(1)).unwrap().apply(&mut model).unwrap();
    model
}

fn images(model: &Model, count: usize) -> Tensor {
    let Arch { size, in_channels, .. } = *model.arch();
    fixture::images(count, in_channels, size, model.device())
}

fn run(plan: &mut Plan, x: &Tensor) -> Vec<f32> {
    plan.run(x).unwrap().to_vec().unwrap()
}

fn agrees(what: &str, model: &Model, batches: &[usize], choices: &[Choice], modes: &[Mode]) {
    let most = batches.iter().copied().max().unwrap();
    let on_cpu = model.to_device(&CPU).unwrap();
    let want = reference(&on_cpu, &images(&on_cpu, most)).unwrap().logits;
    let classes = model.arch().classes;
    for (&batch, &choice) in batches.iter().flat_map(|b| choices.iter().map(move |c| (b, c))) {
        for &mode in modes {
            let mut plan = Plan::build(model, batch, mode, choice).unwrap();
            let got = run(&mut plan, &images(model, batch));
            let error = relative_error(&got, &want[..batch * classes]);
            let what = format!("{what}, batch {batch}, {choice:?}, {mode}: {error:e}");
            assert!(error <= mode.tolerance(), "{what}");
            for layer in plan.layers() {
                let sparse = layer.algorithm == Algorithm::Sparse;
                assert_eq!(layer.format.is_some(), sparse, "{what}, {}", layer.name);
                let groups = mode == Mode::Bf16 && *model.device() != CPU;
                let forced = if groups { Format::Groups } else { Format::Lists };
                if sparse && choice != Choice::Measured {
                    assert_eq!(layer.format, Some(forced), "{what}, {}", layer.name);
                }
            }
            // The buffers of a call leave nothing behind for the next.
            assert_eq!(run(&mut plan, &images(model, batch)), got, "{what}");
        }
    }
}

#[test]
fn every_algorithm_gives_the_logits_of_float64() {
    fixture::with_own_cache("plan::every_algorithm_gives_the_logits_of_float64", || {
        for arch in ARCHS {
            let model = pruned(arch, Granularity::Irregular, 0.2);
            agrees(arch, &model, &[1, 3, 5, 16, 21], &CHOICES, &[Mode::F32]);
            agrees(arch, &model, &[2, 17], &CHOICES[..2], &[Mode::Tf32]);
            agrees(arch, &model, &[1, 3, 9, 17, 32], &CHOICES, &[Mode::Bf16]);
        }
    });
}

#[test]
fn shrunk_networks_that_gather_channels_run_too() {
    for arch in ARCHS {
        for granularity in [Granularity::Channel, Granularity::Filter] {
            let model = shrink(&pruned(arch, granularity, 0.4)).unwrap();
            let what = format!("{arch}, {granularity:?}");
            agrees(&what, &model, &[1, 16], &CHOICES[..2], &[Mode::F32, Mode::Bf16]);
        }
    }
    let gathers = |model: &Model| {
        let gather = |node: &Node| matches!(&node.op, Op::Conv { channels: Some(_), .. });
        model.graph().nodes.iter().any(gather)
    };
    assert!(gathers(&shrink(&pruned(ARCHS[1], Granularity::Channel, 0.4)).unwrap()));
}

#[test]
fn a_network_that_lost_everything_still_has_its_biases() {
    for arch in ARCHS {
        let mut model = fixture::network_of(arch, &CPU);
        for name in model.prunable() {
            model.param_mut(&name).unwrap().cpu_mut::<f32>().unwrap().fill(0.0);
        }
        agrees(arch, &model, &[1, 16], &CHOICES[..2], &[Mode::F32]);
    }
}

fn node(inputs: &[usize], op: Op) -> Node {
    Node { inputs: inputs.to_vec(), op }
}

fn conv(name: &str, stride: usize, padding: usize) -> Op {
    Op::Conv { bias: false, channels: None, name: name.into(), padding, stride }
}

fn batch_norm(name: &str) -> Op {
    Op::BatchNorm { eps: 1e-5, momentum: 0.1, name: name.into() }
}

/// A network in which nothing may be fused that looks as if it could: values with two readers, ReLU before and batch
/// norm behind the sum, pooling of a sum, a value added to itself, a pooled value that is pooled again.
pub fn unusual() -> Model {
    let nodes = vec![
        node(&[], Op::Input),
        node(&[0], batch_norm("bn0")),
        node(&[1], conv("a", 1, 1)),
        node(&[2], Op::Relu),
        node(&[2], conv("b", 1, 0)),
        node(&[4], batch_norm("bn1")),
        node(&[3, 5], Op::Add),
        node(&[6], batch_norm("bn2")),
        node(&[7], Op::Relu),
        node(&[8, 8], Op::Add),
        node(&[9], Op::MaxPool(Window::HALVES)),
        node(&[10], Op::MaxPool(Window::HALVES)),
        node(&[11], conv("c", 2, 2)),
        node(&[12], Op::Relu),
        node(&[13, 12], Op::Add),
        node(&[14], Op::MaxPool(Window::HALVES)),
        node(&[15], Op::GlobalAvgPool),
        node(&[16], Op::Relu),
        node(&[17], Op::Linear { bias: true, name: "fc".into() }),
    ];
    let shapes: [(&str, &[usize]); 5] = [
        ("a.weight", &[6, 3, 3, 2]),
        ("b.weight", &[6, 1, 1, 6]),
        ("c.weight", &[9, 5, 5, 6]),
        ("fc.weight", &[4, 9]),
        ("fc.bias", &[4]),
    ];
    let norms = [("bn0", 2), ("bn1", 6), ("bn2", 6)];
    let parts = ["weight", "bias", "running_mean", "running_var"];
    let mut shapes: Vec<(String, Vec<usize>)> =
        shapes.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect();
    for (name, c) in norms {
        shapes.extend(parts.map(|part| (format!("{name}.{part}"), vec![c])));
    }
    let value = |name: &str, i: usize| {
        let u = fixture::uniform(name)(i) as f32;
        if name.ends_with("running_var") { 1.0 + 0.5 * u } else { u }
    };
    let tensors: BTreeMap<String, Tensor> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|i| value(&name, i)).collect();
            let tensor = Tensor::from_vec(values, &shape, &CPU).unwrap();
            (name, tensor)
        })
        .collect();
    let mut arch = ArchSpec::named("resnet18").resolve();
    (arch.size, arch.in_channels, arch.classes) = (14, 2, 4);
    Model::new(arch, Graph { nodes }, tensors, &CPU).unwrap()
}

#[test]
fn what_cannot_be_fused_is_computed_apart() {
    fixture::with_own_cache("plan::what_cannot_be_fused_is_computed_apart", || {
        agrees("graph", &unusual(), &[1, 4, 16, 33], &CHOICES, &Mode::ALL);
    });
}

/// A network of a linear layer over the image's means, with `nodes` in between.
fn linear_net(nodes: Vec<Node>, tensors: &[(&str, &[usize])]) -> rewire::Result<Model> {
    let value = |name: &str, i: usize| fixture::uniform(name)(i) as f32;
    let tensor = |(name, shape): &(&str, &[usize])| {
        let values = (0..shape.iter().product()).map(|i| value(name, i)).collect();
        ((*name).to_owned(), Tensor::from_vec::<f32>(values, shape, &CPU).unwrap())
    };
    let mut arch = ArchSpec::named("resnet18").resolve();
    (arch.size, arch.in_channels, arch.classes) = (6, 3, 4);
    Model::new(arch, Graph { nodes }, tensors.iter().map(tensor).collect(), &CPU)
}

#[test]
fn nodes_that_nobody_reads_change_nothing() {
    let linear = Op::Linear { bias: false, name: "fc".into() };
    let nodes = vec![
        node(&[], Op::Input),
        node(&[0], Op::GlobalAvgPool),
        node(&[1], linear),
        node(&[0], Op::GlobalAvgPool),
        node(&[2], Op::Relu),
    ];
    let model = linear_net(nodes, &[("fc.weight", &[4, 3])]).unwrap();
    agrees("dead node", &model, &[1, 16], &CHOICES[..1], &[Mode::F32]);
}

#[test]
fn a_channel_is_read_once() {
    let gather = Op::Conv {
        bias: false,
        channels: Some(vec![0, 2, 0]),
        name: "conv".into(),
        padding: 1,
        stride: 1,
    };
    let nodes = vec![
        node(&[], Op::Input),
        node(&[0], gather),
        node(&[1], Op::GlobalAvgPool),
        node(&[2], Op::Linear { bias: false, name: "fc".into() }),
    ];
    let shapes: [(&str, &[usize]); 2] = [("conv.weight", &[2, 3, 3, 3]), ("fc.weight", &[4, 2])];
    let message = linear_net(nodes, &shapes).err().unwrap().to_string();
    assert!(message.contains("conv"), "{message}");
}

/// A file of some hundred bytes asked for 69 GB.
#[test]
fn padding_makes_no_huge_image_of_a_small_file() {
    let conv = |name: &str| Op::Conv {
        bias: false,
        channels: None,
        name: name.into(),
        padding: 65_535,
        stride: 1,
    };
    let mut nodes = vec![node(&[], Op::Input)];
    nodes.extend((0..40).map(|i| node(&[i], conv("conv"))));
    nodes.push(node(&[40], Op::GlobalAvgPool));
    nodes.push(node(&[41], Op::Linear { bias: false, name: "fc".into() }));
    let shapes: [(&str, &[usize]); 2] = [("conv.weight", &[3, 1, 1, 3]), ("fc.weight", &[4, 3])];
    let message = linear_net(nodes, &shapes).err().unwrap().to_string();
    assert!(message.contains("graph[1] conv2d") && message.contains("an image"), "{message}");
}

#[test]
fn wide_padding_of_one_layer_is_no_halo_of_all() {
    let strided = |padding, stride| Op::Conv {
        bias: false,
        channels: None,
        name: "b".into(),
        padding,
        stride,
    };
    for (padding, stride) in [(200, 200), (8, 3), (3, 5), (9, 1)] {
        let nodes = vec![
            node(&[], Op::Input),
            node(&[0], conv("a", 1, 1)),
            node(&[1], Op::Relu),
            node(&[2], strided(padding, stride)),
            node(&[3], Op::GlobalAvgPool),
            node(&[4], Op::Linear { bias: false, name: "fc".into() }),
        ];
        let shapes: [(&str, &[usize]); 3] =
            [("a.weight", &[16, 3, 3, 3]), ("b.weight", &[20, 1, 1, 16]), ("fc.weight", &[4, 20])];
        let model = linear_net(nodes, &shapes).unwrap();
        let what = format!("padding {padding}, stride {stride}");
        agrees(&what, &model, &[1, 4, 16], &CHOICES[..1], &[Mode::F32, Mode::Bf16]);
        let plan = Plan::build(&model, 1, Mode::Bf16, CHOICES[0]).unwrap();
        assert!(plan.activation_bytes() < 1 << 20, "{what}: {}", plan.activation_bytes());
    }
}

#[test]
fn plans_of_kernels_give_the_logits_of_float64() {
    for device in devices().into_iter().filter(|device| *device != CPU) {
        let models = [
            pruned("vgg16:width=0.0625", Granularity::Irregular, 0.2),
            pruned("resnet18:width=0.0625,size=8", Granularity::Irregular, 0.2),
            shrink(&pruned("resnet18:width=0.0625,size=8", Granularity::Channel, 0.4)).unwrap(),
            unusual(),
        ];
        for (i, model) in models.iter().enumerate() {
            let model = model.to_device(&device).unwrap();
            let what = format!("network {i} on {device}");
            agrees(&what, &model, &[3], &CHOICES[..2], &Mode::ALL);
            let mut plan =
                Plan::build(&model, 4, Mode::Bf16, Choice::Forced(Algorithm::Dense)).unwrap();
            let all = run(&mut plan, &images(&model, 4));
            let classes = model.arch().classes;
            assert_eq!(run(&mut plan, &images(&model, 1)), all[..classes], "{what}");
        }
    }
}

#[test]
fn measured_plans_of_kernels_give_the_logits_of_float64() {
    fixture::with_own_cache("plan::measured_plans_of_kernels_give_the_logits_of_float64", || {
        let model = pruned("resnet18:width=0.0625,size=8", Granularity::Irregular, 0.2);
        for device in devices().into_iter().filter(|device| *device != CPU) {
            let model = model.to_device(&device).unwrap();
            agrees("measured", &model, &[2], &[Choice::Measured], &Mode::ALL);
        }
    });
}

/// Three convolutions, a tenth of their weights kept, the second one with a stride for which no tile of outputs has inputs
/// that fit shared memory.
fn wide_stride() -> Model {
    let strided = |name: &str, stride| conv(name, stride, 1);
    let ops = [
        Op::Input,
        strided("a", 1),
        Op::Relu,
        strided("b", 20),
        strided("c", 1),
        Op::GlobalAvgPool,
        Op::Linear { bias: false, name: "fc".into() },
    ];
    let nodes = ops.into_iter().enumerate();
    let nodes =
        nodes.map(|(i, op)| node(&(0..i).skip(i.saturating_sub(1)).collect::<Vec<_>>(), op));
    let shapes: [(&str, &[usize]); 4] = [
        ("a.weight", &[8, 3, 3, 2]),
        ("b.weight", &[8, 3, 3, 8]),
        ("c.weight", &[9, 3, 3, 8]),
        ("fc.weight", &[4, 9]),
    ];
    let tensor = |(layer, (name, shape)): (u32, (&str, &[usize]))| {
        let drawn = Seed(29).stream("wide", 0, layer);
        let kept = |i| name == "fc.weight" || drawn.uniform(2 * i) < 0.1;
        let value = |i| if kept(i) { drawn.uniform(2 * i + 1) } else { 0.0 };
        let values = (0..shape.iter().product()).map(value).collect();
        (name.to_owned(), Tensor::from_vec::<f32>(values, shape, &CPU).unwrap())
    };
    let tensors = (0..).zip(shapes).map(tensor).collect();
    let mut arch = ArchSpec::named("resnet18").resolve();
    (arch.size, arch.in_channels, arch.classes) = (64, 2, 4);
    Model::new(arch, Graph { nodes: nodes.collect() }, tensors, &CPU).unwrap()
}

#[test]
fn a_layer_that_cannot_be_packed_is_dense_alone() {
    fixture::with_own_cache("plan::a_layer_that_cannot_be_packed_is_dense_alone", || {
        let model = wide_stride();
        for device in devices().into_iter().filter(|device| *device != CPU) {
            let model = model.to_device(&device).unwrap();
            agrees("wide stride", &model, &[5], &[Choice::Measured], &Mode::ALL);
        }
        let device = Device::new("cuda-host").unwrap();
        let model = model.to_device(&device).unwrap();
        for mode in Mode::ALL {
            let plan = Plan::build(&model, 4, mode, Choice::Measured).unwrap();
            let names: Vec<_> = plan.layers().iter().map(|layer| layer.name.as_str()).collect();
            assert_eq!(names, ["a", "b", "c", "fc"]);
            assert_eq!(plan.layers()[1].algorithm, Algorithm::Dense, "{mode}");
            assert!(plan.layers()[0].sparse_ms.is_some(), "{mode}: the others are tried");
            let forced = Plan::build(&model, 4, mode, Choice::Forced(Algorithm::Sparse));
            let message = forced.err().unwrap().to_string();
            assert!(message.contains("smaller stride"), "{message}");
        }
    });
}

#[test]
fn fewer_images_than_planned_are_the_first_rows() {
    let model = pruned(ARCHS[0], Granularity::Irregular, 0.2);
    let [dense, sparse] = [Algorithm::Dense, Algorithm::Sparse].map(Choice::Forced);
    for (mode, choice) in [(Mode::F32, dense), (Mode::F32, sparse), (Mode::Bf16, dense)] {
        let mut plan = Plan::build(&model, 16, mode, choice).unwrap();
        let all = run(&mut plan, &images(&model, 16));
        let some = Tensor::from_vec(
            images(&model, 16).to_vec::<f32>().unwrap()[..3 * 32 * 32 * 3].to_vec(),
            &[3, 32, 32, 3],
            &CPU,
        );
        assert_eq!(run(&mut plan, &some.unwrap()), all[..30]);
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    // The last has planes of 1 and 4 pixels with many channels.
    for arch in [ARCHS[0], ARCHS[1], "resnet18:width=0.5,size=8"] {
        let model = pruned(arch, Granularity::Irregular, 0.2);
        let run = |threads: usize, batch: usize, mode: Mode, choice: Choice| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut plan = Plan::build(&model, batch, mode, choice).unwrap();
                run(&mut plan, &images(&model, batch))
            })
        };
        let [dense, sparse] = [Algorithm::Dense, Algorithm::Sparse].map(Choice::Forced);
        for (mode, choice) in [(Mode::F32, dense), (Mode::F32, sparse), (Mode::Bf16, dense)] {
            // By parts, a part left over, and layer by layer.
            for batch in [2, 9, 10, 16, 17, 33, 70, 128] {
                let one = run(1, batch, mode, choice);
                for threads in [2, 5, 11] {
                    let what = format!("{arch}, {mode}, {choice:?}, {batch}, {threads}");
                    assert!(run(threads, batch, mode, choice) == one, "{what}");
                }
            }
        }
    }
}

#[test]
fn wrong_images_are_named() {
    let model = fixture::network_of(ARCHS[1], &CPU);
    let choice = Choice::Forced(Algorithm::Dense);
    let message = Plan::build(&model, 0, Mode::F32, choice).err().unwrap().to_string();
    assert!(message.contains("batch"), "{message}");
    let mut plan = Plan::build(&model, 2, Mode::F32, choice).unwrap();
    for shape in [[3, 16, 16, 3], [2, 32, 32, 3], [2, 16, 16, 1]] {
        let x = Tensor::zeros(&shape, rewire::DType::F32, &CPU).unwrap();
        let message = plan.run(&x).unwrap_err().to_string();
        assert!(message.contains("[N, 16, 16, 3], N at most 2"), "{message}");
    }
}
