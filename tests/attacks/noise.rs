//! Attacks on networks with noise on their weights, targets, and stopping early.

use crate::fixture::{attack_images, attack_net};
use rewire::attack::{AttackSettings, Network, Outcome, Target, evaluate};
use rewire::nn::{Model, Noise, Weights};
use rewire::tensor::nchw_to_nhwc;
use rewire::{Device, Mode, Seed, Tensor};

fn attacked(model: &Model, alpha: Option<f32>, seed: u64, text: &str) -> Outcome {
    let noise = alpha.map(|alpha| Noise::uniform(model, alpha, Seed(seed)).unwrap());
    let weights = Weights { noise, ..Weights::default() };
    let network = Network { model, weights: &weights, mode: Mode::F32 };
    let attacks: [AttackSettings; 1] = [toml::from_str(text).unwrap()];
    let done = Outcome::default();
    evaluate(&network, &attack_images(64), &attacks, 32, Seed(seed), done, &mut |_| Ok(())).unwrap()
}

fn count(flags: &[bool]) -> usize {
    flags.iter().filter(|&&flag| flag).count()
}

fn logits(model: &Model, weights: &Weights) -> Vec<f32> {
    let split = attack_images(4);
    let x = nchw_to_nhwc(&split.images_nchw(0..4), [4, 1, 14, 14]);
    let x = Tensor::from_vec(x, &[4, 14, 14, 1], model.device()).unwrap();
    let network = Network { model, weights, mode: Mode::F32 };
    network.logits(&x).unwrap().to_vec::<f32>().unwrap()
}

#[test]
fn every_pass_draws_its_own_noise_and_pruned_weights_get_none() {
    for device in ["cpu", "cuda-host"] {
        let device = Device::new(device).unwrap();
        let mut model = attack_net("attack_net", &device);
        let plain = logits(&model, &Weights::default());
        let noisy = |model: &Model, alpha| Weights {
            noise: Some(Noise::uniform(model, alpha, Seed(1)).unwrap()),
            ..Weights::default()
        };
        let weights = noisy(&model, 0.2);
        let [first, second] = [(); 2].map(|()| logits(&model, &weights));
        assert!(first != second && first != plain);
        weights.noise.as_ref().unwrap().begin(0);
        assert_eq!(logits(&model, &weights), first);
        assert_eq!(logits(&model, &noisy(&model, 0.0)), plain);
        // Nothing but zeros: nothing that noise could move.
        for name in model.prunable() {
            let weight = model.param_mut(&name).unwrap();
            *weight =
                Tensor::from_vec(vec![0.0f32; weight.len()], weight.shape(), &device).unwrap();
        }
        let silent = logits(&model, &Weights::default());
        assert_eq!(logits(&model, &noisy(&model, 0.2)), silent);
    }
}

#[test]
fn eot_pgd_is_pgd_without_noise_and_no_weaker_with_it() {
    let model = attack_net("attack_net", &Device::Cpu);
    let how = "eps = '6/255'\nsteps = 8\nrandom_start = false";
    let pgd = attacked(&model, None, 1, &format!("attack = 'pgd'\n{how}"));
    let eot = attacked(&model, None, 1, &format!("attack = 'eot-pgd'\n{how}"));
    assert_eq!(pgd, eot);
    let noisy = |seed, text: &str| attacked(&model, Some(0.2), seed, &format!("{text}\n{how}"));
    assert_eq!(noisy(1, "attack = 'pgd'"), noisy(1, "attack = 'pgd'"));
    assert_ne!(noisy(1, "attack = 'pgd'").clean, noisy(2, "attack = 'pgd'").clean);
    let left = |text: &str| (0..4).map(|s| count(&noisy(s, text).robust[0])).sum::<usize>();
    let (pgd, eot) = (left("attack = 'pgd'"), left("attack = 'eot-pgd'\neot_samples = 8"));
    assert!(eot <= pgd, "{eot} of 256 stand under the mean gradient, {pgd} under one");
    // The draws of an attack are its own, so it is compared with itself.
    let samples = |count| noisy(0, &format!("attack = 'eot-pgd'\neot_samples = {count}"));
    assert_ne!(samples(1), samples(8), "eot_samples changes nothing");
}

#[test]
fn targets_pull_images_where_they_say() {
    let model = attack_net("attack_net", &Device::Cpu);
    let weights = Weights::default();
    let network = Network { model: &model, weights: &weights, mode: Mode::F32 };
    let split = attack_images(64);
    let labels = split.labels().unwrap();
    let images = nchw_to_nhwc(&split.images_nchw(0..64), [64, 1, 14, 14]);
    let clean = Tensor::from_vec(images, &[64, 14, 14, 1], &Device::Cpu).unwrap();
    let clean = network.logits(&clean).unwrap().to_vec::<f32>().unwrap();
    let least = |i: usize| {
        let logits = &clean[10 * i..10 * (i + 1)];
        (0..10).min_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap()
    };
    for target in [Target::Next, Target::LeastLikely, Target::Class(3)] {
        for attack in ["pgd", "fgsm", "pgd-l2"] {
            let eps = if attack == "pgd-l2" { "1.5" } else { "'32/255'" };
            let text = format!("attack = '{attack}'\neps = {eps}\ntarget = '{target}'");
            let text = text.replace("'3'", "3");
            let outcome = attacked(&model, None, 1, &text);
            let twins =
                Tensor::from_vec(outcome.adversarial.clone(), &[64, 14, 14, 1], &Device::Cpu);
            let logits = network.logits(&twins.unwrap()).unwrap();
            let classes = rewire::attack::predictions(&logits).unwrap();
            let mut hits = 0;
            for i in (0..64).filter(|&i| outcome.found[i]) {
                let own = labels[i] as usize;
                let want = match target {
                    Target::Next => (own + 1) % 10,
                    Target::LeastLikely => least(i),
                    _ => 3,
                };
                hits += usize::from(classes[i] == Some(want));
                assert!(target != Target::Class(3) || attack == "fgsm" || own != 3, "{attack}");
            }
            let found = count(&outcome.found);
            // Many steps arrive nearly always, one step seldom.
            let least = if attack == "fgsm" { 1 } else { (3 * found).div_ceil(4) };
            assert!(found > 20 && hits >= least, "{text}: {hits}/{found}");
        }
    }
    // Nothing but the targets is drawn.
    let random = |seed| {
        attacked(&model, None, seed, "eps = '8/255'\ntarget = 'random'\nrandom_start = false")
    };
    assert_eq!(random(1), random(1));
    assert_ne!(random(1), random(2));
    let wrong: AttackSettings = toml::from_str("target = 10").unwrap();
    let done = Outcome::default();
    let error = evaluate(&network, &split, &[wrong], 64, Seed(1), done, &mut |_| Ok(()));
    assert!(error.unwrap_err().to_string().contains("target = 10"));
}

#[test]
fn stopping_early_only_adds_to_what_falls() {
    let model = attack_net("attack_net", &Device::Cpu);
    let mut more = 0;
    for attack in ["pgd", "pgd-l2"] {
        for eps in ["0.015", "0.2"] {
            let text = format!("attack = '{attack}'\neps = {eps}\nrestarts = 2\nsteps = 7");
            let last = attacked(&model, None, 1, &text);
            let first = attacked(&model, None, 1, &format!("{text}\nearly_stop = true"));
            let added = first.robust[0].iter().zip(&last.robust[0]).all(|(f, l)| *l || !*f);
            assert!(added, "{text}");
            more += usize::from(first != last);
        }
    }
    assert!(more > 0, "early_stop changes nothing");
}
