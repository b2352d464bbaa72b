//! Classifies an image: `cargo run --release --example infer -- model.safetensors picture.png`
//!
//! The network may be trained here or imported from ONNX. It may read grey or RGB images: the picture is converted and
//! resized to what the network reads.

use rewire::infer::{Choice, Plan};
use rewire::{Device, Mode, Result, data, io};
use std::path::Path;

/// The class of the largest logit.
pub fn classify(network: &Path, picture: &Path) -> Result<usize> {
    let model = io::load_model(network, &io::Hints::default(), &Device::Cpu)?;
    let mut plan = Plan::build(&model, 1, Mode::F32, Choice::Measured)?;
    let x = data::read_image(picture, model.arch().in_channels, model.arch().size)?;
    let logits = plan.run(&x)?.to_vec::<f32>()?;
    let largest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    Ok(largest.map_or(0, |(class, _)| class))
}

/// Of the two files that the arguments name.
pub fn main() -> Result<()> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    let [network, picture] = files.as_slice() else {
        return Err(rewire::Error::param("arguments", files.join(" "), "MODEL PICTURE"));
    };
    println!("{picture}: class {}", classify(Path::new(network), Path::new(picture))?);
    Ok(())
}
