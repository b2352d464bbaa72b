//! A run: recipe, plan, folder, result.

mod result;

pub use result::{Accuracy, Evaluation, LayerResult, RunResult, Sample, Samples};
