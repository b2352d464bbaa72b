//! The weights of one pass, where they are not the stored ones or not all of them are multiplied.

use super::Model;
use crate::ops::{self, SparseFilter};
use crate::{Error, Mode, Result, Seed, Tape, Tensor};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a forward pass reads in place of the network's own weights, by the name of the weight.
///
/// The default replaces nothing: every layer multiplies all weights that the network stores.
#[derive(Default)]
pub struct Weights {
    /// Convolutions that run over their kept weights only.
    pub sparse: BTreeMap<String, SparseFilter>,
    /// Tensors that replace a parameter, such as noisy weights. Gradients flow to the parameter where the tape has recorded how
    /// the tensor was made of it.
    pub substitutes: BTreeMap<String, Tensor>,
    /// Noise on the weights in every pass of [`Model::forward_eval`]. With noise, `sparse` and `substitutes` are not read.
    pub noise: Option<Noise>,
}

impl Weights {
    /// Rounds the filter of every dense convolution for `mode` once, instead of in every pass.
    ///
    /// An attack gains by it: its passes read the same weights again and again and need no gradient of them.
    pub fn with_operands(mut self, model: &Model, mode: Mode) -> Result<Self> {
        for name in model.prunable() {
            if !self.sparse.contains_key(&name) && !self.substitutes.contains_key(&name) {
                let operand = ops::operand(mode, model.param(&name)?)?;
                self.substitutes.insert(name, operand);
            }
        }
        Ok(self)
    }
}

/// Noise on the weights of convolutions outside training: `w' = m⊙(w + α⊙η)`, where η is drawn anew in every pass. The images of a
/// batch share a draw.
///
/// The mask m is 0 where a weight is 0. So a pruned weight stays 0.
///
/// Source: Rakin et al. 2019 (arXiv 1905.13074); see [`ops::noisy_weight`].
pub struct Noise {
    layers: BTreeMap<String, NoisyLayer>,
    seed: Seed,
    next: AtomicU64,
}

struct NoisyLayer {
    alpha: Tensor,
    mask: Tensor,
}

impl Noise {
    /// Noise with the same α in every convolution.
    pub fn uniform(model: &Model, alpha: f32, seed: Seed) -> Result<Self> {
        let value = |name| Ok((name, Tensor::from_vec(vec![alpha], &[1], model.device())?));
        Self::new(model, model.prunable().into_iter().map(value).collect::<Result<_>>()?, seed)
    }

    /// Noise with an α for each weight, by name: of shape `[1]`, or with a value for each filter.
    ///
    /// Errors: [`crate::ErrorKind::Param`] for a name that is not that of the weight of a convolution.
    pub fn new(model: &Model, alphas: BTreeMap<String, Tensor>, seed: Seed) -> Result<Self> {
        let layer = |(name, alpha): (String, Tensor)| {
            if !model.prunable().contains(&name) {
                return Err(Error::param("weight noise", name, "of a convolution of the network"));
            }
            let weight = model.param(&name)?;
            let kept = weight.to_vec::<f32>()?.iter().map(|&w| u8::from(w != 0.0)).collect();
            let mask = Tensor::from_vec::<u8>(kept, weight.shape(), model.device())?;
            Ok((name, NoisyLayer { alpha, mask }))
        };
        let layers = alphas.into_iter().map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, seed, next: AtomicU64::new(0) })
    }

    /// Makes the next pass use draw number `draw`. The pass after it uses the next number, and so on.
    pub fn begin(&self, draw: u64) {
        self.next.store(draw, Ordering::Relaxed);
    }

    /// The weights of one pass.
    pub(super) fn substitutes(
        &self,
        tape: &mut Tape,
        params: &BTreeMap<String, Tensor>,
    ) -> Result<BTreeMap<String, Tensor>> {
        let draw = self.next.fetch_add(1, Ordering::Relaxed);
        let weight = |(i, (name, layer)): (usize, (&String, &NoisyLayer))| {
            let weight = params.get(name).ok_or_else(|| {
                Error::param("weight noise", name, "of a convolution of the network")
            })?;
            let stream = self.seed.stream("weight.noise.eval", draw, i as u32);
            let storage = ops::operand_type(tape.mode(), weight);
            let mask = Some(&layer.mask);
            let noisy = ops::noisy_weight(tape, weight, &layer.alpha, mask, &stream, storage)?;
            Ok((name.clone(), noisy))
        };
        self.layers.iter().enumerate().map(weight).collect()
    }
}
