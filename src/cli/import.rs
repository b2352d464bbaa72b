//! `rewire import`: networks of other programs.

use super::{Context, Outcome, note};
use crate::Error;
use crate::io::{self, ImportSettings, Pixels};
use crate::nn::{Layer, Normalization};
use serde::Serialize;
use std::path::PathBuf;

/// Turns an ONNX file into a network's file that carries its graph
///
/// These operators are supported: Conv of one group without dilation, BatchNormalization of images, Relu, MaxPool, AveragePool,
/// GlobalAveragePool, ReduceMean over height and width, Add, Gemm, MatMul, Gather of channels, Identity and Dropout; Flatten, Reshape and
/// Squeeze where they flatten an image; Cast between floating point types; Sub, Div, Mul and Add of constants where they normalise the
/// pixels. Other operators are refused, all of them in one message.
///
/// The imported network reads pixels from 0 to 1, as every network here does. A file made for pixels from 0 to 255 is recognised by its
/// first nodes. A file with one output, z, becomes a network with the two logits 0 and z.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The network: an ONNX file of opset 9 to 28; weights in other files are read from beside it
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
    /// Largest pixel that the network was made for: 255 for pixels from 0 to 255, 1 for pixels from 0 to 1 [default: what the
    /// first nodes of the file say]
    #[arg(long, value_name = "N")]
    pixels: Option<PixelsArg>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum PixelsArg {
    #[value(name = "255")]
    Bytes,
    #[value(name = "1")]
    Unit,
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
        let pixels = self.pixels.map(|pixels| match pixels {
            PixelsArg::Bytes => Pixels::Bytes,
            PixelsArg::Unit => Pixels::Unit,
        });
        let settings = ImportSettings { size: self.size, normalize, pixels, note: Some(note) };
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
