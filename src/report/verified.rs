//! Results of `rewire verify`: how many images are proven to stay correct.

use super::text::fixed;
use crate::attack::Epsilon;
use serde::Deserialize;

/// What `rewire verify --json` prints, as far as a report shows it; accuracies in percent of all images.
#[derive(Debug, Clone, Deserialize)]
pub struct Verified {
    /// The network's file.
    #[serde(default)]
    pub model: Option<String>,
    /// Images.
    pub images: usize,
    /// The radius of the ball that the proof holds in.
    #[serde(default)]
    pub eps: Option<Epsilon>,
    /// The bound that the proof is by.
    #[serde(default)]
    pub bound: Option<String>,
    /// Correct without an attack.
    pub clean: f64,
    /// Correct under PGD.
    #[serde(default)]
    pub attacked: Option<f64>,
    /// Proven to stay correct in real arithmetic.
    pub verified: f64,
    /// Proven to stay correct in f32.
    #[serde(default)]
    pub verified_f32: Option<f64>,
}

impl Verified {
    /// What was proven, for the top of the report.
    pub fn sentence(&self) -> String {
        let eps = self.eps.map(|eps| format!(" at eps {eps}")).unwrap_or_default();
        let by = self.bound.as_ref().map(|bound| format!(" by {bound}")).unwrap_or_default();
        let attacked =
            self.attacked.map(|attacked| format!(", {} % also under PGD{eps}", fixed(attacked, 1)));
        let rounding =
            self.verified_f32.map(|f32| format!(" ({} % with the rounding of f32)", fixed(f32, 1)));
        format!(
            "Of {} images, {} % are classified correctly{} and {} % are proven to stay correct{eps}{by}{}.",
            self.images,
            fixed(self.clean, 1),
            attacked.unwrap_or_default(),
            fixed(self.verified, 1),
            rounding.unwrap_or_default()
        )
    }
}
