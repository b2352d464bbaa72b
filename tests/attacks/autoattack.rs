//! Auto-PGD, FAB and Square: against the authors' programs (`fixtures/make_autoattack.py`), in their balls, the same
//! for every batch size.

use crate::fixture::{attack_images, attack_net, network_of, numbers};
use rewire::attack::{AttackSettings, Draws, Network, Outcome, adversary, evaluate, expand};
use rewire::data::{Pixels, Split};
use rewire::nn::{Model, Weights};
use rewire::{Device, Mode, Seed, Tensor, ops};
use serde_json::Value;

/// The attacks, and few steps for each.
const ATTACKS: [(&str, usize); 7] = [
    ("apgd-ce", 12),
    ("apgd-ce-l2", 12),
    ("apgd-t", 12),
    ("apgd-t-l2", 12),
    ("fab-t", 12),
    ("fab-t-l2", 12),
    ("square", 150),
];

fn settings(text: &str) -> AttackSettings {
    toml::from_str::<AttackSettings>(text).unwrap().resolved().unwrap()
}

fn attacked(model: &Model, split: &Split, attacks: &[AttackSettings], batch: usize) -> Outcome {
    let weights = Weights::default();
    let network = Network { model, weights: &weights, mode: Mode::F32 };
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

/// The name of an attack in the norm of a stored entry.
fn named(attack: &str, entry: &Value) -> String {
    let suffix = if entry["norm"] == "L2" { "-l2" } else { "" };
    format!("{attack}{suffix}")
}

#[test]
fn as_few_images_stand_as_under_the_authors_programs() {
    for entry in stored() {
        let name = entry["network"].as_str().unwrap();
        let model = attack_net(name, &Device::Cpu);
        assert!(!entry["radii"].as_array().unwrap().is_empty());
        for radius in entry["radii"].as_array().unwrap() {
            let eps = radius["eps"].as_str().unwrap();
            let known = |(attack, _): &(&str, usize)| !radius[*attack].is_null();
            let attacks = [("apgd-ce", 100), ("apgd-t", 100), ("square", 500)];
            let attacks: Vec<_> = attacks.into_iter().filter(known).collect();
            assert!(attacks.len() >= 2, "{name} at {eps}");
            let of = |&(attack, steps): &(&str, usize)| {
                let attack = named(attack, &entry);
                settings(&format!("attack = '{attack}'\neps = '{eps}'\nsteps = {steps}"))
            };
            let planned: Vec<AttackSettings> = attacks.iter().map(of).collect();
            let outcome = attacked(&model, &attack_images(64), &planned, 64);
            assert_eq!(count(&outcome.clean), entry["clean"].as_u64().unwrap() as usize);
            for ((attack, _), robust) in attacks.iter().zip(&outcome.robust) {
                let seeds = numbers(&radius[*attack]);
                // Their own seeds differ by up to five images.
                let most = seeds.iter().copied().fold(0.0, f64::max);
                let got = count(robust);
                let what = named(attack, &entry);
                println!("{name}, {what} at {eps}: {got}, theirs {seeds:?}");
                assert!(got as f64 <= most + 1.0, "{name}, {what} at {eps}: {got}, not {seeds:?}");
            }
        }
    }
}

#[test]
fn the_distances_of_fab_are_those_of_the_authors_program() {
    for entry in stored() {
        let name = entry["network"].as_str().unwrap();
        let model = attack_net(name, &Device::Cpu);
        let fab = [settings(&format!("attack = '{}'", named("fab-t", &entry)))];
        let outcome = attacked(&model, &attack_images(64), &fab, 64);
        let right = |i: &usize| outcome.clean[*i];
        let got = |i: usize| f64::from(outcome.distances[0][i]);
        let want = |i: usize| entry["fab_distances"][i].as_f64().unwrap_or(f64::INFINITY);
        let of = |f: &dyn Fn(usize) -> f64| median((0..64).filter(right).map(f).collect());
        let (ours, theirs) = (of(&got), of(&want));
        println!("{name}, {}: median {ours}, theirs {theirs}", entry["norm"]);
        assert!((ours / theirs - 1.0).abs() < 0.02, "{name}: {ours}, not {theirs}");
        for radius in entry["radii"].as_array().unwrap() {
            let eps: rewire::attack::Epsilon = radius["eps"].as_str().unwrap().parse().unwrap();
            let standing = (0..64).filter(right).filter(|&i| got(i) > eps.exact()).count();
            let want = radius["fab-t"].as_u64().unwrap() as usize;
            println!("{name} at {eps}: {standing}, theirs {want}");
            assert!(standing <= want + 1, "{name} at {eps}: {standing}, not {want}");
        }
    }
}

#[test]
fn autoattack_gives_each_member_what_still_stands() {
    let model = attack_net("attack_net_adversarial", &Device::Cpu);
    let split = attack_images(32);
    let set = settings("attack = 'autoattack'\neps = '24/255'\nsteps = 40");
    let members = expand(std::slice::from_ref(&set)).unwrap();
    let names: Vec<&str> = members.iter().map(|member| &member.settings.attack[..]).collect();
    assert_eq!(names, ["apgd-ce", "apgd-t", "fab-t", "square"]);
    let outcome = attacked(&model, &split, &[set], 32);
    for (before, after) in outcome.robust.iter().zip(&outcome.robust[1..]) {
        assert!(before.iter().zip(after).all(|(before, after)| before | !after));
    }
    assert_eq!(outcome.robust[3], outcome.worst);
    let alone = settings("attack = 'apgd-ce'\neps = '24/255'\nsteps = 40");
    assert_eq!(attacked(&model, &split, &[alone], 32).robust[0], outcome.robust[0]);
    // Steps that nobody sets are each member's own.
    let standard = expand(&[settings("attack = 'autoattack'")]).unwrap();
    let steps: Vec<usize> = standard.iter().map(|member| member.settings.steps()).collect();
    assert_eq!(steps, [100, 100, 100, 5000]);
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
    let network = Network { model, weights: &Weights::default(), mode: Mode::F32 };
    let classes = rewire::attack::predictions(&network.logits(&x).unwrap()).unwrap();
    split.labels = Some(classes.into_iter().map(|class| class.unwrap() as i32).collect());
    split
}

#[test]
fn odd_images_of_few_classes_stay_in_their_balls() {
    for (arch, shape) in [
        ("resnet18:width=0.0625,classes=5,in_channels=3,size=9", [3, 3, 9, 9]),
        ("resnet18:width=0.0625,classes=3,in_channels=1,size=7", [2, 1, 7, 7]),
        ("resnet18:width=0.0625,classes=2,in_channels=3,size=3", [1, 3, 3, 3]),
    ] {
        let model = network_of(arch, &Device::Cpu);
        let split = noise(&model, shape);
        let [n, c, h, w] = shape;
        let originals = rewire::tensor::nchw_to_nhwc(&split.images_nchw(0..n), shape);
        for (name, steps) in ATTACKS {
            for (start, eps) in [(true, 0.05), (false, 0.05), (true, 0.4)] {
                let text = format!(
                    "attack = '{name}'\neps = {eps}\nsteps = {steps}\nrandom_start = {start}"
                );
                let outcome = attacked(&model, &split, &[settings(&text)], 2);
                assert_eq!(count(&outcome.clean), n);
                assert_eq!(outcome.adversarial.len(), n * c * h * w);
                assert!(
                    outcome.adversarial.iter().all(|y| (0.0..=1.0).contains(y)),
                    "{arch}, {name}"
                );
                let pairs = outcome.adversarial.chunks(c * h * w).zip(originals.chunks(c * h * w));
                for (i, (y, x)) in pairs.enumerate() {
                    let offsets = y.iter().zip(x).map(|(y, x)| f64::from((y - x).abs()));
                    let distance = match name.ends_with("-l2") {
                        true => offsets.map(|d| d * d).sum::<f64>().sqrt(),
                        false => offsets.fold(0.0, f64::max),
                    };
                    let inside = distance <= eps + 1e-6;
                    // FAB may find a wrong image outside, and says so.
                    assert!(inside || name.starts_with("fab"), "{arch}, {name}: {distance}");
                    let stands = outcome.robust[0][i];
                    assert!(inside || stands, "{arch}, {name}: {distance} has fallen");
                }
            }
        }
    }
}

#[test]
fn a_target_is_refused() {
    let model = attack_net("attack_net", &Device::Cpu);
    let network = Network { model: &model, weights: &Weights::default(), mode: Mode::F32 };
    for (name, _) in ATTACKS {
        let attacks = [settings(&format!("attack = '{name}'\ntarget = 'next'"))];
        let (done, split) = (Outcome::default(), attack_images(4));
        let got = evaluate(&network, &split, &attacks, 4, Seed(7), done, &mut |_| Ok(()));
        assert!(got.unwrap_err().to_string().contains("target"), "{name}");
    }
}

#[test]
fn what_an_image_gets_does_not_depend_on_its_batch() {
    let model = attack_net("attack_net", &Device::Cpu);
    let split = attack_images(24);
    let attack = |(name, steps)| {
        let eps = if str::ends_with(name, "-l2") { 0.2 } else { 0.025 };
        settings(&format!("attack = '{name}'\neps = {eps}\nsteps = {steps}"))
    };
    let attacks = ATTACKS.map(attack);
    let whole = attacked(&model, &split, &attacks, 24);
    assert_eq!(attacked(&model, &split, &attacks, 5), whole);
    for ((name, _), robust) in ATTACKS.iter().zip(&whole.robust) {
        assert!(count(robust) < count(&whole.clean), "{name} found nothing");
    }
    // Nor on the others in the list.
    for (k, attack) in attacks.iter().enumerate() {
        let alone = attacked(&model, &split, std::slice::from_ref(attack), 24);
        assert_eq!(alone.distances[0], whole.distances[k], "{}", attack.attack);
    }
}

#[test]
fn cuda_host_finds_what_the_cpu_finds() {
    let devices = [Device::Cpu, Device::new("cuda-host").unwrap()];
    let attack = |(name, steps): (&str, usize)| {
        let eps = if name.ends_with("-l2") { 0.2 } else { 0.025 };
        settings(&format!("attack = '{name}'\neps = {eps}\nsteps = {}", steps.min(6)))
    };
    let attacks = ATTACKS.map(attack);
    let [cpu, host] = devices.map(|device| {
        let model = attack_net("attack_net", &device);
        attacked(&model, &attack_images(6), &attacks, 6)
    });
    for ((name, _), (a, b)) in ATTACKS.iter().zip(cpu.robust.iter().zip(&host.robust)) {
        let differ = a.iter().zip(b).filter(|(a, b)| a != b).count();
        assert!(differ <= 1, "{name}: {a:?} {b:?}");
    }
}

#[test]
fn training_gets_the_point_of_largest_loss() {
    let model = attack_net("attack_net", &Device::Cpu);
    let split = attack_images(16);
    let x = rewire::tensor::nchw_to_nhwc(&split.images_nchw(0..16), [16, 1, 14, 14]);
    let x = Tensor::from_vec(x, &[16, 14, 14, 1], &Device::Cpu).unwrap();
    let labels = Tensor::from_vec(split.labels().unwrap().to_vec(), &[16], &Device::Cpu).unwrap();
    let weights = Weights::default();
    let network = Network { model: &model, weights: &weights, mode: Mode::F32 };
    let loss_of = |text: &str| {
        let draws = Draws { seed: Seed(1), stream: "train", restart: 0, turn: 3 };
        let settings = settings(&format!("eps = '8/255'\n{text}"));
        let x = adversary(&network, &x, &labels, &settings, draws).unwrap();
        let each = ops::softmax_xent_each(&network.logits(&x).unwrap(), &labels).unwrap();
        each.to_vec::<f32>().unwrap()
    };
    let loss = |name: &str, steps: usize| loss_of(&format!("attack = '{name}'\nsteps = {steps}"));
    // The first steps of a longer search are those of a shorter one, and the best of them is kept.
    let (one, few, many) = (loss("apgd-ce", 1), loss("apgd-ce", 3), loss("apgd-ce", 20));
    assert!(few.iter().zip(&one).all(|(few, one)| few >= one), "{few:?} {one:?}");
    // A step that moves no pixel leaves the images at their random starts.
    let start = loss_of("steps = 1\nstep_size = 1e-12");
    let mean = |each: &[f32]| each.iter().sum::<f32>() / each.len() as f32;
    assert!(mean(&many) > mean(&few) && mean(&few) > mean(&start));
    assert!(mean(&loss("apgd-t", 10)) > mean(&start));
    assert!(mean(&loss("square", 100)) > mean(&start));
    // An attack that looks for the nearest wrong image is none for training.
    let fab = settings("attack = 'fab-t'");
    let draws = Draws { seed: Seed(1), stream: "train", restart: 0, turn: 0 };
    assert!(adversary(&network, &x, &labels, &fab, draws).is_err());
}
