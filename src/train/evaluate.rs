//! Clean evaluation of a network.

use crate::attack::{Network, predictions};
use crate::data::{Loader, Split};
use crate::{Result, Tensor, ops};

/// What a network makes of a split without an attack.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clean {
    /// Percent of the images whose largest logit is the label's.
    pub accuracy: f64,
    /// Mean cross-entropy.
    pub loss: f64,
}

/// Accuracy and loss in eval mode over all images of `split`; neither depends on `batch_size`.
pub fn clean(network: &Network, split: &Split, batch_size: usize) -> Result<Clean> {
    split.labels()?;
    let [_, c, h, w] = split.shape;
    let device = network.model.device();
    let (mut right, mut loss) = (0, 0.0);
    for batch in Loader::new(split, batch_size)?.epoch(0).batches() {
        let n = batch.len();
        let x = Tensor::from_vec(batch.images, &[n, h, w, c], device)?;
        let labels = Tensor::from_vec(batch.labels.clone(), &[n], device)?;
        let logits = network.logits(&x)?;
        let each = ops::softmax_xent_each(&logits, &labels)?.to_vec::<f32>()?;
        loss += each.into_iter().map(f64::from).sum::<f64>();
        let classes = predictions(&logits)?.into_iter().zip(&batch.labels);
        let hit = |(class, &label): (Option<usize>, &i32)| {
            class.is_some_and(|class| usize::try_from(label) == Ok(class))
        };
        right += classes.filter(|&pair| hit(pair)).count();
    }
    let n = split.len().max(1) as f64;
    Ok(Clean { accuracy: 100.0 * right as f64 / n, loss: loss / n })
}
