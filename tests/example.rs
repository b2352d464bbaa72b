//! The examples run.

use crate::fixture;
use rewire::{
    Device, Tape, io,
    nn::{Model, Weights},
};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

#[path = "../examples/infer.rs"]
pub mod infer;

#[path = "../examples/train_and_prune.rs"]
mod train_and_prune;

/// What the clock of files may be behind.
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn train_and_prune_ends_well() {
    let file = std::env::temp_dir().join("train_and_prune.safetensors");
    let started = SystemTime::now();
    train_and_prune::main().unwrap();
    assert!(std::fs::metadata(&file).unwrap().modified().unwrap() >= started - SECOND);
    let small = io::load_model(&file, &io::Hints::default(), &Device::Cpu).unwrap();
    let whole = fixture::network_of("vgg16:width=0.0625,in_channels=1", &Device::Cpu);
    assert_eq!(small.arch(), whole.arch());
    // Half of the channels that every convolution reads.
    let [small, whole] = [&small, &whole].map(Model::parameter_count);
    println!("{small} of {whole} parameters");
    assert!(3 * small < whole, "{small} of {whole} parameters");
}

#[test]
fn infer_finds_the_class_of_a_picture() {
    fixture::with_own_cache("example::infer_finds_the_class_of_a_picture", || {
        let folder = tempfile::tempdir().unwrap();
        let (network, picture) = (folder.path().join("m.safetensors"), folder.path().join("p.png"));
        let mut model = fixture::network_of("resnet18:width=0.0625,size=16", &Device::Cpu);
        let pictures = [0, 1, 2, 3].map(|shift| {
            image::RgbImage::from_fn(16, 16, |x, y| {
                image::Rgb([(16 * x) as u8, (15 * y) as u8, (60 * shift + x * y / 8) as u8])
            })
        });
        let logits = |model: &Model, image: &image::RgbImage| -> Vec<f32> {
            let pixels: Vec<f32> = image.as_raw().iter().map(|&v| f32::from(v) / 255.0).collect();
            let x = rewire::Tensor::from_vec(pixels, &[1, 16, 16, 3], &Device::Cpu).unwrap();
            let weights = Weights::default();
            let logits =
                model.forward_eval(&mut Tape::new(rewire::Mode::F32), &x, &weights).unwrap();
            logits.to_vec().unwrap()
        };
        // About their mean the pictures are of different classes.
        let all = pictures.each_ref().map(|picture| logits(&model, picture));
        let bias = model.param_mut("fc.bias").unwrap().cpu_mut::<f32>().unwrap();
        for (class, bias) in bias.iter_mut().enumerate() {
            *bias -= all.iter().map(|logits| logits[class]).sum::<f32>() / 4.0;
        }
        io::save_model(&network, &model).unwrap();
        let mut classes = BTreeSet::new();
        for image in &pictures {
            image.save(&picture).unwrap();
            let logits = logits(&model, image);
            let want = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            let infer::Answer { class, probability, .. } =
                infer::classify(&network, &picture).unwrap();
            assert_eq!(class, want);
            let exps: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
            let share = exps[want] / exps.iter().sum::<f64>();
            assert!((probability - share).abs() < 1e-5, "{probability}, must be {share}");
            classes.insert(want);
        }
        assert!(classes.len() > 1, "every picture is of class {classes:?}");
        let message = infer::classify(&picture, &network).err().unwrap().to_string();
        assert!(message.contains("p.png"), "{message}");
        // The test's own arguments are no files.
        assert!(infer::main().is_err());
    });
}
