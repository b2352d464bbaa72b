//! Plans on `cuda-host` whose convolutions run in different ways.

use super::fused::{LayerOp, Network};
use super::gpu::GpuPlan;
use super::gpu_ready::{GpuSettings, ReadyLayers, TileChoice};
use super::reference::reference;
use super::way::Way;
use crate::nn::{ArchSpec, Graph, Model, Node, Op};
use crate::ops::TileConfig;
use crate::rng::Philox;
use crate::{Device, Mode, Seed, Tensor, models};
use std::collections::BTreeMap;

const IMAGES: usize = 5;
const DRAWN: Philox = Philox { key: [3, 17], step: 0, layer: 0 };

/// A network that keeps a tenth of its convolutions' weights.
fn pruned(arch: &str) -> Model {
    let arch = ArchSpec::parse(arch).unwrap().resolve();
    let mut model = models::initialised(arch, Seed(1), &Device::Cpu).unwrap();
    for (layer, name) in (0..).zip(model.prunable()) {
        let weight = model.param_mut(&name).unwrap().cpu_mut::<f32>().unwrap();
        let drawn = Philox { layer, ..DRAWN };
        let zeros = weight.iter_mut().enumerate().filter(|(i, _)| drawn.uniform(*i) > 0.1);
        zeros.for_each(|(_, w)| *w = 0.0);
    }
    model
}

fn images(model: &Model, device: &Device) -> Tensor {
    let arch = model.arch();
    let shape = [IMAGES, arch.size, arch.size, arch.in_channels];
    let pixels = (0..shape.iter().product()).map(|i| DRAWN.uniform(i)).collect();
    Tensor::from_vec::<f32>(pixels, &shape, device).unwrap()
}

fn logits(
    network: &Network,
    ways: &[Way],
    x: &Tensor,
    mode: Mode,
    tiles: TileChoice<'_>,
) -> (Vec<f32>, Vec<Option<TileConfig>>) {
    let device = &x.device();
    let settings = GpuSettings { device, batch: IMAGES, mode, tiles };
    let plan = GpuPlan::build(&mut ReadyLayers::new(network, settings), ways).unwrap();
    (plan.run(x).unwrap().to_vec().unwrap(), plan.tiles())
}

#[test]
fn mixed_plans_give_the_logits_of_float64_and_of_dense_plans() {
    let device = Device::new("cuda-host").unwrap();
    for arch in ["vgg16:width=0.0625", "resnet18:width=0.0625,size=8"] {
        let model = pruned(arch);
        let exact = reference(&model, &images(&model, &Device::Cpu)).unwrap().logits;
        let network = Network::of(&model).unwrap();
        let x = images(&model, &device);
        // What bf16 rounds between the layers adds up to the tolerance of one of them; a dense plan rounds the same.
        let dense = vec![Way::Dense; network.layers.len()];
        let rounded = logits(&network, &dense, &x, Mode::Bf16, TileChoice::Guessed).0;
        let rounded: Vec<f64> = rounded.into_iter().map(f64::from).collect();
        for (mode, period) in Mode::ALL.into_iter().flat_map(|mode| [1, 2, 3].map(|p| (mode, p))) {
            // Where there are two formats they take turns.
            let sparse = Way::sparse(&device, mode);
            let of = |i| match i % period {
                0 => sparse[i / period % sparse.len()],
                _ => Way::Dense,
            };
            let ways: Vec<Way> = (0..network.layers.len()).map(of).collect();
            let (got, tiles) = logits(&network, &ways, &x, mode, TileChoice::Guessed);
            let want = if mode == Mode::Bf16 { &rounded } else { &exact };
            let norm = want.iter().map(|v| v * v).sum::<f64>().sqrt();
            let squares = got.iter().zip(want).map(|(&got, want)| (f64::from(got) - want).powi(2));
            let error = squares.sum::<f64>().sqrt() / norm;
            let what = format!("{arch}, {mode}, every {period}: {error:.1e}");
            println!("{what}");
            assert!(error <= mode.tolerance(), "{what}");
            for (i, layer) in network.layers.iter().enumerate() {
                let conv = matches!(&layer.op, LayerOp::Conv(conv) if !conv.linear);
                let dense = conv && ways[i] == Way::Dense;
                assert_eq!(tiles[i].is_some(), dense, "{what}, layer {i}");
            }
            let again = logits(&network, &ways, &x, mode, TileChoice::Known(&tiles));
            assert!(again == (got, tiles), "{what}: the same bits again");
        }
    }
}

/// Three convolutions, a tenth of their weights kept, the second one with a stride for which no tile of outputs has inputs
/// that fit shared memory.
fn wide_stride() -> Model {
    let conv = |name: &str, stride| Op::Conv {
        bias: false,
        channels: None,
        name: name.into(),
        padding: 1,
        stride,
    };
    let linear = Op::Linear { bias: false, name: "fc".into() };
    let ops =
        [Op::Input, conv("a", 1), Op::Relu, conv("b", 20), conv("c", 1), Op::GlobalAvgPool, linear];
    let node =
        |(i, op): (usize, Op)| Node { inputs: (0..i).skip(i.saturating_sub(1)).collect(), op };
    let nodes = ops.into_iter().enumerate().map(node).collect();
    let shapes: [(&str, &[usize]); 4] =
        [("a", &[8, 3, 3, 2]), ("b", &[8, 3, 3, 8]), ("c", &[9, 3, 3, 8]), ("fc", &[4, 9])];
    let tensor = |(layer, (name, shape)): (u32, (&str, &[usize]))| {
        let drawn = Philox { layer, ..DRAWN };
        let kept = |i| name == "fc" || drawn.uniform(2 * i) < 0.1;
        let values = (0..shape.iter().product())
            .map(|i| if kept(i) { drawn.uniform(2 * i + 1) } else { 0.0 });
        (
            format!("{name}.weight"),
            Tensor::from_vec::<f32>(values.collect(), shape, &Device::Cpu).unwrap(),
        )
    };
    let tensors: BTreeMap<_, _> = (0..).zip(shapes).map(tensor).collect();
    let mut arch = ArchSpec::named("resnet18").resolve();
    (arch.size, arch.in_channels, arch.classes) = (64, 2, 4);
    Model::new(arch, Graph { nodes }, tensors, &Device::Cpu).unwrap()
}

#[test]
fn a_layer_that_cannot_be_packed_is_dense_alone() {
    let device = Device::new("cuda-host").unwrap();
    let network = Network::of(&wide_stride()).unwrap();
    for mode in Mode::ALL {
        let sparse = Way::sparse(&device, mode);
        assert!(!sparse.is_empty(), "{mode}");
        for &way in sparse {
            let tiles = TileChoice::Guessed;
            let settings = GpuSettings { device: &device, batch: IMAGES, mode, tiles };
            let ways: Vec<Way> = network
                .layers
                .iter()
                .map(|layer| match &layer.op {
                    LayerOp::Conv(conv) if !conv.linear => way,
                    _ => Way::Dense,
                })
                .collect();
            let packable = ReadyLayers::new(&network, settings).packable(&ways).unwrap();
            let name = |i: usize| match &network.layers[i].op {
                LayerOp::Conv(conv) => conv.name.as_str(),
                _ => "",
            };
            let sparse: Vec<_> =
                (0..ways.len()).filter(|&i| packable[i] == way).map(name).collect();
            assert_eq!(sparse, ["a", "c"], "{mode}, {way:?}");
            assert!(packable.iter().all(|found| [way, Way::Dense].contains(found)), "{mode}");
        }
    }
}
