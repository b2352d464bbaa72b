//! What the example `infer` does with a network that reads no colour images.

use crate::example::infer;
use crate::fixture;
use rewire::{Device, io};

#[test]
fn a_grey_network_reads_a_colour_picture_as_grey_and_names_its_class() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let network = file("m.safetensors");
    let model = fixture::network_of("resnet18:width=0.0625,in_channels=1,size=16", &Device::Cpu);
    let names = (0..model.arch().classes).map(|class| format!("class {class}")).collect();
    io::save_model(&network, &model.with_class_names(names)).unwrap();
    // Of grey pixels every rule makes the same grey.
    let colour = image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([(x * 9 + y * 7) as u8; 3]));
    colour.save(file("colour.png")).unwrap();
    image::DynamicImage::from(colour).to_luma8().save(file("grey.png")).unwrap();
    let [colour, grey] =
        ["colour.png", "grey.png"].map(|name| infer::classify(&network, &file(name)).unwrap());
    assert_eq!(colour.name, Some(format!("class {}", colour.class)));
    assert_eq!((colour.class, colour.probability), (grey.class, grey.probability));
}

#[test]
fn a_network_of_two_channels_is_an_error_that_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let (network, picture) = (folder.path().join("m.safetensors"), folder.path().join("p.png"));
    let model = fixture::network_of("resnet18:width=0.0625,in_channels=2,size=16", &Device::Cpu);
    io::save_model(&network, &model).unwrap();
    image::RgbImage::new(20, 20).save(&picture).unwrap();
    // As `main() -> Result` prints an error.
    let message = format!("{:?}", infer::classify(&network, &picture).err().unwrap());
    assert!(message.contains("p.png") && message.contains('2'), "{message}");
}
