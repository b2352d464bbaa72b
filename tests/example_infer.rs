//! What the example `infer` says of a network that reads grey images.

use crate::example::infer;
use crate::fixture;
use rewire::{Device, io};

#[test]
fn a_grey_network_and_a_colour_picture_are_an_error_that_names_both() {
    let folder = tempfile::tempdir().unwrap();
    let (network, picture) = (folder.path().join("m.safetensors"), folder.path().join("p.png"));
    let model = fixture::network_of("resnet18:width=0.0625,in_channels=1,size=16", &Device::Cpu);
    io::save_model(&network, &model).unwrap();
    image::RgbImage::new(20, 20).save(&picture).unwrap();
    let error = infer::classify(&network, &picture).unwrap_err();
    // As `main() -> Result` prints an error.
    let message = format!("{error:?}");
    for part in ["p.png", "m.safetensors", "3 channels of 16×16", "reads 1 of 16×16", "colour"] {
        assert!(message.contains(part), "no {part} in {message}");
    }
}
