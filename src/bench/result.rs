//! `bench.json`: what `rewire bench` measured.

use crate::infer::{BuildTimes, PlannedLayer};
use serde::{Deserialize, Serialize};

/// How the weights of a network are executed. `docs/glossary.md` says what each is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Execution {
    /// Multiplies every stored weight, zeros too.
    Dense,
    /// Dense, with `weight · mask` formed in every call.
    Masked,
    /// Dense, on the network that `shrink` leaves.
    Compact,
    /// Multiplies only weights that are not 0.
    Sparse,
}

impl Execution {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Dense, Self::Masked, Self::Compact, Self::Sparse];

    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Masked => "masked",
            Self::Compact => "compact",
            Self::Sparse => "sparse",
        }
    }
}

/// Everything that one call measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchResult {
    /// The network's file, where it was measured as the file holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Architecture.
    pub arch: String,
    /// Device that ran it.
    pub device: String,
    /// Arithmetic of matrix products.
    pub mode: String,
    /// Threads of the CPU that there are. Each row says how many its plan uses.
    pub threads: usize,
    /// The same number as [`Self::nonzero_share`], under the name that older files have for it. A run's `density` is
    /// active / prunable by its masks, which a network's file does not hold.
    pub density: f64,
    /// nonzero / prunable: the share of the convolution weights that are not 0.
    #[serde(default)]
    pub nonzero_share: f64,
    /// Number of convolution weights.
    #[serde(default)]
    pub prunable: usize,
    /// One row per batch size and execution.
    pub rows: Vec<BenchRow>,
    /// The best plan of each batch size.
    #[serde(default)]
    pub plans: Vec<PlanRow>,
    /// One per batch size.
    pub figures: Vec<Figures>,
}

impl BenchResult {
    /// The largest error of any row.
    pub fn max_relative_error(&self) -> f64 {
        self.errors().fold(0.0, f64::max)
    }

    /// Whether every row is as close to float64 as its mode must be.
    pub fn agrees(&self) -> bool {
        let tolerance = self.mode.parse().map_or(0.0, crate::Mode::tolerance);
        self.errors().all(|error| error <= tolerance)
    }

    fn errors(&self) -> impl Iterator<Item = f64> {
        let rows = self.rows.iter().map(|row| row.max_relative_error);
        rows.chain(self.plans.iter().map(|plan| plan.max_relative_error))
    }
}

/// One execution at one batch size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchRow {
    /// Which.
    pub execution: Execution,
    /// Images a call.
    pub batch: usize,
    /// Threads of the CPU that its plan runs on, chosen by measuring; absent on a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Median time of a call.
    pub median_ms: f64,
    /// `batch / median`.
    pub images_per_second: f64,
    /// Time of the dense execution over this one, same run.
    pub speedup_vs_dense: f64,
    /// Convolution weights that are not 0.
    pub nonzero: usize,
    /// Multiply-accumulates an image that this execution does in convolutions.
    pub macs: u64,
    /// Time to build what it runs from: shrunk network or sparse format. Not part of `median_ms`.
    pub build_ms: f64,
    /// ‖logits − reference‖ / ‖reference‖; the reference is the masked network in float64.
    pub max_relative_error: f64,
}

/// The network without its dead channels, each convolution by the algorithm that is fastest here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanRow {
    /// Images a call.
    pub batch: usize,
    /// As in [`BenchRow`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Median time of a call.
    pub median_ms: f64,
    /// Time of the dense execution over this one, same run.
    pub speedup_vs_dense: f64,
    /// As in [`BenchRow`].
    pub max_relative_error: f64,
    /// Bytes that activations pass through.
    pub activation_bytes: usize,
    /// What building took.
    pub build: BuildTimes,
    /// The choice for each convolution.
    pub layers: Vec<PlannedLayer>,
}

/// Four kinds of speed-up over dense, never merged into one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Images a call.
    pub batch: usize,
    /// Projected: Σ tₗ / Σ tₗ·(1 − dead weight channels)·(1 − dead input maps), tₗ the measured dense time of
    /// convolution l. Source: the estimator published with "Sparse networks from scratch" (Dettmers & Zettlemoyer 2019).
    pub projected: f64,
    /// Counted: dense over kept multiply-accumulates of the convolutions.
    pub mac_ratio: f64,
    /// Measured: the compact network.
    pub measured_compact: f64,
    /// Measured: the sparse kernels.
    pub measured_sparse: f64,
}
