//! Logits and accuracy of a network on images of a data set.

use crate::data::{Dataset, Loader, Split};
use crate::nn::Model;
use crate::{Error, Result, Tensor, ops};
use serde::Serialize;

/// What a network makes of a split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    /// Images.
    pub images: usize,
    /// Those whose largest logit is their label's; of equal logits the first counts.
    pub correct: usize,
    /// Those whose label is among the five largest logits.
    pub correct_top5: usize,
    /// Mean cross-entropy.
    pub loss: f64,
}

impl Scores {
    /// Percent of the images whose largest logit is their label's.
    pub fn accuracy(&self) -> f64 {
        100.0 * self.correct as f64 / self.images as f64
    }

    /// Percent of the images whose label is among the five largest logits.
    pub fn top5(&self) -> f64 {
        100.0 * self.correct_top5 as f64 / self.images as f64
    }
}

/// Checks that `model` reads images like those of `split`.
///
/// Errors: [`crate::ErrorKind::File`] that names the split's source.
pub fn check_images(model: &Model, split: &Split) -> Result<()> {
    let [_, channels, height, width] = split.shape;
    let arch = model.arch();
    if [channels, height, width] == [arch.in_channels, arch.size, arch.size] {
        return Ok(());
    }
    let want = format!("{}×{}×{}, as the model reads them", arch.in_channels, arch.size, arch.size);
    let message = format!("its images are {channels}×{height}×{width}; must be {want}");
    Err(Error::file(&split.source, message))
}

/// Checks that `data` numbers its classes as `model` does, by their names; passes where one of them has no names.
///
/// Errors: [`crate::ErrorKind::Param`] that names the first class that differs.
pub fn check_class_names(model: &Model, data: &Dataset) -> Result<()> {
    let (own, given) = (model.class_names(), data.class_names.as_slice());
    let class = (0..own.len().max(given.len())).find(|&class| own.get(class) != given.get(class));
    let Some(class) = class.filter(|_| !own.is_empty() && !given.is_empty()) else {
        return Ok(());
    };
    let name =
        |names: &[String]| names.get(class).map_or("absent".into(), |name| format!("{name:?}"));
    let unknown = given.iter().find(|name| !own.contains(name));
    let lacking = own.iter().find(|name| !given.contains(name));
    let more = match (unknown, lacking) {
        (Some(name), _) => format!("; the network has no class {name:?}"),
        (None, Some(name)) => format!("; the data have no class {name:?}"),
        (None, None) => "; the classes are the same in another order".into(),
    };
    let want = format!(
        "data with the classes that the network was trained on, in the same order: class {class} is {} in the data and {} in the network{more}",
        name(given),
        name(own)
    );
    Err(Error::param("data.set (--data)", data.name, want))
}

/// Logits `[N, classes]` of all images of `split`, row by row, by `forward`: the logits of up to `batch_size` images
/// `[N, H, W, C]` by `model`, compiled or not. `done` hears of every batch's size.
///
/// Errors: as [`check_images`], and those of `forward`.
pub fn predict(
    model: &Model,
    split: &Split,
    batch_size: usize,
    mut forward: impl FnMut(&Tensor) -> Result<Tensor>,
    mut done: impl FnMut(usize),
) -> Result<Vec<f32>> {
    check_images(model, split)?;
    let loader = Loader::new(split, batch_size)?;
    let mut logits = Vec::with_capacity(split.len() * model.arch().classes);
    for batch in loader.epoch(0).batches() {
        let x = images(model, batch.images, batch.index.len())?;
        logits.extend(forward(&x)?.to_vec::<f32>()?);
        done(batch.index.len());
    }
    Ok(logits)
}

/// Accuracy and loss on `split`, by `forward` as in [`predict`]; `done` hears of every batch's size.
///
/// Errors: as [`predict`]; [`crate::ErrorKind::File`] for labels that are absent or outside the classes.
pub fn evaluate(
    model: &Model,
    split: &Split,
    batch_size: usize,
    mut forward: impl FnMut(&Tensor) -> Result<Tensor>,
    mut done: impl FnMut(usize),
) -> Result<Scores> {
    check_images(model, split)?;
    split.labels()?;
    let classes = model.arch().classes;
    split.check_labels(classes)?;
    let loader = Loader::new(split, batch_size)?;
    let mut scores = Scores { images: split.len(), correct: 0, correct_top5: 0, loss: 0.0 };
    for batch in loader.epoch(0).batches() {
        let count = batch.index.len();
        let logits = forward(&images(model, batch.images, count)?)?;
        let labels = Tensor::from_vec(batch.labels.clone(), &[count], model.device())?;
        let losses = ops::softmax_xent_each(&logits, &labels)?.to_vec::<f32>()?;
        scores.loss += losses.into_iter().map(f64::from).sum::<f64>() / split.len() as f64;
        let logits = logits.to_vec::<f32>()?;
        for (row, &label) in logits.chunks_exact(classes).zip(&batch.labels) {
            let rank = rank(row, label as usize);
            scores.correct += usize::from(rank == Some(0));
            scores.correct_top5 += usize::from(rank.is_some_and(|rank| rank < 5));
        }
        done(count);
    }
    Ok(scores)
}

fn images(model: &Model, pixels: Vec<f32>, count: usize) -> Result<Tensor> {
    let arch = model.arch();
    let shape = [count, arch.size, arch.size, arch.in_channels];
    Tensor::from_vec(pixels, &shape, model.device())
}

/// How many logits stand before the label's: larger ones, and equal ones of a lower class. `None` where one is NaN.
fn rank(logits: &[f32], label: usize) -> Option<usize> {
    if logits.iter().any(|logit| logit.is_nan()) {
        return None;
    }
    let own = logits[label];
    let before = |(class, logit): (usize, f32)| logit > own || (logit == own && class < label);
    Some(logits.iter().copied().enumerate().filter(|&pair| before(pair)).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_counts_ties_by_class_and_refuses_nan() {
        assert_eq!(rank(&[0.0, 2.0, 2.0, 1.0], 2), Some(1));
        assert_eq!(rank(&[0.0, 2.0, 2.0, 1.0], 1), Some(0));
        assert_eq!(rank(&[0.0, 2.0, 2.0, 1.0], 0), Some(3));
        assert_eq!(rank(&[f32::NAN, 2.0], 1), None);
    }
}
