//! Some test images beside their adversarial examples, to be looked at.

use super::result::{Sample, Samples};
use crate::attack::{self, AttackSettings, Draws, Network};
use crate::data::Dataset;
use crate::tensor::nchw_to_nhwc;
use crate::{Result, Seed, Tensor};
use std::collections::BTreeMap;

/// Images in `samples.json`.
const SAMPLES: usize = 10;

/// The first test image of each class, then the second of each, … beside what the attack makes of them.
pub(super) fn samples(
    network: &Network,
    data: &Dataset,
    settings: &AttackSettings,
    seed: Seed,
) -> Result<Samples> {
    let test = data.test()?;
    let shown = in_turn(test.labels()?);
    let n = shown.len();
    let [_, c, h, w] = test.shape;
    let device = network.model.device();
    let nchw: Vec<f32> = shown.iter().flat_map(|&i| test.images_nchw(i..i + 1)).collect();
    let clean = nchw_to_nhwc(&nchw, [n, c, h, w]);
    let x = Tensor::from_vec(clean.clone(), &[n, h, w, c], device)?;
    let all = test.labels()?;
    let true_labels: Vec<i32> = shown.iter().map(|&i| all[i]).collect();
    let labels = Tensor::from_vec(true_labels.clone(), &[n], device)?;
    let draws = Draws { seed, stream: "attack.samples", restart: 0, turn: 0 };
    let adversarial = attack::adversary(network, &x, &labels, settings, draws)?;
    let before = attack::predictions(&network.logits(&x)?)?;
    let after = attack::predictions(&network.logits(&adversarial)?)?;
    let adversarial = adversarial.to_vec::<f32>()?;
    let bytes = |pixels: &[f32]| pixels.iter().map(|&p| (p * 255.0).round() as u8).collect();
    let images = (0..n).map(|i| {
        let here = i * h * w * c..(i + 1) * h * w * c;
        Sample {
            label: true_labels[i] as usize,
            predicted: before[i].unwrap_or(usize::MAX),
            predicted_adversarial: after[i].unwrap_or(usize::MAX),
            clean: bytes(&clean[here.clone()]),
            adversarial: bytes(&adversarial[here]),
        }
    });
    Ok(Samples {
        attack: format!("{}, eps {}", settings.attack, settings.eps),
        classes: data.class_names.clone(),
        shape: [h, w, c],
        images: images.collect(),
    })
}

/// The places of the images that are shown: class by class in turn, so that a file whose order is that of its classes shows
/// them all.
fn in_turn(labels: &[i32]) -> Vec<usize> {
    let mut seen = BTreeMap::new();
    let mut turns: Vec<(usize, i32, usize)> = Vec::with_capacity(labels.len());
    for (place, &label) in labels.iter().enumerate() {
        let turn = seen.entry(label).or_insert(0);
        turns.push((*turn, label, place));
        *turn += 1;
    }
    turns.sort_unstable();
    turns.into_iter().take(SAMPLES).map(|(_, _, place)| place).collect()
}
