//! What attacks did to a split.

use serde::{Deserialize, Serialize};

/// What attacks did to the images of a split. Attacks are those that [`super::expand`] lists.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// Whether each image is classified correctly without an attack.
    pub clean: Vec<bool>,
    /// By attack: whether each image is classified correctly under it; in a sequence, under it and those before it.
    pub robust: Vec<Vec<bool>>,
    /// Whether each image withstands all of them.
    pub worst: Vec<bool>,
    /// Whether an adversarial example was found for each image: within eps in the attack's norm. Where all attacks of the
    /// list search the nearest example, at any distance.
    pub found: Vec<bool>,
    /// `[N, H, W, C]`: the adversarial example of [`Self::found`], or the image itself where there is none. Of several attacks
    /// the first that finds one gives it; a nearer one of the same norm by an attack that searches the nearest replaces it.
    pub adversarial: Vec<f32>,
    /// Distance between each image and its adversarial example, in the norm of the attack that found it; 0 where there is none.
    pub distance: Vec<f32>,
    /// `[N, H, W, C]`: the nearest example that attacks found which search the nearest, at any distance, or the image itself.
    /// Empty unless the list holds such attacks beside others.
    pub nearest: Vec<f32>,
    /// How far [`Self::nearest`] is, in the norm of the attack that found it; 0 where the image was wrong already, infinite
    /// where none was found.
    pub nearest_distance: Vec<f32>,
    /// By attack: whether the first gradient of each image was finite and not zero; `None` where the attack took none.
    pub usable_gradients: Vec<Vec<Option<bool>>>,
    /// By attack: how far each image is from the example that this attack found, in the attack's norm; 0 where the image
    /// was wrong already, infinite where none was found.
    pub distances: Vec<Vec<f32>>,
}

impl Outcome {
    /// Percent of `flags` that are true.
    pub fn percent(flags: &[bool]) -> f64 {
        100.0 * flags.iter().filter(|&&flag| flag).count() as f64 / flags.len().max(1) as f64
    }

    /// Percent of all images that are right and have no adversarial example of attack `attack` within `eps`.
    pub fn percent_at(&self, attack: usize, eps: f32) -> f64 {
        let stands: Vec<bool> = self.distances[attack].iter().map(|&d| d > eps).collect();
        Self::percent(&stands)
    }

    /// How the distances of attack `attack` spread over the images that are right without one.
    pub fn spread(&self, attack: usize) -> Distances {
        let pairs = self.clean.iter().zip(&self.distances[attack]);
        Distances::new(pairs.filter(|pair| *pair.0).map(|pair| *pair.1).collect())
    }
}

/// Distances to the nearest adversarial examples that were found, over the images that are classified correctly. A quantile is the
/// smallest distance that so many of the images do not exceed; absent where none was found for that many.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Distances {
    /// Images.
    pub images: usize,
    /// Those that an adversarial example was found for.
    pub found: usize,
    /// The mean over those.
    pub mean: Option<f64>,
    /// The smallest.
    pub min: Option<f32>,
    /// The quantile of one tenth.
    pub q10: Option<f32>,
    /// One quarter.
    pub q25: Option<f32>,
    /// One half.
    pub median: Option<f32>,
    /// Three quarters.
    pub q75: Option<f32>,
    /// Nine tenths.
    pub q90: Option<f32>,
    /// The largest.
    pub max: Option<f32>,
}

impl Distances {
    fn new(mut each: Vec<f32>) -> Self {
        each.sort_by(f32::total_cmp);
        let found: Vec<f32> = each.iter().copied().filter(|d| d.is_finite()).collect();
        let quantile = |share: f64| {
            let rank = (share * each.len() as f64).ceil() as usize;
            each.get(rank.max(1) - 1).copied().filter(|d| d.is_finite())
        };
        let sum: f64 = found.iter().map(|&d| f64::from(d)).sum();
        Self {
            images: each.len(),
            found: found.len(),
            mean: (!found.is_empty()).then(|| sum / found.len() as f64),
            min: quantile(0.0),
            q10: quantile(0.1),
            q25: quantile(0.25),
            median: quantile(0.5),
            q75: quantile(0.75),
            q90: quantile(0.9),
            max: quantile(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_count_images_without_an_example_as_infinitely_far() {
        let far = f32::INFINITY;
        let outcome = Outcome {
            clean: vec![true, true, false, true, true],
            distances: vec![vec![0.5, far, 0.0, 0.25, 1.0]],
            ..Outcome::default()
        };
        let spread = outcome.spread(0);
        assert_eq!((spread.images, spread.found), (4, 3));
        assert_eq!((spread.min, spread.q25), (Some(0.25), Some(0.25)));
        assert_eq!((spread.median, spread.q75, spread.max), (Some(0.5), Some(1.0), None));
        assert_eq!(spread.mean, Some(1.75 / 3.0));
        assert_eq!(
            [0.0, 0.25, 0.3, 2.0].map(|eps| outcome.percent_at(0, eps)),
            [80.0, 60.0, 60.0, 20.0]
        );
        assert_eq!(Distances::new(Vec::new()), Distances::default());
    }
}
