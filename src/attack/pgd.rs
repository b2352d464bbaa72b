//! Projected gradient descent in the L∞ ball: K times
//! `x̂ ← min(max(x̂ + step_size·sign ∇ CE, max(x − eps, 0)), min(x + eps, 1))`, labels true; with a target the step goes
//! down the cross-entropy of the target. The image after the last step counts, as published; `early_stop` takes the first
//! wrong one.
//!
//! Source: Madry et al. 2018, arXiv 1706.06083.

use super::{
    AttackEntry, AttackSettings, Case, Epsilon, Network, Norm, Search, aim, predictions, rows,
};
use crate::{Result, Tensor, ops};

/// The line in the registry.
pub const ENTRY: AttackEntry = AttackEntry {
    name: "pgd",
    summary: "projected gradient descent in the L∞ ball, random start",
    source: "arXiv 1706.06083",
    norm: Norm::Linf,
    search: Search::Ball,
    steps: 20,
    reads: READS,
    resolve,
    perturb,
};

/// What `pgd` and those like it read.
pub(super) const READS: &[&str] = &[
    "steps",
    "step_size",
    "relative_step_size",
    "random_start",
    "restarts",
    "target",
    "early_stop",
];

/// `step(x̂, x, gradient, eps, step_size)`: a step up the gradient and the projection.
type Step = fn(&mut Tensor, &Tensor, &Tensor, f32, f32) -> Result<()>;

/// A step of 2.5·eps/steps.
pub(super) fn resolve(settings: &mut AttackSettings) {
    let size = 2.5 * settings.eps.exact() / settings.steps().max(1) as f64;
    settings.step_size.get_or_insert(Epsilon::nearest(size));
}

pub(super) fn perturb(case: &Case) -> Result<Tensor> {
    descend(case, case.network, 1, ops::pgd_step)
}

/// The steps of `case` along the sum of `samples` gradients of `network`.
pub(super) fn descend(
    case: &Case,
    network: &Network,
    samples: usize,
    step: Step,
) -> Result<Tensor> {
    let aim = aim::aim(case, network)?;
    let (eps, size) = (case.settings.eps.value(), aim.sign * case.settings.step_size());
    // A draw of noise proves nothing, and neither does another network.
    let certain = network.weights.noise.is_none() && std::ptr::eq(network, case.network);
    let mut watch =
        (case.settings.early_stop && case.split.is_some() && certain).then(|| Watch::new(case));
    let (mut adversarial, mut x, mut labels) = (case.start.clone(), case.x.clone(), aim.labels);
    for k in 0..case.settings.steps() {
        let (mut gradient, logits) = network.gradient_and_logits(&adversarial, &labels)?;
        for _ in 1..samples {
            let another = network.input_gradient(&adversarial, &labels)?;
            gradient = ops::elementwise::sum(&gradient, &another)?;
        }
        if k == 0 {
            case.note_gradients(&gradient)?;
        }
        if let Some(watch) = &mut watch
            && let Some(left) = watch.take_fallen(&adversarial, &logits)?
        {
            if left.is_empty() {
                break;
            }
            adversarial = rows::<f32>(&adversarial, &left)?;
            gradient = rows::<f32>(&gradient, &left)?;
            x = rows::<f32>(&x, &left)?;
            labels = rows::<i32>(&labels, &left)?;
        }
        step(&mut adversarial, &x, &gradient, eps, size)?;
    }
    match watch {
        None => Ok(adversarial),
        Some(watch) => watch.finish(&adversarial),
    }
}

/// Which images are still on their way, and where the others fell.
struct Watch<'a> {
    case: &'a Case<'a>,
    /// By place in the batch.
    left: Vec<usize>,
    fallen: Vec<(usize, Vec<f32>)>,
}

impl<'a> Watch<'a> {
    fn new(case: &'a Case) -> Self {
        Self { case, left: (0..case.images.len()).collect(), fallen: Vec::new() }
    }

    /// Takes those whose `logits` are wrong out; the rows that stay, where any goes.
    fn take_fallen(&mut self, now: &Tensor, logits: &Tensor) -> Result<Option<Vec<usize>>> {
        let labels = self.case.labels.to_vec::<i32>()?;
        let stands = predictions(logits)?;
        let stands: Vec<bool> = stands
            .iter()
            .zip(&self.left)
            .map(|(class, &image)| *class == usize::try_from(labels[image]).ok())
            .collect();
        if stands.iter().all(|&stands| stands) {
            return Ok(None);
        }
        let pixels = now.to_vec::<f32>()?;
        let size = pixels.len() / stands.len();
        let mut stay = Vec::new();
        for (row, &stands) in stands.iter().enumerate() {
            match stands {
                true => stay.push(row),
                false => {
                    self.fallen.push((self.left[row], pixels[row * size..][..size].to_vec()));
                }
            }
        }
        self.left = stay.iter().map(|&row| self.left[row]).collect();
        Ok(Some(stay))
    }

    /// The whole batch: those that fell where they fell, the others at the end of their way.
    fn finish(self, end: &Tensor) -> Result<Tensor> {
        let mut pixels = self.case.x.to_vec::<f32>()?;
        let size = pixels.len() / self.case.images.len().max(1);
        let end = if self.left.is_empty() { Vec::new() } else { end.to_vec::<f32>()? };
        for (row, &image) in self.left.iter().enumerate() {
            pixels[image * size..][..size].copy_from_slice(&end[row * size..][..size]);
        }
        for (image, adversarial) in self.fallen {
            pixels[image * size..][..size].copy_from_slice(&adversarial);
        }
        Tensor::from_vec(pixels, self.case.x.shape(), &self.case.x.device())
    }
}
