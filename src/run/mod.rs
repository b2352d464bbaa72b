//! A run: recipe, plan, folder, result.

mod attack_job;
mod attacked;
mod environment;
mod folder;
mod log;
mod measure;
mod plan;
mod recipe;
pub mod recipes;
mod result;
mod session;

pub use attack_job::{AttackFolder, AttackJob};
pub use attacked::{AccuracyAt, AttackRow, Attacked, Sweep};
pub use environment::Environment;
pub use folder::RunFolder;
pub use measure::failed_expectations;
pub use plan::Plan;
pub use recipe::{DataSettings, Expectation, METRICS, ModelSettings, Recipe};
pub use result::{Accuracy, Evaluation, LayerResult, RunResult, Sample, Samples};
pub use session::{Progress, Session};
