//! `result.json` and `samples.json` of a run folder: what a finished run says of itself.

use serde::{Deserialize, Serialize};

/// `result.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// The recipe's name.
    pub name: String,
    /// Architecture as on the command line, e.g. `vgg16:width=0.125`.
    pub arch: String,
    /// Data as on the command line.
    pub data: String,
    /// Device and mode that trained it.
    pub device: String,
    /// Arithmetic of matrix products.
    pub mode: String,
    /// The seed.
    pub seed: u64,
    /// Epochs done.
    pub epochs: usize,
    /// Epoch (from 1) of the checkpoint that is measured: the best by clean accuracy on the images of `selected_by`.
    pub epoch: usize,
    /// The images that chose the epoch: `validation` where `data.validation` holds some out, else `test`.
    #[serde(default = "test")]
    pub selected_by: String,
    /// Percent of the test images.
    pub accuracy: Accuracy,
    /// Every evaluation that the recipe asked for.
    pub evaluations: Vec<Evaluation>,
    /// Weights that could be pruned.
    pub prunable: usize,
    /// Ones in their masks.
    pub active: usize,
    /// Those that are not 0.
    pub nonzero: usize,
    /// `active / prunable`.
    pub density: f64,
    /// Seconds of training on a clock.
    pub seconds: f64,
    /// One row per convolution and linear layer.
    pub layers: Vec<LayerResult>,
}

/// What chose the epoch before there was `data.validation`.
fn test() -> String {
    "test".into()
}

/// Percent of all test images; `None` = not asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Without an attack.
    pub clean: Option<f64>,
    /// Under FGSM.
    pub fgsm: Option<f64>,
    /// Under PGD.
    pub pgd: Option<f64>,
}

/// Accuracy under one attack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Registry name.
    pub attack: String,
    /// Radius, pixels in [0, 1].
    pub eps: f64,
    /// Steps.
    pub steps: usize,
    /// Restarts.
    pub restarts: usize,
    /// Percent still right.
    pub accuracy: f64,
}

/// What is left of a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerResult {
    /// Name of its weight.
    pub name: String,
    /// Shape as PyTorch's (OIHW).
    pub shape: Vec<usize>,
    /// Number of weights.
    pub weights: usize,
    /// Ones in the mask, or all weights where there is none.
    pub active: usize,
    /// Input channels.
    pub channels: usize,
    /// Input channels with a weight that is not 0.
    pub channels_active: usize,
    /// Multiply-accumulates an image of the dense layer.
    pub macs: u64,
    /// Those with a kept weight.
    pub macs_active: u64,
}

/// `samples.json`: test images beside their adversarial examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// The attack and its eps, for the caption.
    pub attack: String,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// `[height, width, channels]`.
    pub shape: [usize; 3],
    /// The images.
    pub images: Vec<Sample>,
}

/// One image twice, in 0..255, H×W×C.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The true class.
    pub label: usize,
    /// What the network says of the clean image.
    pub predicted: usize,
    /// What it says of the adversarial one.
    pub predicted_adversarial: usize,
    /// Pixels.
    pub clean: Vec<u8>,
    /// Pixels.
    pub adversarial: Vec<u8>,
}
