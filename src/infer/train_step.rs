//! The time of a training step, for comparison with other frameworks.

use super::bench::{median, seconds};
use crate::nn::{Execution, Model};
use crate::optim::{Constraint, Optimizer};
use crate::{Mode, Result, Seed, Tape, Tensor, ops};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Median seconds of a step on `batch` random images: forward in train mode, cross-entropy, backward, SGD
/// with Nesterov momentum and weight decay. Three steps come before and are not counted.
pub fn train_step(
    model: &Model,
    batch: usize,
    mode: Mode,
    budget: Duration,
    seed: Seed,
) -> Result<f64> {
    let (mut model, arch) = (model.clone(), model.arch().clone());
    let shape = [batch, arch.size, arch.size, arch.in_channels];
    let stream = seed.stream("bench.images", 0, 0);
    let pixels = (0..shape.iter().product()).map(|index| stream.uniform(index)).collect();
    let x = Tensor::from_vec::<f32>(pixels, &shape, model.device())?;
    let labels = (0..batch).map(|index| (index % arch.classes) as i32).collect();
    let labels = Tensor::from_vec::<i32>(labels, &[batch], model.device())?;
    let mut optimizer = Optimizer::new(Default::default());
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 6 || (start.elapsed() < budget && times.len() < 1000) {
        let device = x.device();
        times.push(seconds(&device, || step(&mut model, &mut optimizer, mode, &x, &labels))?);
    }
    Ok(median(times.split_off(3)))
}

fn step(
    model: &mut Model,
    optimizer: &mut Optimizer,
    mode: Mode,
    x: &Tensor,
    labels: &Tensor,
) -> Result<()> {
    let mut tape = Tape::new(mode);
    model.watch(&mut tape);
    let logits = model.forward_train(&mut tape, x, &Execution::default())?;
    let loss = ops::softmax_xent(&mut tape, &logits, labels)?;
    let seed = Tensor::from_vec(vec![1.0f32], &[1], &x.device())?;
    let mut found = tape.backward(&loss, seed)?;
    let mut gradients = BTreeMap::new();
    for (name, parameter) in model.params() {
        gradients.extend(found.take(parameter).map(|gradient| (name.clone(), gradient)));
    }
    optimizer.step(model.params_mut(), &gradients, 0.01, |_| Constraint::default())
}
