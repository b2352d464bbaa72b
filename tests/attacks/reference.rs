//! Against Foolbox and torchattacks on the same networks and images (`fixtures/make_attacks.py`).

use crate::fixture::{attack_images, attack_net, numbers, relative_error};
use rewire::attack::{AttackSettings, Network, Outcome, evaluate};
use rewire::nn::{Execution, Model};
use rewire::tensor::nchw_to_nhwc;
use rewire::{Device, Mode, Seed, Tensor};
use serde_json::Value;

const NETWORKS: [&str; 2] = ["attack_net", "attack_net_adversarial"];

fn stored() -> Value {
    serde_json::from_str(include_str!("../fixtures/attacks.json")).unwrap()
}

fn attacked(model: &Model, settings: &AttackSettings, seed: u64) -> Outcome {
    let how = Execution::default();
    let network = Network { model, how: &how, mode: Mode::F32 };
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
        let how = Execution::default();
        let network = Network { model: &model, how: &how, mode: Mode::F32 };
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

/// The mean over the seeds leaves at most one point more than theirs.
#[test]
fn iterated_attacks_are_as_strong_as_foolbox_and_torchattacks() {
    let stored = stored();
    for name in NETWORKS {
        let model = attack_net(name, &Device::Cpu);
        for row in stored[name]["rows"].as_array().unwrap() {
            let settings: AttackSettings = serde_json::from_value(row["settings"].clone()).unwrap();
            let theirs = numbers(&row["standing"]);
            let ours: f64 = (0..theirs.len())
                .map(|seed| {
                    let outcome = attacked(&model, &settings, seed as u64);
                    outcome.robust[0].iter().filter(|&&stands| stands).count() as f64
                })
                .sum();
            let (ours, theirs) =
                (ours / theirs.len() as f64, theirs.iter().sum::<f64>() / theirs.len() as f64);
            println!("{name} {}: {ours} stand, {theirs} in {}", row["settings"], row["library"]);
            assert!(ours <= theirs + 0.64, "{name} {}: {ours} of 64, {theirs}", row["settings"]);
        }
    }
}
