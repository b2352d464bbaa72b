//! When training counts as diverged. The checks read numbers and change none.

use super::trainer::Trainer;
use crate::{ErrorKind, Result, Tensor};

/// The largest loss of a step that training goes on from. Networks that know nothing have a cross-entropy of about
/// log(classes); losses of some hundreds have been seen to come back.
const LARGEST_LOSS: f64 = 1e6;

/// Above this loss the tensors are checked after every step, below it at the end of every epoch and before a checkpoint.
const SUSPICIOUS_LOSS: f64 = 1e3;

/// The largest magnitude of a weight, a bias, or a running mean.
const LARGEST_VALUE: f32 = 1e8;

/// The largest running variance: the square of the largest value.
const LARGEST_VARIANCE: f32 = 1e16;

impl Trainer {
    /// Checks the loss of the step at work, before its update.
    ///
    /// Errors: [`ErrorKind::Diverged`] where the loss is not finite or above 10⁶, or where it is above 10³ and
    /// [`Self::check_tensors`] fails.
    pub(super) fn check_loss(&self, loss: f64) -> Result<()> {
        if loss <= SUSPICIOUS_LOSS {
            return Ok(());
        }
        match loss <= LARGEST_LOSS {
            true => self.check_tensors(),
            false => Err(self.diverged(&format!("the loss is {}", short(loss)))),
        }
    }

    /// Checks every weight, bias, running statistic, momentum and coefficient of noise.
    ///
    /// Errors: [`ErrorKind::Diverged`] that names the first tensor with a value that is not finite, a weight, bias or running
    /// mean beyond ±10⁸, or a running variance above 10¹⁶.
    pub fn check_tensors(&self) -> Result<()> {
        for (name, tensor) in self.model.state_dict() {
            let largest = match name.ends_with(".running_var") {
                true => LARGEST_VARIANCE,
                false => LARGEST_VALUE,
            };
            self.check_tensor(&name, &tensor, largest)?;
        }
        let momentum = self.optimizer.state().into_iter();
        let momentum = momentum.map(|(name, tensor)| (format!("the optimizer's {name}"), tensor));
        let noise = self.noise.iter().flat_map(|noise| noise.state());
        let noise = noise.map(|(name, tensor)| (format!("train.weight_noise's {name}"), tensor));
        for (name, tensor) in momentum.chain(noise) {
            self.check_tensor(&name, &tensor, f32::MAX)?;
        }
        Ok(())
    }

    fn check_tensor(&self, name: &str, tensor: &Tensor, largest: f32) -> Result<()> {
        let values = tensor.to_vec::<f32>()?;
        match values.into_iter().find(|value| value.is_nan() || value.abs() > largest) {
            None => Ok(()),
            Some(value) => Err(self.diverged(&format!("{name} holds {}", short(f64::from(value))))),
        }
    }

    /// The error: what was found, after which step, and what to try.
    fn diverged(&self, what: &str) -> crate::Error {
        let (step, epoch, lr) = (self.step, self.epoch + 1, self.settings.optimizer.lr());
        let warm = match &self.settings.adversary {
            Some(_) if self.settings.warmup_epochs == 0 => {
                ", or train.warmup_epochs above 0 (first epochs without the attack)"
            }
            _ => "",
        };
        let message = format!(
            "{what} after step {step} (epoch {epoch}); try a lower train.optimizer.lr, which is {lr}{warm}"
        );
        ErrorKind::Diverged(message).into()
    }
}

/// Four digits are enough to see how far off a number is.
fn short(value: f64) -> String {
    match value.abs() < 1e4 {
        true => format!("{value:.4}"),
        false => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Model;
    use crate::prune::tests::vgg16;
    use crate::train::TrainSettings;
    use crate::{Mode, Seed};

    fn trainer() -> Trainer {
        let settings = TrainSettings::default();
        Trainer::new(settings, vgg16(), None, Seed(1), Mode::F32).unwrap()
    }

    fn message(result: Result<()>) -> String {
        let error = result.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Diverged(_)), "{error}");
        error.to_string()
    }

    #[test]
    fn a_loss_that_training_does_not_come_back_from_is_refused() {
        let trainer = trainer();
        for loss in [0.0, 2.3, 289.7, 1e6] {
            trainer.check_loss(loss).unwrap();
        }
        for (loss, text) in
            [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (4.77e7, "4.770e7"), (1.1e6, "1.100e6")]
        {
            let error = message(trainer.check_loss(loss));
            let want = format!("the loss is {text} after step 0 (epoch 1); try a lower train");
            assert!(error.contains(&want), "{error}");
        }
    }

    #[test]
    fn a_tensor_out_of_range_is_named() {
        // What is as large as this is still in range for the last of them alone.
        for (suffix, value, whole) in [
            (".weight", f32::NAN, "NaN"),
            (".bias", -2e8, "-2.000e8"),
            (".running_mean", 2e8, "2.000e8"),
            (".running_var", f32::INFINITY, "inf"),
            (".running_var", 2e16, "2.000e16"),
            (".running_var", 2e8, ""),
        ] {
            let mut trainer = trainer();
            trainer.check_tensors().unwrap();
            let mut state = trainer.model.state_dict();
            let name = state.keys().rfind(|name| name.ends_with(suffix)).unwrap().clone();
            let tensor = &state[&name];
            let mut values = tensor.to_vec::<f32>().unwrap();
            *values.last_mut().unwrap() = value;
            let changed = Tensor::from_vec(values, tensor.shape(), &tensor.device()).unwrap();
            state.insert(name.clone(), changed);
            let (arch, graph) = (trainer.model.arch().clone(), trainer.model.graph().clone());
            trainer.model = Model::new(arch, graph, state, &crate::Device::Cpu).unwrap();
            if whole.is_empty() {
                trainer.check_tensors().unwrap();
                continue;
            }
            let error = message(trainer.check_tensors());
            assert!(error.contains(&format!("{name} holds {whole}")), "{error}");
            // A loss that may come back is looked into; one that is as it should be is not.
            assert!(message(trainer.check_loss(2e3)).contains(&name));
            trainer.check_loss(2.3).unwrap();
        }
    }
}
