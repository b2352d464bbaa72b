//! Against Foolbox and torchattacks on the same networks and images (`fixtures/make_attacks.py`).

use crate::fixture::{attack_images, attack_net, numbers, relative_error};
use rewire::attack::{AttackSettings, Network, Outcome, evaluate};
use rewire::nn::{Model, Weights};
use rewire::tensor::nchw_to_nhwc;
use rewire::{Device, Mode, Seed, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;

const NETWORKS: [&str; 2] = ["attack_net", "attack_net_adversarial"];

fn stored() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/attacks.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn attacked(model: &Model, settings: &AttackSettings, seed: u64) -> Outcome {
    let weights = Weights::default();
    let network = Network { model, weights: &weights, mode: Mode::F32 };
    let attacks = [settings.clone()];
    let done = Outcome::default();
    evaluate(&network, &attack_images(64), &attacks, 64, Seed(seed), done, &mut |_| Ok(())).unwrap()
}

fn digits(flags: &[bool]) -> String {
    flags.iter().map(|&flag| if flag { '1' } else { '0' }).collect()
}

#[test]
fn networks_and_fgsm_are_those_of_pytorch_image_by_image() {
    let stored = stored();
    for name in NETWORKS {
        let model = attack_net(name, &Device::Cpu);
        let split = attack_images(2);
        let x = nchw_to_nhwc(&split.images_nchw(0..2), [2, 1, 14, 14]);
        let x = Tensor::from_vec(x, &[2, 14, 14, 1], &Device::Cpu).unwrap();
        let weights = Weights::default();
        let network = Network { model: &model, weights: &weights, mode: Mode::F32 };
        let logits = network.logits(&x).unwrap().to_vec::<f32>().unwrap();
        let rows = stored[name]["logits"].as_array().unwrap();
        let want: Vec<f64> = rows.iter().flat_map(numbers).collect();
        assert!(relative_error(&logits, &want) < 1e-5, "{name}");
        for case in stored[name]["fgsm"].as_array().unwrap() {
            let text = format!("attack = 'fgsm'\neps = {}", case["eps"]);
            let outcome = attacked(&model, &toml::from_str(&text).unwrap(), 1);
            assert_eq!(digits(&outcome.clean), stored[name]["clean"], "{name}");
            assert_eq!(digits(&outcome.robust[0]), case["stands"], "{name} {text}");
        }
    }
}

/// One point of 64 images.
const POINT: f64 = 0.64;

/// Seeds of ours; theirs were run with four.
const SEEDS: u64 = 12;

/// Means over seeds of the images that stand. Under few steps to a target one run wavers by 1.6 images, the mean of four
/// by 0.8, so a row is held to one point above the seed that was hardest for theirs, and the mean over the rows of one
/// kind to one point above theirs.
#[test]
fn iterated_attacks_are_as_strong_as_foolbox_and_torchattacks() {
    let stored = stored();
    let mut kinds = BTreeMap::<String, Vec<f64>>::new();
    for name in NETWORKS {
        let model = attack_net(name, &Device::Cpu);
        for row in stored[name]["rows"].as_array().unwrap() {
            let settings: AttackSettings = serde_json::from_value(row["settings"].clone()).unwrap();
            let theirs = numbers(&row["standing"]);
            let stands = |seed| {
                let outcome = attacked(&model, &settings, seed);
                outcome.robust[0].iter().filter(|&&stands| stands).count() as f64
            };
            let ours = (0..SEEDS).map(stands).sum::<f64>() / SEEDS as f64;
            let mean = theirs.iter().sum::<f64>() / theirs.len() as f64;
            let what = format!("{name} {} of {}", row["settings"], row["library"]);
            println!("{what}: {ours} stand, {mean} of theirs");
            let most = theirs.iter().copied().fold(0.0, f64::max);
            assert!(ours <= most + POINT, "{what}: {ours} of 64 stand, {theirs:?}");
            let target = settings.target.map(|target| target.to_string());
            let kind = format!("{name} {} {target:?} {}", settings.attack, row["library"]);
            kinds.entry(kind).or_default().push(ours - mean);
        }
    }
    assert!(kinds.len() >= 10);
    for (kind, differences) in kinds {
        let mean = differences.iter().sum::<f64>() / differences.len() as f64;
        println!("{kind}: {mean:+.2} images");
        assert!(mean <= POINT, "{kind}: {mean} images more stand than under theirs");
    }
}
