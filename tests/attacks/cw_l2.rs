//! `cw-l2`.

use super::common::*;
use rewire::Device;

#[test]
fn on_a_linear_network_the_distance_is_that_of_the_plane() {
    let linear = Linear::new(2, 16, 0.3);
    let text = "attack = 'cw-l2'\nstep_size = 0.003";
    let pairs = recounted(&linear.model, &linear.split, text);
    assert_eq!(pairs.len(), 16);
    let mut far_enough = 0;
    for (n, (x, twin)) in pairs.iter().enumerate() {
        let (pixels, planes) = linear.margins(n);
        let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
        let (margin, slope) = &planes[0];
        let want = margin / norm(slope);
        let got: Vec<f64> = x.iter().zip(twin).map(|(a, b)| f64::from(a - b)).collect();
        let got = norm(&got);
        // The foot of the perpendicular lies in the box, so the closed form holds.
        let foot = |(&x, w): (&f32, &f64)| f64::from(x) - margin * w / norm(slope).powi(2);
        let mut feet = pixels.iter().zip(slope).map(foot);
        assert!(feet.all(|x| (0.0..=1.0).contains(&x)), "image {n}");
        assert!(got >= want * (1.0 - 1e-4), "image {n}: {got}, not {want}");
        // What is nearer than a few steps is overshot.
        if want > 0.03 {
            far_enough += 1;
            assert!(got <= 1.01 * want, "image {n}: {got}, not {want}");
        }
    }
    assert!(far_enough >= 8, "{far_enough} images");
}

#[test]
fn searches_only_bring_an_image_nearer_and_batches_do_not_matter() {
    let (model, split, _) = compared("attack_net", "cw_logits");
    let run = |searches: usize, batch: usize| {
        let text = format!("attack = 'cw-l2'\nsteps = 60\nbinary_search_steps = {searches}");
        attacked(&model, &split, &text, batch)
    };
    let mut last = vec![f64::INFINITY; 20];
    for searches in [1, 3, 5, 7, 8, 9] {
        let now = distances(&run(searches, 20));
        assert!(now.iter().zip(&last).all(|(now, last)| now <= last), "{searches}");
        last = now;
    }
    assert!(4 * found(&last) >= 3 * last.len(), "{last:?}");
    assert_eq!(distances(&run(9, 7)), last);
}

#[test]
fn what_is_found_is_wrong_and_no_farther_than_another_program_finds() {
    for name in ["attack_net", "attack_net_adversarial"] {
        let (model, split, want) = compared(name, "cw_logits");
        let text = "attack = 'cw-l2'\nsteps = 100";
        let got = distances(&attacked(&model, &split, text, 20));
        assert!(found(&got) + 1 >= found(&want), "{name}: {got:?}");
        assert_median(&got, &want, 1.05, &format!("{name}, logits"));
        recounted(&model, &split, "attack = 'cw-l2'\nsteps = 40\nbinary_search_steps = 6");

        let (_, _, want) = compared(name, "cw_probabilities");
        let text = format!("{text}\nfaithful = true");
        let got = distances(&attacked(&model, &split, &text, 20));
        assert!(found(&got).abs_diff(found(&want)) <= 1, "{name}: {got:?}");
        assert_median(&got, &want, 1.05, &format!("{name}, probabilities"));
        assert_median(&want, &got, 1.05, &format!("{name}, probabilities, the other way"));
    }
}

#[test]
fn devices_agree() {
    let (model, split, _) = compared("attack_net", "cw_logits");
    let on = |device: &str| {
        let model = model.to_device(&Device::new(device).unwrap()).unwrap();
        let text = "attack = 'cw-l2'\nsteps = 10\nbinary_search_steps = 5\nstep_size = 0.05";
        distances(&attacked(&model, &split, text, 20))
    };
    let (cpu, gpu) = (on("cpu"), on("cuda-host"));
    assert!(found(&cpu).abs_diff(found(&gpu)) <= 1, "{cpu:?} {gpu:?}");
    assert!((median(&cpu) / median(&gpu) - 1.0).abs() < 0.02, "{cpu:?} {gpu:?}");
}

#[test]
fn without_steps_nothing_is_found() {
    let linear = Linear::new(4, 3, 0.3);
    let pairs = recounted(&linear.model, &linear.split, "attack = 'cw-l2'\nsteps = 0");
    assert!(pairs.len() == 3 && pairs.iter().all(|(x, twin)| x == twin));
}
