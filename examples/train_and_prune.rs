//! Trains a small VGG16, prunes it while it trains, attacks it, and saves what is left after shrinking.
//!
//! `cargo run --release --example train_and_prune` needs no files: the images are part of the library.

use rewire::attack::{self, AttackSettings, Network, Outcome};
use rewire::data::Dataset;
use rewire::nn::{ArchSpec, Weights};
use rewire::prune::{Granularity, PruneSettings, Pruner};
use rewire::train::{Event, TrainSettings, Trainer};
use rewire::{Device, Mode, Result, Seed, io, models, prune};

/// Runs the whole example.
pub fn main() -> Result<()> {
    // A GPU where there is one, else the CPU.
    let (device, mode, seed) = (Device::new("auto")?, Mode::F32, Seed(1));
    // 4,000 training and 1,000 test images of Fashion-MNIST, which are part of the library.
    let data = Dataset::load("fashion-mnist-mini")?;
    println!("{} on {device}", data.name);

    // VGG16 with a sixteenth of its channels, for grey images.
    let arch = ArchSpec::parse("vgg16:width=0.0625,in_channels=1")?.resolve();
    let model = models::initialised(arch, seed, &device)?;

    // Dynamic network rewiring (DNR) keeps half of the input channels of the convolutions, and chooses them anew after every
    // epoch.
    let settings = PruneSettings {
        method: "dnr".into(),
        granularity: Granularity::Channel,
        density: 0.5,
        keys: Default::default(),
    };
    let pruner = Pruner::new(&settings, &model, seed)?;

    // The first epoch trains on clean images. The others train on clean and on attacked images alike; the attack is PGD with
    // three steps that changes every pixel by at most 8/255.
    let pgd = AttackSettings { steps: Some(3), ..Default::default() };
    let settings = TrainSettings {
        epochs: 3,
        warmup_epochs: 1,
        adversary: Some(pgd.clone()),
        ..Default::default()
    };
    let mut trainer = Trainer::new(settings, model, Some(pruner), seed, mode)?;
    trainer.run(&data, true, &[], &mut |_, event| {
        if let Event::Epoch(epoch) = event {
            let (number, accuracy) = (epoch.epoch, epoch.test_accuracy);
            println!("epoch {number}: {accuracy:.1} % of the test images classified correctly");
        }
        Ok(())
    })?;

    // The same attack on the test images, 125 at once.
    let weights = Weights::default();
    let network = Network { model: trainer.model(), weights: &weights, mode };
    let (test, none) = (data.test()?, Outcome::default());
    let outcome = attack::evaluate(&network, test, &[pgd], 125, seed, none, &mut |_| Ok(()))?;
    let robust = Outcome::percent(&outcome.worst);
    println!("under PGD: {robust:.1} % of the test images classified correctly");

    // Channels that no weight reads are removed; the logits stay the same.
    let small = prune::shrink(trainer.model())?;
    let (before, after) = (trainer.model().parameter_count(), small.parameter_count());
    println!("shrunk from {before} parameters to {after}");
    let file = std::env::temp_dir().join("train_and_prune.safetensors");
    io::save_model(&file, &small)?;
    println!("saved as {}", file.display());
    Ok(())
}
