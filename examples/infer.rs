//! Says what a network sees in a picture.
//!
//! `cargo run --release --example infer -- model.safetensors picture.png [classes.txt]`
//!
//! The network was trained by rewire (`runs/NAME/checkpoints/best.safetensors`) or imported by `rewire import`, and reads colour
//! images. The picture is a PNG or JPEG file of any size; it is resized to the size that the network reads. `classes.txt` holds
//! the names of the classes, one a line.

use rewire::infer::{Choice, Plan};
use rewire::{Device, Error, Mode, Result, data, file, io};
use std::path::Path;

/// What [`data::read_image`] returns: red, green, blue.
const CHANNELS: usize = 3;

/// The most probable class of the picture, counted from 0, and its probability.
pub fn classify(network: &Path, picture: &Path) -> Result<(usize, f64)> {
    let model = io::load_model(network, &io::Hints::default(), &Device::Cpu)?;
    let (channels, size) = (model.arch().in_channels, model.arch().size);
    let image = data::read_image(picture, size)?;
    if channels != CHANNELS {
        let message = format!(
            "the picture is read as {CHANNELS} channels of {size}×{size} pixels, but {} reads {channels} of {size}×{size}; \
             give a network that was trained on colour images",
            network.display()
        );
        return Err(Error::file(picture, message));
    }

    // Compiled for one image at a time. The first call for a network measures which algorithms are fastest on this machine.
    let mut plan = Plan::build(&model, 1, Mode::F32, Choice::Measured)?;
    let logits = plan.run(&image)?.to_vec::<f32>()?;

    // Softmax; the largest logit is taken from all of them, so that no exponential overflows.
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    let class = logits.iter().position(|&logit| logit == largest);
    Ok((class.unwrap_or(0), 1.0 / sum))
}

/// Prints the class of the picture that the arguments name.
pub fn main() -> Result<()> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    let (network, picture, names) = match files.as_slice() {
        [network, picture] => (network, picture, String::new()),
        [network, picture, names] => {
            let text = file::read(Path::new(names))?;
            (network, picture, String::from_utf8_lossy(&text).into_owned())
        }
        _ => {
            let want = "MODEL PICTURE, or MODEL PICTURE CLASSES";
            return Err(Error::param("arguments", format!("{:?}", files.join(" ")), want));
        }
    };
    let (class, probability) = classify(Path::new(network), Path::new(picture))?;
    let name = names.lines().nth(class).map_or(String::new(), |name| format!(" ({name})"));
    println!("{picture}: class {class}{name}, probability {:.1} %", 100.0 * probability);
    Ok(())
}
