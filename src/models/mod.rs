//! The registry of architectures, and the accuracy of a network. Start with [`initialised`] and [`evaluate()`].
//!
//! An architecture is a file here and a line in [`MODELS`]. A network of your own is written with
//! [`Builder`](crate::nn::Builder) and needs no line.

mod architecture;
mod evaluate;
mod resnet;
mod resnet18;
mod resnet50;
mod vgg16;

pub use architecture::Architecture;
pub use evaluate::{Scores, check_class_names, check_images, evaluate, predict};

use crate::nn::{Arch, Blueprint, Model};
use crate::{Device, Error, Result, Seed};

/// Every architecture.
pub const MODELS: &[Architecture] = &[vgg16::VGG16, resnet18::RESNET18, resnet50::RESNET50];

/// The name of a network that was read from an ONNX file. Its file holds its graph, as that of every network whose name is
/// not in [`MODELS`].
pub const IMPORTED: &str = "imported";

/// Weights that a network may have: their byte count must fit what kernels index.
const MOST_WEIGHTS: usize = 1 << 29;

/// Whether the registry has an architecture of that name.
pub fn is_known(name: &str) -> bool {
    MODELS.iter().any(|model| model.name == name)
}

/// The network that `arch` describes, without values.
///
/// Errors: [`crate::ErrorKind::Param`] for an unknown name or a value that this architecture cannot have.
pub fn blueprint(arch: &Arch) -> Result<Blueprint> {
    arch.check()?;
    let Some(architecture) = MODELS.iter().find(|model| model.name == arch.name) else {
        let known: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
        return Err(Error::param("arch", &arch.name, format!("one of {}", known.join(", "))));
    };
    if arch.size < architecture.min_size {
        let want = format!("at least {} for {}", architecture.min_size, arch.name);
        return Err(Error::param("arch.size", arch.size, want));
    }
    let blueprint = (architecture.build)(arch);
    if blueprint.parameter_count() > MOST_WEIGHTS {
        let want = format!("so that there are at most {MOST_WEIGHTS} parameters");
        return Err(Error::param("arch.width", arch.width, want));
    }
    Ok(blueprint)
}

/// A network with initial values from streams of `seed`.
///
/// ```
/// use rewire::{Device, Seed, models, nn::ArchSpec};
/// let arch = ArchSpec::parse("resnet18:width=0.0625")?.resolve();
/// let model = models::initialised(arch, Seed(1), &Device::Cpu)?;
/// assert_eq!(model.prunable().len(), 20);
/// # Ok::<(), rewire::Error>(())
/// ```
pub fn initialised(arch: Arch, seed: Seed, device: &Device) -> Result<Model> {
    let blueprint = blueprint(&arch)?;
    Model::initialised(arch, blueprint, seed, device)
}
