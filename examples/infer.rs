//! Says what a network sees in a picture.
//!
//! `cargo run --release --example infer -- model.safetensors picture.png`
//!
//! The network was trained by rewire (`runs/NAME/checkpoints/best.safetensors`) or imported by `rewire import`. It may read
//! grey or colour images: the picture is converted and resized to what the network reads.

use rewire::infer::{Choice, Plan};
use rewire::{Device, Error, Mode, Result, data, io};
use std::path::Path;

/// What a network says of a picture.
pub struct Answer {
    /// The most probable class, counted from 0.
    pub class: usize,
    /// Its name, where the network knows the names of its classes.
    pub name: Option<String>,
    /// Its probability, from 0 to 1.
    pub probability: f64,
}

/// What the network in the file `network` says of the picture in the file `picture`.
pub fn classify(network: &Path, picture: &Path) -> Result<Answer> {
    let model = io::load_model(network, &io::Hints::default(), &Device::Cpu)?;
    let image = data::read_image(picture, model.arch().in_channels, model.arch().size)?;

    // Compiled for one image at a time. The first call for a network measures which algorithms are fastest on this machine.
    let mut plan = Plan::build(&model, 1, Mode::F32, Choice::Measured)?;
    let logits = plan.run(&image)?.to_vec::<f32>()?;

    // Softmax; the largest logit is taken from all of them, so that no exponential overflows.
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    let class = logits.iter().position(|&logit| logit == largest).unwrap_or(0);
    Ok(Answer { class, name: model.class_names().get(class).cloned(), probability: 1.0 / sum })
}

/// Prints the class of the picture that the arguments name.
pub fn main() -> Result<()> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    let [network, picture] = files.as_slice() else {
        let given = format!("\"{}\"", files.join(" "));
        return Err(Error::param("arguments", given, "two files, MODEL PICTURE"));
    };
    let Answer { class, name, probability } = classify(Path::new(network), Path::new(picture))?;
    let name = name.map_or(String::new(), |name| format!(" ({name})"));
    println!("{picture}: class {class}{name}, probability {:.1} %", 100.0 * probability);
    Ok(())
}
