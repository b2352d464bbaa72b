//! What every attack of the registry owes: its ball, the box, determinism, and the same findings on every device.

use crate::fixture::{attack_images, attack_net};
use rewire::attack::{
    ATTACKS, AttackEntry, AttackSettings, Evaluation, Network, Norm, Outcome, Search, predictions,
};
use rewire::nn::{Model, Weights};
use rewire::{Device, Mode, Seed, Tensor};

/// Images that each attack is tried on.
const IMAGES: usize = 16;

/// Keys that keep an attack short here; what is not named takes ten steps.
fn budget(name: &str) -> &'static str {
    match name {
        "eot-pgd" => "steps = 5\neot_samples = 2",
        "cw-l2" | "fab-t" | "apgd-ce" | "apgd-t" => "steps = 20",
        "square" => "steps = 100",
        "fgsm" | "fgsm-rs" => "",
        "zoo" => "steps = 16",
        _ => "steps = 10",
    }
}

/// A radius at which some of the images fall and some do not.
fn radius(entry: &AttackEntry) -> f64 {
    match (entry.name, entry.norm) {
        // So few queries find little nearer by.
        ("square", _) => 8.0 / 255.0,
        (_, Norm::Linf) => 4.0 / 255.0,
        (_, Norm::L2) => 0.2,
        (_, Norm::L0) => 8.0,
    }
}

fn settings(entry: &AttackEntry, eps: f64) -> AttackSettings {
    let text = format!("attack = '{}'\neps = {eps}\n{}", entry.name, budget(entry.name));
    let settings: AttackSettings = toml::from_str(&text).unwrap();
    settings.check().unwrap();
    settings
}

fn attacked(model: &Model, source: &Model, attack: AttackSettings, batch_size: usize) -> Outcome {
    let weights = Weights::default();
    let network = |model| Network { model, weights: &weights, mode: Mode::F32 };
    let (network, source) = (network(model), network(source));
    let evaluation = Evaluation {
        network: &network,
        source: Some(&source),
        split: &attack_images(IMAGES),
        attacks: &[attack],
        batch_size,
        seed: Seed(3),
    };
    evaluation.run(Outcome::default(), &mut |_| Ok(())).unwrap()
}

fn state_bits(model: &Model) -> Vec<Vec<u32>> {
    let bits = |t: &rewire::Tensor| t.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits);
    model.state_dict().values().map(|t| bits(t).collect()).collect()
}

/// The classes of images `[N][H·W·C]`.
fn judged(model: &Model, images: &[f32]) -> Vec<Option<usize>> {
    let network = Network { model, weights: &Weights::default(), mode: Mode::F32 };
    let x = Tensor::from_vec(images.to_vec(), &[IMAGES, 14, 14, 1], &Device::Cpu).unwrap();
    predictions(&network.logits(&x).unwrap()).unwrap()
}

fn count(flags: &[bool]) -> usize {
    flags.iter().filter(|&&flag| flag).count()
}

/// Sorted; the lower of the two middle values where there are two.
fn median(mut values: Vec<f32>) -> f32 {
    values.sort_by(f32::total_cmp);
    values[(values.len() - 1) / 2]
}

fn distance(norm: Norm, a: &[f32], b: &[f32]) -> f64 {
    let each = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    match norm {
        Norm::Linf => each.fold(0.0, f64::max),
        Norm::L2 => each.map(|d| d * d).sum::<f64>().sqrt(),
        Norm::L0 => each.filter(|&d| d > 0.0).count() as f64,
    }
}

#[test]
fn every_attack_stays_in_its_ball_and_leaves_the_network_alone() {
    let [model, source] =
        ["attack_net", "attack_net_adversarial"].map(|name| attack_net(name, &Device::Cpu));
    let before = [&model, &source].map(state_bits);
    let split = attack_images(IMAGES);
    let labels = split.labels().unwrap();
    let mut originals = Vec::new();
    for entry in ATTACKS {
        let name = entry.name;
        if entry.search != Search::Nearest {
            let none = attacked(&model, &source, settings(entry, 0.0), 7);
            assert_eq!((&none.robust[0], &none.worst), (&none.clean, &none.clean), "{name}");
            assert!(!none.found.contains(&true), "{name}");
            originals = none.adversarial;
        }
        let eps = radius(entry);
        let outcome = attacked(&model, &source, settings(entry, eps), 7);
        assert_eq!(attacked(&model, &source, settings(entry, eps), 7), outcome, "{name}");
        let size = originals.len() / IMAGES;
        assert!(outcome.adversarial.iter().all(|p| (0.0..=1.0).contains(p)), "{name}");
        let pairs = outcome.adversarial.chunks(size).zip(originals.chunks(size));
        let judged = judged(&model, &outcome.adversarial);
        for (i, (twin, original)) in pairs.enumerate() {
            let far = distance(entry.norm, twin, original);
            let said = f64::from(outcome.distance[i]);
            assert!((far - said).abs() <= 1e-6 * far, "{name}: {far}, said to be {said}");
            if entry.search != Search::Nearest {
                assert!(far <= eps * (1.0 + 1e-6) + 1e-7, "{name}: {far}");
            }
            if !outcome.found[i] {
                assert_eq!(twin, original, "{name}: image {i}");
            }
            let wrong = judged[i] != Some(labels[i] as usize);
            assert!(wrong || !outcome.found[i], "{name}: image {i} is none, judged again");
            let fell = outcome.clean[i] && !outcome.robust[0][i];
            assert!(!fell || (outcome.found[i] && said <= eps * (1.0 + 1e-6) + 1e-7), "{name}");
        }
        let left = count(&outcome.robust[0]);
        if entry.search != Search::Nearest && name != "transfer" && entry.norm == Norm::Linf {
            // A step that moves no pixel leaves the images at their random starts.
            let noise =
                toml::from_str(&format!("eps = {eps}\nsteps = 1\nstep_size = 1e-12")).unwrap();
            let noise = count(&attacked(&model, &source, noise, 7).robust[0]);
            assert!(left < noise, "{name}: {left} stand, {noise} under noise alone");
        }
        // Far enough, every attack that looks at the network or at a like one finds something.
        assert!(count(&outcome.found) > 0 || name == "transfer", "{name} finds nothing");
    }
    assert_eq!([&model, &source].map(state_bits), before);
}

/// Attacks of many passes, whose own tests compare the devices on fewer images.
const COMPARED_ELSEWHERE: [&str; 10] = [
    "zoo",
    "cw-l2",
    "bb-l0",
    "apgd-ce",
    "apgd-ce-l2",
    "apgd-t",
    "apgd-t-l2",
    "fab-t",
    "fab-t-l2",
    "square",
];

#[test]
fn every_attack_finds_the_same_on_the_emulated_gpu() {
    let known = |name| ATTACKS.iter().any(|entry| entry.name == name);
    assert!(COMPARED_ELSEWHERE.into_iter().all(known));
    let on = |device: &str| {
        let device = Device::new(device).unwrap();
        ["attack_net", "attack_net_adversarial"].map(|name| attack_net(name, &device))
    };
    let ([cpu, cpu_source], [gpu, gpu_source]) = (on("cpu"), on("cuda-host"));
    for entry in ATTACKS.iter().filter(|entry| !COMPARED_ELSEWHERE.contains(&entry.name)) {
        let (name, eps) = (entry.name, radius(entry));
        let here = attacked(&cpu, &cpu_source, settings(entry, eps), IMAGES);
        let there = attacked(&gpu, &gpu_source, settings(entry, eps), IMAGES);
        assert_eq!(here.clean, there.clean, "{name}");
        let differ = here.found.iter().zip(&there.found).filter(|(a, b)| a != b).count();
        assert!(differ <= 1, "{name}: {differ} images fall on one device alone");
        let distances = |outcome: &Outcome| -> Vec<f32> {
            let both = here.found.iter().zip(&there.found).map(|(a, b)| a & b);
            let pairs = outcome.distance.iter().zip(both);
            pairs.filter(|pair| pair.1).map(|pair| *pair.0).collect()
        };
        if distances(&here).is_empty() {
            assert_eq!(name, "transfer");
            continue;
        }
        let [a, b] = [&here, &there].map(|outcome| median(distances(outcome)));
        assert!((a - b).abs() <= 0.02 * a, "{name}: median distance {a} and {b}");
    }
}
