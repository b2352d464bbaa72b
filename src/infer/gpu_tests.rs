//! Plans on `cuda-host` whose convolutions take different algorithms.

use super::fused::{LayerOp, Network};
use super::gpu::GpuPlan;
use super::gpu_ready::{Target, Tiles};
use super::plan::Algorithm;
use super::reference::reference;
use crate::nn::{ArchSpec, Model};
use crate::ops::TileConfig;
use crate::rng::Philox;
use crate::{Device, Mode, Seed, Tensor, models};

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
    algorithms: &[Algorithm],
    x: &Tensor,
    mode: Mode,
    tiles: Tiles<'_>,
) -> (Vec<f32>, Vec<Option<TileConfig>>) {
    let device = &x.device();
    let target = Target { device, batch: IMAGES, mode, tiles };
    let plan = GpuPlan::build(network, algorithms, &target).unwrap();
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
        let dense = vec![Algorithm::Dense; network.layers.len()];
        let rounded = logits(&network, &dense, &x, Mode::Bf16, Tiles::Guessed).0;
        let rounded: Vec<f64> = rounded.into_iter().map(f64::from).collect();
        for (mode, period) in Mode::ALL.into_iter().flat_map(|mode| [1, 2, 3].map(|p| (mode, p))) {
            let of = |i| if i % period == 0 { Algorithm::Sparse } else { Algorithm::Dense };
            let algorithms: Vec<Algorithm> = (0..network.layers.len()).map(of).collect();
            let (got, tiles) = logits(&network, &algorithms, &x, mode, Tiles::Guessed);
            let want = if mode == Mode::Bf16 { &rounded } else { &exact };
            let norm = want.iter().map(|v| v * v).sum::<f64>().sqrt();
            let squares = got.iter().zip(want).map(|(&got, want)| (f64::from(got) - want).powi(2));
            let error = squares.sum::<f64>().sqrt() / norm;
            let what = format!("{arch}, {mode}, every {period}: {error:.1e}");
            println!("{what}");
            assert!(error <= mode.tolerance(), "{what}");
            for (i, layer) in network.layers.iter().enumerate() {
                let conv = matches!(&layer.op, LayerOp::Conv(conv) if !conv.linear);
                let dense = conv && algorithms[i] == Algorithm::Dense;
                assert_eq!(tiles[i].is_some(), dense, "{what}, layer {i}");
            }
            let again = logits(&network, &algorithms, &x, mode, Tiles::Known(&tiles));
            assert!(again == (got, tiles), "{what}: the same bits again");
        }
    }
}
