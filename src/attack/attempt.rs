//! One attempt of an attack: its start, its projection, and what training takes of it.

use super::{AttackSettings, Case, Draws, Network, Norm, Search, find};
use crate::{Result, Tensor, ops};
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

/// The adversarial batch that training sees: one attempt a restart, per image the one of larger loss.
///
/// Errors: [`crate::ErrorKind::Param`] for an attack that does not stay inside a ball.
pub fn adversary(
    network: &Network,
    x: &Tensor,
    labels: &Tensor,
    settings: &AttackSettings,
    draws: Draws,
) -> Result<Tensor> {
    settings.check_adversary()?;
    let settings = &settings.resolved()?;
    let images: Vec<usize> = (0..x.shape()[0]).collect();
    let try_once = |restart: usize| {
        let draws = Draws { restart: restart as u32, ..draws };
        let start = starting_point(x, settings, draws, &images)?;
        attempt(&Case {
            network,
            x,
            labels,
            images: &images,
            start,
            settings,
            draws,
            split: None,
            source: None,
            first_gradients: None,
        })
    };
    let mut best = try_once(0)?;
    if restarts(settings)? == 1 {
        return Ok(best);
    }
    let loss = |x: &Tensor| ops::softmax_xent_each(&network.logits(x)?, labels)?.to_vec::<f32>();
    let mut highest = loss(&best)?;
    for restart in 1..settings.restarts {
        let candidate = try_once(restart)?;
        let losses = loss(&candidate)?;
        let better: Vec<bool> = losses.iter().zip(&highest).map(|(new, old)| new > old).collect();
        best = merge(&best, &candidate, &better)?;
        highest = losses.iter().zip(&highest).map(|(new, old)| new.max(*old)).collect();
    }
    Ok(best)
}

/// One attempt, projected onto the ball and [0, 1] whatever the attack returned.
pub(super) fn attempt(case: &Case) -> Result<Tensor> {
    let entry = find(&case.settings.attack)?;
    let mut adversarial = (entry.perturb)(case)?;
    adversarial.expect_shape("attack", "adversarial", case.x.shape())?;
    let eps = case.settings.eps.value();
    match (entry.search, entry.norm) {
        (Search::OneStep | Search::Ball, Norm::L2) => {
            ops::pgd_l2_step(&mut adversarial, case.x, case.x, eps, 0.0)?;
        }
        (Search::OneStep | Search::Ball, Norm::Linf) => {
            ops::pgd_step(&mut adversarial, case.x, case.x, eps, 0.0)?;
        }
        (Search::Nearest, _) | (_, Norm::L0) => {
            ops::pgd_step(&mut adversarial, case.x, case.x, 1.0, 0.0)?;
        }
    }
    Ok(adversarial.detach())
}

/// From what distance on an image counts as robust. What was projected onto the ball is inside, whatever the rounding.
pub(super) fn radius(settings: &AttackSettings) -> Result<f32> {
    let entry = find(&settings.attack)?;
    Ok(match (entry.search, entry.norm) {
        (Search::Nearest, _) | (_, Norm::L0) => settings.eps.value(),
        _ => f32::MAX,
    })
}

fn randomised(settings: &AttackSettings) -> Result<bool> {
    Ok(settings.random_start && find(&settings.attack)?.search == Search::Ball)
}

/// How many attempts differ.
pub(super) fn restarts(settings: &AttackSettings) -> Result<usize> {
    Ok(if randomised(settings)? { settings.restarts } else { 1 })
}

/// x, or a random point of the ball around it. `images` says where each image stands in the split.
pub(super) fn starting_point(
    x: &Tensor,
    settings: &AttackSettings,
    draws: Draws,
    images: &[usize],
) -> Result<Tensor> {
    let eps = settings.eps.value();
    match find(&settings.attack)?.norm {
        _ if !randomised(settings)? => Ok(x.detach()),
        Norm::Linf => {
            let size = x.len() / images.len().max(1);
            let first = images.first().map_or(0, |&image| image * size);
            ops::pgd_start(x, eps, &draws.philox(), first as u64)
        }
        Norm::L2 => {
            let mut pixels = x.to_vec::<f32>()?;
            let size = pixels.len() / images.len().max(1);
            for (&image, pixels) in images.iter().zip(pixels.chunks_mut(size.max(1))) {
                let offset = in_the_ball(&mut draws.host(image), size);
                for (pixel, offset) in pixels.iter_mut().zip(offset) {
                    *pixel = (*pixel + eps * offset as f32).clamp(0.0, 1.0);
                }
            }
            Tensor::from_vec(pixels, x.shape(), &x.device())
        }
        Norm::L0 => Ok(x.detach()),
    }
}

/// A uniform point of the unit ball of `size` dimensions: a direction of normal numbers, `u^(1/size)` from the centre.
fn in_the_ball(rng: &mut ChaCha8Rng, size: usize) -> Vec<f64> {
    let mut normals = || {
        let (u, v): (f64, f64) = (rng.random(), rng.random());
        let r = (-2.0 * (1.0 - u).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * v).sin_cos();
        [r * sine, r * cosine]
    };
    let mut point: Vec<f64> =
        std::iter::repeat_with(&mut normals).take(size.div_ceil(2)).flatten().take(size).collect();
    let length = point.iter().map(|p| p * p).sum::<f64>().sqrt();
    let radius = rng.random::<f64>().powf(1.0 / size as f64);
    point.iter_mut().for_each(|p| *p *= radius / length.max(f64::MIN_POSITIVE));
    point
}

/// The images of `b` where `which` says so, else those of `a`.
fn merge(a: &Tensor, b: &Tensor, which: &[bool]) -> Result<Tensor> {
    let (mut pixels, other) = (a.to_vec::<f32>()?, b.to_vec::<f32>()?);
    let size = pixels.len() / which.len().max(1);
    for (i, _) in which.iter().enumerate().filter(|(_, take)| **take) {
        pixels[i * size..][..size].copy_from_slice(&other[i * size..][..size]);
    }
    Tensor::from_vec(pixels, a.shape(), &a.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn points_fill_the_ball() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for size in [1, 2, 5] {
            let points: Vec<_> = (0..4000).map(|_| in_the_ball(&mut rng, size)).collect();
            let length = |p: &Vec<f64>| p.iter().map(|p| p * p).sum::<f64>().sqrt();
            assert!(points.iter().all(|p| p.len() == size && length(p) <= 1.0));
            // Half of the volume lies within 2^(-1/size); 4,000 draws miss a half by 3.2 % at four deviations.
            let inside = points.iter().filter(|p| length(p) < 0.5f64.powf(1.0 / size as f64));
            assert!(inside.count().abs_diff(2000) < 130, "{size}");
            for i in 0..size {
                let above = points.iter().filter(|p| p[i] > 0.0).count();
                assert!(above.abs_diff(2000) < 130, "{size}: {above}");
            }
        }
    }
}
