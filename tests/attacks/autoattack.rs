//! Auto-PGD, FAB and Square: against the authors' programs (`fixtures/make_autoattack.py`), in their balls, the same
//! for every batch size.

use crate::fixture::{attack_images, attack_net, network_of, numbers};
use rewire::attack::{AttackSettings, Draws, Network, Outcome, adversary, evaluate};
use rewire::data::{Pixels, Split};
use rewire::nn::{Execution, Model};
use rewire::{Device, Mode, Seed, Tensor, ops};
use serde_json::Value;

const NAMES: [&str; 4] = ["apgd-ce", "apgd-t", "fab-t", "square"];

fn settings(text: &str) -> AttackSettings {
    toml::from_str::<AttackSettings>(text).unwrap().resolved().unwrap()
}

fn attacked(model: &Model, split: &Split, attacks: &[AttackSettings], batch: usize) -> Outcome {
    let how = Execution::default();
    let network = Network { model, how: &how, mode: Mode::F32 };
    let done = Outcome::default();
    evaluate(&network, split, attacks, batch, Seed(7), done, &mut |_| Ok(())).unwrap()
}

fn count(flags: &[bool]) -> usize {
    flags.iter().filter(|&&flag| flag).count()
}

fn stored() -> Vec<Value> {
    serde_json::from_str(include_str!("../fixtures/autoattack.json")).unwrap()
}

/// The median, infinite values being the largest.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn as_few_images_stand_as_under_the_authors_programs() {
    for entry in stored() {
        let name = entry["network"].as_str().unwrap();
        let model = attack_net(name, &Device::Cpu);
        let split = attack_images(64);
        for radius in entry["radii"].as_array().unwrap() {
            let eps = radius["eps"].as_str().unwrap();
            let attack = |(name, steps): (&str, usize)| {
                settings(&format!("attack = '{name}'\neps = '{eps}'\nsteps = {steps}"))
            };
            let attacks = [("apgd-ce", 100), ("apgd-t", 100), ("square", 500)];
            let outcome = attacked(&model, &split, &attacks.map(attack), 64);
            assert_eq!(count(&outcome.clean), entry["clean"].as_u64().unwrap() as usize);
            for ((attack, _), robust) in attacks.iter().zip(&outcome.robust) {
                let seeds = numbers(&radius[*attack]);
                let mean = seeds.iter().sum::<f64>() / seeds.len() as f64;
                let got = count(robust);
                assert!(
                    got as f64 <= mean + 1.0,
                    "{name}, {attack} at {eps}: {got}, not {seeds:?}"
                );
            }
        }
    }
}

#[test]
fn the_distances_of_fab_are_those_of_the_authors_program() {
    for entry in stored() {
        let name = entry["network"].as_str().unwrap();
        let model = attack_net(name, &Device::Cpu);
        let fab = [settings("attack = 'fab-t'\neps = '4/255'")];
        let outcome = attacked(&model, &attack_images(64), &fab, 64);
        let right = |i: &usize| outcome.clean[*i];
        let got = |i: usize| f64::from(outcome.distances[0][i]);
        let want = |i: usize| entry["fab_distances"][i].as_f64().unwrap_or(f64::INFINITY);
        let of = |f: &dyn Fn(usize) -> f64| median((0..64).filter(right).map(f).collect());
        let (ours, theirs) = (of(&got), of(&want));
        assert!((ours / theirs - 1.0).abs() < 0.02, "{name}: {ours}, not {theirs}");
        for radius in entry["radii"].as_array().unwrap() {
            let eps: rewire::attack::Epsilon = radius["eps"].as_str().unwrap().parse().unwrap();
            let standing = (0..64).filter(right).filter(|&i| got(i) > eps.exact()).count();
            let want = radius["fab-t"].as_u64().unwrap() as usize;
            assert!(standing <= want + 1, "{name} at {eps}: {standing}, not {want}");
        }
    }
}

/// Noise with the labels that the network gives it: all images are classified correctly.
fn noise(model: &Model, [n, c, h, w]: [usize; 4]) -> Split {
    let philox = Seed(5).stream("noise", 0, 0);
    let values: Vec<u8> = (0..n * c * h * w).map(|i| philox.bits(i) as u8).collect();
    let mut split = Split {
        shape: [n, c, h, w],
        pixels: Pixels::U8(values),
        labels: Some(vec![0; n]),
        source: "noise".into(),
    };
    let x = rewire::tensor::nchw_to_nhwc(&split.images_nchw(0..n), split.shape);
    let x = Tensor::from_vec(x, &[n, h, w, c], &Device::Cpu).unwrap();
    let network = Network { model, how: &Execution::default(), mode: Mode::F32 };
    let classes = rewire::attack::predictions(&network.logits(&x).unwrap()).unwrap();
    split.labels = Some(classes.into_iter().map(|class| class.unwrap() as i32).collect());
    split
}

#[test]
fn odd_images_of_few_classes_stay_in_their_balls() {
    for (arch, shape) in [
        ("resnet18:width=0.0625,classes=5,in_channels=3", [3, 3, 9, 7]),
        ("resnet18:width=0.0625,classes=3,in_channels=1", [2, 1, 5, 11]),
        ("resnet18:width=0.0625,classes=2,in_channels=1", [1, 1, 3, 3]),
    ] {
        let model = network_of(arch, &Device::Cpu);
        let split = noise(&model, shape);
        let [n, c, h, w] = shape;
        let originals = rewire::tensor::nchw_to_nhwc(&split.images_nchw(0..n), shape);
        for name in NAMES {
            for (start, eps) in [(true, 12), (false, 12), (true, 80)] {
                let attack = format!(
                    "attack = '{name}'\neps = '{eps}/255'\nsteps = 12\nrandom_start = {start}"
                );
                let outcome = attacked(&model, &split, &[settings(&attack)], 2);
                assert_eq!(count(&outcome.clean), n);
                assert_eq!(outcome.adversarial.len(), n * c * h * w);
                for (y, x) in outcome.adversarial.iter().zip(&originals) {
                    assert!((0.0..=1.0).contains(y), "{arch}, {name}: {y}");
                    assert!((y - x).abs() <= eps as f32 / 255.0 + 1e-7, "{arch}, {name}: {x} {y}");
                }
            }
        }
    }
}

#[test]
fn what_an_image_gets_does_not_depend_on_its_batch() {
    let model = attack_net("attack_net", &Device::Cpu);
    let split = attack_images(24);
    let attack = |name| settings(&format!("attack = '{name}'\neps = '4/255'\nsteps = 25"));
    let attacks = NAMES.map(attack);
    let whole = attacked(&model, &split, &attacks, 24);
    assert_eq!(attacked(&model, &split, &attacks, 24), whole);
    assert_eq!(attacked(&model, &split, &attacks, 5), whole);
    for (name, robust) in NAMES.iter().zip(&whole.robust) {
        assert!(count(robust) < count(&whole.clean), "{name} found nothing");
    }
    // Nor on the others in the list, nor is one attack's start another's.
    for (k, attack) in attacks.iter().enumerate() {
        let alone = attacked(&model, &split, std::slice::from_ref(attack), 24);
        assert_eq!(alone.distances[0], whole.distances[k], "{}", attack.attack);
    }
}

#[test]
fn training_gets_the_point_of_largest_loss() {
    let model = attack_net("attack_net", &Device::Cpu);
    let split = attack_images(16);
    let x = rewire::tensor::nchw_to_nhwc(&split.images_nchw(0..16), [16, 1, 14, 14]);
    let x = Tensor::from_vec(x, &[16, 14, 14, 1], &Device::Cpu).unwrap();
    let labels = Tensor::from_vec(split.labels().unwrap().to_vec(), &[16], &Device::Cpu).unwrap();
    let how = Execution::default();
    let network = Network { model: &model, how: &how, mode: Mode::F32 };
    let loss = |name: &str, steps: usize| {
        let draws = Draws { seed: Seed(1), stream: "train", restart: 0, turn: 3 };
        let settings = settings(&format!("attack = '{name}'\neps = '8/255'\nsteps = {steps}"));
        let x = adversary(&network, &x, &labels, &settings, draws).unwrap();
        let each = ops::softmax_xent_each(&network.logits(&x).unwrap(), &labels).unwrap();
        each.to_vec::<f32>().unwrap()
    };
    let (start, few, many) = (loss("apgd-ce", 0), loss("apgd-ce", 3), loss("apgd-ce", 20));
    assert!(few.iter().zip(&start).all(|(few, start)| few >= start), "{few:?} {start:?}");
    let mean = |each: &[f32]| each.iter().sum::<f32>() / each.len() as f32;
    assert!(mean(&many) > mean(&few) && mean(&few) > mean(&start));
    assert!(mean(&loss("apgd-t", 10)) > mean(&start));
    assert!(mean(&loss("square", 100)) > mean(&start));
    // An attack that looks for the nearest wrong image is none for training.
    let fab = settings("attack = 'fab-t'");
    let draws = Draws { seed: Seed(1), stream: "train", restart: 0, turn: 0 };
    assert!(adversary(&network, &x, &labels, &fab, draws).is_err());
}
