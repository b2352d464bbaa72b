//! The examples run.

use crate::fixture;
use rewire::{Device, Tape, io, nn::Execution};

#[path = "../examples/infer.rs"]
mod infer;

#[path = "../examples/train_and_prune.rs"]
mod train_and_prune;

#[test]
fn train_and_prune_ends_well() {
    train_and_prune::main().unwrap();
}

#[test]
fn infer_finds_the_class_of_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (network, picture) = (folder.path().join("m.safetensors"), folder.path().join("p.png"));
    let model = fixture::network_of("resnet18:width=0.0625,size=16", &Device::Cpu);
    io::save_model(&network, &model).unwrap();
    for shift in 0..4 {
        let image = image::RgbImage::from_fn(16, 16, |x, y| {
            image::Rgb([(16 * x) as u8, (15 * y) as u8, (60 * shift + x * y / 8) as u8])
        });
        image.save(&picture).unwrap();
        let pixels: Vec<f32> = image.as_raw().iter().map(|&v| f32::from(v) / 255.0).collect();
        let x = rewire::Tensor::from_vec(pixels, &[1, 16, 16, 3], &Device::Cpu).unwrap();
        let how = Execution::default();
        let logits = model.forward_eval(&mut Tape::new(rewire::Mode::F32), &x, &how).unwrap();
        let logits = logits.to_vec::<f32>().unwrap();
        let want = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        assert_eq!(infer::classify(&network, &picture).unwrap(), want);
    }
    assert!(infer::classify(&picture, &network).is_err());
    // The test's own arguments are no files.
    assert!(infer::main().is_err());
}
