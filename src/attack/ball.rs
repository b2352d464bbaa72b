//! The ball around an image, cut by [0, 1], that Auto-PGD stays in.

use crate::rng;
use rand::Rng;
use rand::rngs::ChaCha8Rng;

/// A norm and the radius.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ball {
    Linf(f32),
    L2(f32),
}

impl Ball {
    pub(super) fn radius(self) -> f32 {
        match self {
            Self::Linf(eps) | Self::L2(eps) => eps,
        }
    }

    /// x + eps·t/‖t‖, clipped to [0, 1]: t uniform in [−1, 1) for L∞, normal for L2.
    pub(super) fn start(self, x: &[f32], draws: &mut ChaCha8Rng) -> Vec<f32> {
        let mut noise = || match self {
            Self::Linf(_) => 2.0 * rng::unit(draws.next_u32()) - 1.0,
            Self::L2(_) => rng::normal_pair(draws.next_u32(), draws.next_u32()).0,
        };
        let noise: Vec<f32> = x.iter().map(|_| noise()).collect();
        let scale = self.radius() / (self.length(&noise) + 1e-12);
        x.iter().zip(noise).map(|(x, noise)| (x + scale * noise).clamp(0.0, 1.0)).collect()
    }

    /// The steepest way up a gradient, of length 1: its signs, or the gradient over its length. Where the gradient is
    /// 0, and for L2 where it is not finite, 0.
    pub(super) fn steepest(self, gradient: &[f32]) -> Vec<f32> {
        match self {
            Self::Linf(_) => {
                let sign = |g: &f32| f32::from(i8::from(*g > 0.0) - i8::from(*g < 0.0));
                gradient.iter().map(sign).collect()
            }
            Self::L2(_) => {
                // Divided in f64: the squares of the smallest gradients would be 0 in f32.
                let length = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
                let scale = if length > 0.0 && length.is_finite() { 1.0 / length } else { 0.0 };
                let share =
                    |g: &f32| if scale > 0.0 { (f64::from(*g) * scale) as f32 } else { 0.0 };
                gradient.iter().map(share).collect()
            }
        }
    }

    /// Moves y into the ball around x and into [0, 1].
    pub(super) fn project(self, x: &[f32], y: &mut [f32]) {
        match self {
            Self::Linf(eps) => {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = y.max(x - eps).min(x + eps).clamp(0.0, 1.0);
                }
            }
            Self::L2(eps) => {
                let offset: Vec<f32> = y.iter().zip(x).map(|(y, x)| y - x).collect();
                let scale = (eps / (self.length(&offset) + 1e-12)).min(1.0);
                for ((y, x), offset) in y.iter_mut().zip(x).zip(offset) {
                    *y = (x + scale * offset).clamp(0.0, 1.0);
                }
            }
        }
    }

    fn length(self, v: &[f32]) -> f32 {
        match self {
            Self::Linf(_) => v.iter().fold(0.0, |length: f32, v| length.max(v.abs())),
            Self::L2(_) => v.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt() as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    #[test]
    fn points_are_moved_into_ball_and_box() {
        let x = [0.0f32, 1.0, 0.5, 0.25];
        for ball in [Ball::Linf(0.125), Ball::L2(0.125)] {
            let mut draws = Seed(3).host("ball", 0);
            for _ in 0..20 {
                let start = ball.start(&x, &mut draws);
                let mut far: Vec<f32> =
                    start.iter().zip(&x).map(|(y, x)| x + 9.0 * (y - x)).collect();
                ball.project(&x, &mut far);
                for y in [&start, &far] {
                    let offset: Vec<f32> = y.iter().zip(&x).map(|(y, x)| y - x).collect();
                    assert!(ball.length(&offset) <= 0.125 + 1e-7, "{ball:?} {y:?}");
                    assert!(y.iter().all(|y| (0.0..=1.0).contains(y)), "{ball:?} {y:?}");
                }
                let mut same = start.clone();
                ball.project(&x, &mut same);
                assert!(same.iter().zip(&start).all(|(a, b)| (a - b).abs() < 1e-7), "{ball:?}");
            }
        }
    }

    #[test]
    fn the_steepest_way_has_length_one_or_none() {
        assert_eq!(Ball::Linf(0.1).steepest(&[3.0, 0.0, -1e-30, f32::NAN]), [1.0, 0.0, -1.0, 0.0]);
        let way = Ball::L2(0.1).steepest(&[3e-30, 0.0, -4e-30]);
        assert!((way[0] - 0.6).abs() < 1e-6 && (way[2] + 0.8).abs() < 1e-6, "{way:?}");
        for gradient in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            assert_eq!(Ball::L2(0.1).steepest(&gradient), [0.0; 2]);
        }
    }
}
