//! `bb-l0`.

use super::common::*;
use rewire::Device;

fn changed((x, twin): &(Vec<f32>, Vec<f32>)) -> usize {
    x.iter().zip(twin).filter(|(x, twin)| x != twin).count()
}

/// The fewest values that bring a linear margin below 0: the largest gains first.
fn fewest(x: &[f32], margin: f64, slope: &[f64]) -> usize {
    let gain = |(&x, &w): (&f32, &f64)| w.abs() * f64::from(if w > 0.0 { x } else { 1.0 - x });
    let mut gains: Vec<f64> = x.iter().zip(slope).map(gain).collect();
    gains.sort_by(|a, b| b.total_cmp(a));
    let mut left = margin;
    let needed = gains.iter().take_while(|gain| {
        let more = left >= 0.0;
        left -= **gain;
        more
    });
    needed.count()
}

#[test]
fn on_a_linear_network_of_two_classes_it_changes_as_few_values_as_any_can() {
    let linear = Linear::new(2, 12, 0.0);
    let text = "attack = 'bb-l0'\nsteps = 60";
    let pairs = recounted(&linear.model, &linear.split, text);
    assert_eq!(pairs.len(), 12);
    for (n, pair) in pairs.iter().enumerate() {
        let (x, planes) = linear.margins(n);
        let want = planes.iter().map(|(margin, slope)| fewest(&x, *margin, slope)).min().unwrap();
        assert_eq!(changed(pair), want, "image {n}");
    }
}

#[test]
fn what_is_found_is_wrong_and_changes_as_few_values_as_another_program() {
    let rows = [("bb_logits", ""), ("bb_probabilities", "faithful = true")];
    for name in ["attack_net", "attack_net_adversarial"] {
        for (row, more) in rows {
            let (model, split, want) = compared(name, row);
            let text = format!("attack = 'bb-l0'\nsteps = 300\n{more}");
            let got = distances(&attacked(&model, &split, &text, 20));
            assert_eq!(found(&got), got.len(), "{name}, {row}: {got:?}");
            assert_median(&got, &want, 1.1, &format!("{name}, {row}"));
            let pairs = recounted(&model, &split, &text);
            // A value counts as changed from 1e-4 on, and nothing smaller is left.
            if !more.contains("faithful") {
                let small = |(x, twin): (&f32, &f32)| x != twin && (x - twin).abs() <= 1e-4;
                assert!(pairs.iter().all(|(x, twin)| !x.iter().zip(twin).any(small)));
            }
        }
    }
}

#[test]
fn a_shrinking_trust_region_ends_at_a_wrong_image_too() {
    let (model, split, want) = compared("attack_net_adversarial", "bb_logits");
    let text = "attack = 'bb-l0'\nsteps = 120\ndecay_interval = 1";
    let got = distances(&attacked(&model, &split, text, 20));
    assert_eq!(found(&got), got.len(), "{got:?}");
    // The reference with its radius that never binds is the measure.
    assert_median(&got, &want, 1.1, "decay_interval = 1");
    recounted(&model, &split, text);
    let as_published = distances(&attacked(&model, &split, "attack = 'bb-l0'\nsteps = 120", 20));
    assert_ne!(got, as_published, "decay_interval changes nothing");
}

#[test]
fn an_image_does_not_depend_on_its_batch() {
    let (model, split, _) = compared("attack_net", "bb_logits");
    let run = |batch: usize| attacked(&model, &split, "attack = 'bb-l0'\nsteps = 20", batch);
    assert_eq!(run(20), run(7));
}

#[test]
fn a_split_of_one_class_starts_from_noise() {
    let (model, mut split, _) = compared("attack_net_adversarial", "bb_logits");
    split.truncate(1);
    let pairs = recounted(&model, &split, "attack = 'bb-l0'\nsteps = 30");
    assert_eq!(pairs.len(), 1);
    assert!(changed(&pairs[0]) > 0, "no start was found");
}

#[test]
fn devices_agree() {
    let (model, split, _) = compared("attack_net", "bb_logits");
    let on = |device: &str| {
        let model = model.to_device(&Device::new(device).unwrap()).unwrap();
        distances(&attacked(&model, &split, "attack = 'bb-l0'\nsteps = 50", 20))
    };
    let (cpu, gpu) = (on("cpu"), on("cuda-host"));
    assert!(found(&cpu).abs_diff(found(&gpu)) <= 1, "{cpu:?} {gpu:?}");
    assert!((median(&cpu) / median(&gpu) - 1.0).abs() < 0.02, "{cpu:?} {gpu:?}");
}
