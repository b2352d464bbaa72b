//! ResNet18 for small images: eight blocks of two 3×3 convolutions.

use super::architecture::Architecture;
use super::resnet;
use crate::nn::{Arch, Blueprint};

/// `resnet18`.
pub const RESNET18: Architecture = Architecture {
    name: "resnet18",
    summary: "20 convolutions in basic blocks, 3×3 stem without pooling",
    source: "He et al. 2016; CIFAR stem",
    min_size: 1,
    build,
};

fn build(arch: &Arch) -> Blueprint {
    resnet::build(arch, [2, 2, 2, 2], |planes, stride| [(planes, 3, stride), (planes, 3, 1)])
}
