//! `zoo`.

use super::common::*;
use rewire::attack::{Network, Outcome, evaluate};
use rewire::nn::Weights;
use rewire::{Device, Mode, Seed};

#[test]
fn as_many_images_fall_as_to_the_formulas_written_down_again() {
    for name in ["attack_net", "attack_net_adversarial"] {
        let (model, split, want) = compared(name, "zoo");
        let text = "attack = 'zoo'\nsteps = 16\nstep_size = 0.05";
        let pairs = recounted(&model, &split, text);
        let norm = |(x, twin): &(Vec<f32>, Vec<f32>)| {
            let squares = x.iter().zip(twin).map(|(a, b)| f64::from(a - b).powi(2));
            let far = squares.sum::<f64>().sqrt();
            if far == 0.0 { f64::INFINITY } else { far }
        };
        let got: Vec<f64> = pairs.iter().map(norm).collect();
        println!("{name}: {} fall, there {}", found(&got), found(&want));
        assert_eq!(got.len(), want.len());
        assert!(found(&got).abs_diff(found(&want)) <= 1, "{name}: {got:?}, there {want:?}");
        assert!(found(&got) > 2 && got.iter().all(|d| *d <= 20.0 || d.is_infinite()));
    }
}

#[test]
fn more_searches_bring_images_nearer_and_batches_do_not_matter() {
    let linear = Linear::new(4, 6, 0.1);
    let run = |searches: usize, batch: usize| {
        let text = format!(
            "attack = 'zoo'\nsteps = 120\nstep_size = 0.05\nbinary_search_steps = {searches}"
        );
        distances(&attacked(&linear.model, &linear.split, &text, batch))
    };
    let (few, many) = (run(2, 6), run(7, 6));
    assert!(many.iter().zip(&few).all(|(many, few)| many <= few), "{many:?} {few:?}");
    assert_ne!(many, few);
    assert!(found(&many) == 6, "{many:?}");
    assert_eq!(run(7, 4), many);
}

#[test]
fn other_modes_than_f32_are_refused() {
    let linear = Linear::new(4, 2, 0.1);
    let weights = Weights::default();
    for mode in [Mode::Tf32, Mode::Bf16] {
        let network = Network { model: &linear.model, weights: &weights, mode };
        let attacks = [settings("attack = 'zoo'")];
        let done = Outcome::default();
        let error = evaluate(&network, &linear.split, &attacks, 2, Seed(1), done, &mut |_| Ok(()));
        assert!(error.unwrap_err().to_string().contains("f32"));
    }
}

#[test]
fn devices_agree() {
    let (model, mut split, _) = compared("attack_net", "zoo");
    split.truncate(2);
    let on = |device: &str| {
        let model = model.to_device(&Device::new(device).unwrap()).unwrap();
        let text = "attack = 'zoo'\nsteps = 4\nstep_size = 0.4";
        distances(&attacked(&model, &split, text, 2))
    };
    let (cpu, gpu) = (on("cpu"), on("cuda-host"));
    println!("{cpu:?} {gpu:?}");
    assert_eq!(found(&cpu), found(&gpu));
    assert!(
        cpu.iter().zip(&gpu).all(|(a, b)| a == b || (a / b - 1.0).abs() < 0.02),
        "{cpu:?} {gpu:?}"
    );
}
