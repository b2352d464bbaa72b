//! A run: recipe, experiment, folder, result. And attacks on a network, which can be stopped and go on as a run can.

mod adversarial;
mod attack_folder;
mod attack_job;
mod attacked;
mod environment;
mod experiment;
mod folder;
mod identity;
mod log;
mod measure;
mod noise;
mod progress;
mod recipe;
pub mod recipes;
mod result;
mod samples;
mod session;
mod sweep;

pub use adversarial::save_adversarial;
pub use attack_folder::AttackFolder;
pub use attack_job::AttackJob;
pub use attacked::{AccuracyAt, AttackRow, Attacked};
pub use environment::Environment;
pub use experiment::Experiment;
pub use folder::RunFolder;
pub use identity::{Identity, JobFiles};
pub use measure::failed_expectations;
pub use noise::learnt_noise;
pub use progress::Progress;
pub use recipe::{DataSettings, Expectation, METRICS, ModelSettings, Recipe};
pub use result::{Accuracy, Evaluation, LayerResult, RunResult, Sample, Samples};
pub use session::Session;
pub use sweep::Sweep;
