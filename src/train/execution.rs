//! How the passes of a step run where it is not the plain dense way: over kept weights, with noise.

use super::TrainExecution;
use super::trainer::Trainer;
use crate::nn::Execution;
use crate::{Result, Tape, Tensor, ops};

/// The passes of a step that draw noise, each from a stream of its own.
#[derive(Clone, Copy)]
pub(super) enum Pass {
    Clean,
    Attack,
    Adversarial,
}

impl Trainer {
    /// The execution of one pass; noisy weights are recorded on `tape`.
    ///
    /// An attack keeps one draw of the noise over its steps.
    pub(super) fn execution(&self, pass: Pass, tape: &mut Tape) -> Result<Execution> {
        let mut how = Execution::default();
        let fixed = self.pruner.as_ref().is_some_and(|pruner| pruner.is_static());
        let sparse = self.settings.execution == TrainExecution::Sparse;
        if sparse && (fixed || matches!(pass, Pass::Attack)) {
            how.sparse.clone_from(&self.filters);
        }
        let Some(alpha) = self.settings.weight_noise else { return Ok(how) };
        let alpha = Tensor::from_vec(vec![alpha as f32], &[1], self.model.device())?;
        let weights = self.model.params().iter().filter(|(_, param)| param.shape().len() > 1);
        for (layer, (name, weight)) in weights.enumerate() {
            let draw = 3 * self.step + pass as u64;
            let stream = self.seed.stream("weight.noise", draw, layer as u32);
            let mask = self.pruner.as_ref().and_then(|pruner| pruner.mask(name));
            let noisy = ops::noisy_weight(tape, weight, &alpha, mask, &stream)?;
            how.substitutes.insert(name.clone(), noisy);
        }
        Ok(how)
    }

    /// Builds the formats of masked convolutions anew, after their masks have moved.
    pub(super) fn build_filters(&mut self) -> Result<()> {
        self.filters.clear();
        if self.settings.execution == TrainExecution::Dense {
            return Ok(());
        }
        for (name, mask) in self.pruner.iter().flat_map(|pruner| pruner.masks()) {
            if mask.shape().len() == 4 {
                let filter = ops::SparseFilter::build(self.model.param(name)?, mask)?;
                self.filters.insert(name.to_owned(), filter);
            }
        }
        Ok(())
    }
}
