//! Networks and runs that tests of single attacks share.

use crate::fixture::{attack_images, attack_net};
use rewire::attack::{AttackSettings, Case, Draws, Network, Outcome, evaluate, find, predictions};
use rewire::data::{Pixels, Split};
use rewire::nn::{ArchSpec, Graph, Model, Node, Op, Weights};
use rewire::tensor::nchw_to_nhwc;
use rewire::{Device, Mode, Seed, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;

/// Side of the images of [`Linear`].
pub const SIZE: usize = 6;

/// What `[[eval]]` holds.
pub fn settings(text: &str) -> AttackSettings {
    toml::from_str::<AttackSettings>(text).unwrap().resolved().unwrap()
}

/// One attack on a split.
pub fn attacked(model: &Model, split: &Split, text: &str, batch: usize) -> Outcome {
    let weights = Weights::default();
    let network = Network { model, weights: &weights, mode: Mode::F32 };
    let done = Outcome::default();
    let attacks = [settings(text)];
    evaluate(&network, split, &attacks, batch, Seed(3), done, &mut |_| Ok(())).unwrap()
}

/// The distances of the images that are classified correctly.
pub fn distances(outcome: &Outcome) -> Vec<f64> {
    let each = outcome.distances[0].iter().zip(&outcome.clean);
    each.filter(|(_, clean)| **clean).map(|(&d, _)| f64::from(d)).collect()
}

/// The upper of the two middle values where there are two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// How many are finite.
pub fn found(values: &[f64]) -> usize {
    values.iter().filter(|v| v.is_finite()).count()
}

/// A network of `make_attack_net.py`, its first images, and what `make_attack_nearest.py` wrote for them; infinite
/// where nothing was found.
pub fn compared(name: &str, row: &str) -> (Model, Split, Vec<f64>) {
    let path = format!("{}/tests/fixtures/attack_nearest.json", env!("CARGO_MANIFEST_DIR"));
    let stored: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let images = stored["images"].as_u64().unwrap() as usize;
    let row = stored[name][row].as_array().unwrap();
    let want = row.iter().map(|v| v.as_f64().unwrap_or(f64::INFINITY)).collect();
    (attack_net(name, &Device::Cpu), attack_images(images), want)
}

/// A network without a nonlinearity: logits `W·x + bias`, a convolution of the images' size.
pub struct Linear {
    /// `[classes][SIZE²]`.
    pub weights: Vec<Vec<f64>>,
    pub bias: Vec<f64>,
    pub model: Model,
    /// Labelled by the network itself.
    pub split: Split,
}

impl Linear {
    /// With `count` images whose values are at least `margin` away from 0 and 1.
    pub fn new(classes: usize, count: usize, margin: f32) -> Self {
        let philox = Seed(21).stream("linear", 0, 0);
        let values = SIZE * SIZE;
        let weight: Vec<f32> = (0..classes * values).map(|i| 0.3 * philox.normal(i)).collect();
        // No class is preferred: logits are 0 at an image of ½.
        let half = |w: &[f32]| -0.5 * w.iter().sum::<f32>();
        let bias: Vec<f32> = weight.chunks(values).map(half).collect();
        let spec = format!("resnet18:classes={classes},in_channels=1,size={SIZE}");
        let arch = ArchSpec::parse(&spec).unwrap().resolve();
        let conv =
            Op::Conv { bias: true, channels: None, name: "fc".into(), padding: 0, stride: 1 };
        let ops = [Op::Input, conv, Op::GlobalAvgPool];
        let node = |(i, op): (usize, Op)| Node { inputs: (0..i).rev().take(1).collect(), op };
        let graph = Graph { nodes: ops.into_iter().enumerate().map(node).collect() };
        let tensor = |values: &[f32], shape: &[usize]| {
            Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
        };
        let tensors = BTreeMap::from([
            ("fc.weight".to_owned(), tensor(&weight, &[classes, SIZE, SIZE, 1])),
            ("fc.bias".to_owned(), tensor(&bias, &[classes])),
        ]);
        let model = Model::new(arch, graph, tensors, &Device::Cpu).unwrap();
        let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let weights: Vec<Vec<f64>> = weight.chunks(values).map(wide).collect();
        let bias = wide(&bias);
        let pixels: Vec<f32> = (0..count * values)
            .map(|i| margin + (1.0 - 2.0 * margin) * philox.uniform(5000 + i))
            .collect();
        let mut linear = Self {
            weights,
            bias,
            model,
            split: Split {
                shape: [count, 1, SIZE, SIZE],
                pixels: Pixels::F32(pixels.clone()),
                labels: None,
                source: "linear".into(),
            },
        };
        let label = |x: &[f32]| {
            let z = linear.logits(x);
            (0..classes).max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap() as i32
        };
        let labels: Vec<i32> = pixels.chunks(values).map(label).collect();
        linear.split.labels = Some(labels);
        linear
    }

    pub fn logits(&self, x: &[f32]) -> Vec<f64> {
        let logit = |(w, b): (&Vec<f64>, &f64)| {
            b + w.iter().zip(x).map(|(w, &x)| w * f64::from(x)).sum::<f64>()
        };
        self.weights.iter().zip(&self.bias).map(logit).collect()
    }

    /// Image `n` with, for every other class j, the margin `z_y − z_j` and its gradient `w_y − w_j`.
    pub fn margins(&self, n: usize) -> (Vec<f32>, Vec<(f64, Vec<f64>)>) {
        let x = self.split.images_nchw(n..n + 1);
        let z = self.logits(&x);
        let label = self.split.labels().unwrap()[n] as usize;
        let other = |j: usize| {
            let slope = self.weights[label].iter().zip(&self.weights[j]).map(|(y, j)| y - j);
            (z[label] - z[j], slope.collect())
        };
        (x, (0..z.len()).filter(|&j| j != label).map(other).collect())
    }
}

/// What the attack itself returns for the images of `split` that are classified correctly: they must lie in the box,
/// and those that differ from the image be wrong when they are judged again, alone. Images and twins `[N][H·W·C]`.
pub fn recounted(model: &Model, split: &Split, text: &str) -> Vec<(Vec<f32>, Vec<f32>)> {
    let [n, c, h, w] = split.shape;
    let weights = Weights::default();
    let network = Network { model, weights: &weights, mode: Mode::F32 };
    let tensor = |images: &[f32]| {
        let shape = [images.len() / (c * h * w), h, w, c];
        Tensor::from_vec(images.to_vec(), &shape, model.device()).unwrap()
    };
    let class = |image: &[f32]| predictions(&network.logits(&tensor(image)).unwrap()).unwrap()[0];
    let label = |i: usize| split.labels().unwrap()[i];
    let image = |i: usize| nchw_to_nhwc(&split.images_nchw(i..i + 1), [1, c, h, w]);
    let images: Vec<usize> =
        (0..n).filter(|&i| class(&image(i)) == Some(label(i) as usize)).collect();
    let pixels: Vec<f32> = images.iter().flat_map(|&i| image(i)).collect();
    let labels: Vec<i32> = images.iter().map(|&i| label(i)).collect();
    let settings = settings(text);
    let case = Case {
        network: &network,
        x: &tensor(&pixels),
        labels: &Tensor::from_vec(labels.clone(), &[labels.len()], model.device()).unwrap(),
        images: &images,
        start: tensor(&pixels),
        settings: &settings,
        draws: Draws { seed: Seed(3), stream: "attack", restart: 0, turn: 0 },
        split: Some(split),
        source: None,
        first_gradients: None,
    };
    let twins = (find(&settings.attack).unwrap().perturb)(&case).unwrap();
    let twins = twins.to_vec::<f32>().unwrap();
    assert!(twins.iter().all(|x| (0.0..=1.0).contains(x)));
    let pairs = pixels.chunks(c * h * w).zip(twins.chunks(c * h * w));
    for ((x, twin), label) in pairs.clone().zip(labels) {
        assert!(x == twin || class(twin) != Some(label as usize));
    }
    pairs.map(|(x, twin)| (x.to_vec(), twin.to_vec())).collect()
}

/// Not above that share of the other's.
pub fn assert_median(got: &[f64], want: &[f64], share: f64, what: &str) {
    let (got, want) = (median(got), median(want));
    println!("{what}: median {got:.4}, there {want:.4}");
    assert!(got <= share * want, "{what}: median {got}, there {want}");
}
