//! `rewire import`: networks of other programs.

use super::{Context, Outcome};
use crate::Error;
use crate::io::{self, ImportSettings};
use crate::nn::{Layer, Normalization};
use serde::Serialize;
use std::path::PathBuf;

/// Turns an ONNX file into a network's file that carries its graph
///
/// Operators: Conv (one group, not dilated), BatchNormalization, Relu, MaxPool, AveragePool, GlobalAveragePool, ReduceMean over the
/// image, Add, Flatten, Reshape and Squeeze as flattening, Gemm, MatMul, Gather of channels, Identity, Dropout, Cast between
/// floating point types, and Sub, Div, Mul, Add on the pixels as their normalisation. What cannot be imported is named, all of it
/// at once.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The network: an ONNX file of opset 9 or newer; weights in other files are read from beside it
    model: PathBuf,
    /// Where the network goes: a safetensors file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Height and width of the images, where the file leaves them open
    #[arg(long, value_name = "N")]
    size: Option<usize>,
    /// Normalisation to put in front of a network that expects normalised pixels: a name, or mean=a:b:c,std=a:b:c
    #[arg(long, value_name = "NORM")]
    normalize: Option<String>,
}

#[derive(Serialize)]
struct Printed<'a> {
    arch: String,
    parameters: usize,
    macs: usize,
    output: &'a PathBuf,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        if let Some(size) = self.size.filter(|size| !(1..=4096).contains(size)) {
            return Err(Error::param("--size", size, "from 1 to 4096").into());
        }
        let normalize = self.normalize.as_deref().map(Normalization::parse).transpose()?.flatten();
        let settings = ImportSettings { size: self.size, normalize };
        let model = io::load_onnx(&self.model, &settings, &context.device()?)?;
        io::save_model(&self.output, &model)?;
        let printed = Printed {
            arch: model.arch().to_string(),
            parameters: model.parameter_count(),
            macs: model.layers()?.iter().map(Layer::macs).sum(),
            output: &self.output,
        };
        let text = format!(
            "{}: {} parameters, {} multiply-accumulates an image -> {}",
            printed.arch,
            printed.parameters,
            printed.macs,
            self.output.display()
        );
        context.print(&text, &printed)?;
        Ok(Outcome::Done)
    }
}
