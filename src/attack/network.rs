//! A network as attacks see it.

use crate::nn::{Model, Weights};
use crate::{Error, Mode, Result, Tape, Tensor, ops};

/// A network as attacks see it: in eval mode, its gradient only with respect to pixels.
pub struct Network<'a> {
    /// The network; running statistics stay as they are.
    pub model: &'a Model,
    /// What its passes read in place of stored weights.
    pub weights: &'a Weights,
    /// Arithmetic of matrix products.
    pub mode: Mode,
}

impl Network<'_> {
    /// Logits `[N, classes]` of `x [N, H, W, C]`.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        self.model.forward_eval(&mut Tape::new(self.mode), x, self.weights)
    }

    /// `∂/∂x Σ_n CE(logits(x_n), label_n)`: a sum, so that no factor 1/N underflows.
    pub fn input_gradient(&self, x: &Tensor, labels: &Tensor) -> Result<Tensor> {
        Ok(self.gradient_and_logits(x, labels)?.0)
    }

    /// [`Self::input_gradient`] and the logits of the same pass.
    pub(super) fn gradient_and_logits(
        &self,
        x: &Tensor,
        labels: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let mut tape = Tape::new(self.mode);
        tape.watch(x);
        let logits = self.model.forward_eval(&mut tape, x, self.weights)?;
        let loss = ops::softmax_xent(&mut tape, &logits, labels)?;
        let seed = Tensor::from_vec(vec![labels.len() as f32], &[1], &x.device())?;
        let mut gradients = tape.backward(&loss, seed)?;
        let gradient = gradients.take(x);
        let gradient =
            gradient.ok_or_else(|| Error::param("attack", "x", "what the logits depend on"))?;
        Ok((gradient, logits))
    }

    /// Logits `[N·classes]` of `x [N, H, W, C]`, and `∂L/∂x` of a function L of them: `loss` is given the logits and
    /// returns `∂L/∂logits`.
    pub fn logits_and_gradient(
        &self,
        x: &Tensor,
        loss: impl FnOnce(&[f32]) -> Result<Vec<f32>>,
    ) -> Result<(Vec<f32>, Tensor)> {
        let mut tape = Tape::new(self.mode);
        tape.watch(x);
        let logits = self.model.forward_eval(&mut tape, x, self.weights)?;
        let values = logits.to_vec::<f32>()?;
        let seed = Tensor::from_vec(loss(&values)?, logits.shape(), &x.device())?;
        let mut gradients = tape.backward(&logits, seed)?;
        let gradient = gradients.take(x);
        let missing = || Error::param("attack", "x", "what the logits depend on");
        Ok((values, gradient.ok_or_else(missing)?))
    }
}

/// The class of the largest logit of every image; the first of equal ones, `None` where one is NaN.
pub fn predictions(logits: &Tensor) -> Result<Vec<Option<usize>>> {
    let [_, classes] = logits.dims2("predictions", "logits")?;
    let class = |row: &[f32]| {
        let mut best = 0;
        for (i, &value) in row.iter().enumerate() {
            if value.is_nan() {
                return None;
            }
            if value > row[best] {
                best = i;
            }
        }
        Some(best)
    };
    Ok(logits.to_vec::<f32>()?.chunks(classes).map(class).collect())
}
