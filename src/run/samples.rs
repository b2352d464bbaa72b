//! Some test images beside their adversarial examples, to be looked at.

use super::result::{Sample, Samples};
use crate::attack::{self, AttackSettings, Draws, Network};
use crate::data::Dataset;
use crate::tensor::nchw_to_nhwc;
use crate::{Result, Seed, Tensor};

/// Images in `samples.json`.
const SAMPLES: usize = 8;

/// The first test images beside what the attack makes of them.
pub(super) fn samples(
    network: &Network,
    data: &Dataset,
    settings: &AttackSettings,
    seed: Seed,
) -> Result<Samples> {
    let test = data.test()?;
    let n = SAMPLES.min(test.len());
    let [_, c, h, w] = test.shape;
    let device = network.model.device();
    let nchw = test.images_nchw(0..n);
    let clean = nchw_to_nhwc(&nchw, [n, c, h, w]);
    let x = Tensor::from_vec(clean.clone(), &[n, h, w, c], device)?;
    let true_labels = &test.labels()?[..n];
    let labels = Tensor::from_vec(true_labels.to_vec(), &[n], device)?;
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
