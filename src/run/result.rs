//! `result.json` and `samples.json` of a run folder: what was measured when a run had finished.

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
    /// Number of epochs that were trained.
    pub epochs: usize,
    /// Epoch (from 1) of the measured checkpoint: the one with the best clean accuracy on the images of `selected_by`.
    pub epoch: usize,
    /// The images that chose the epoch: `validation` where `data.validation` holds some out, else `test`.
    #[serde(default = "test")]
    pub selected_by: String,
    /// Accuracies of that checkpoint, in percent of the test images.
    pub accuracy: Accuracy,
    /// One entry for each `[[eval]]` of the recipe.
    pub evaluations: Vec<Evaluation>,
    /// Number of prunable weights.
    pub prunable: usize,
    /// Number of ones in their masks.
    pub active: usize,
    /// Number of prunable weights that are not 0.
    pub nonzero: usize,
    /// `active / prunable`.
    pub density: f64,
    /// Wall-clock seconds of training.
    pub seconds: f64,
    /// One row for each convolution and linear layer.
    pub layers: Vec<LayerResult>,
}

/// What chose the epoch before there was `data.validation`.
fn test() -> String {
    "test".into()
}

/// Accuracies in percent of all test images; `None` where the recipe does not ask for one.
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
    /// Name of the attack.
    pub attack: String,
    /// Radius in the attack's norm, for pixels in [0, 1].
    pub eps: f64,
    /// Steps.
    pub steps: usize,
    /// Restarts.
    pub restarts: usize,
    /// Images that are still classified correctly, in percent.
    pub accuracy: f64,
}

/// The size of a layer before and after pruning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerResult {
    /// Name of the weight.
    pub name: String,
    /// Shape of the weight as in PyTorch: `[K, C, R, S]` or `[K, C]`.
    pub shape: Vec<usize>,
    /// Number of weights.
    pub weights: usize,
    /// Number of ones in the mask; all weights where there is no mask.
    pub active: usize,
    /// Number of input channels.
    pub channels: usize,
    /// Number of input channels with a weight that is not 0.
    pub channels_active: usize,
    /// Multiply-accumulates for one image in the dense layer.
    pub macs: u64,
    /// Multiply-accumulates for one image with kept weights only.
    pub macs_active: u64,
}

/// `samples.json`: test images beside their adversarial examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// The attack and its eps, as a caption.
    pub attack: String,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// `[height, width, channels]`.
    pub shape: [usize; 3],
    /// The images.
    pub images: Vec<Sample>,
}

/// A test image and its adversarial example; pixels are 0..255 in the order H×W×C.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The true class.
    pub label: usize,
    /// The predicted class of the clean image.
    pub predicted: usize,
    /// The predicted class of the adversarial example.
    pub predicted_adversarial: usize,
    /// Pixels of the clean image.
    pub clean: Vec<u8>,
    /// Pixels of the adversarial example.
    pub adversarial: Vec<u8>,
}
