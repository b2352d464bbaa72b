//! ResNet50 for small images: sixteen bottlenecks 1×1, 3×3 (with the stride), 1×1 to four times the planes.

use super::architecture::Architecture;
use super::resnet;
use crate::nn::{Arch, Blueprint};

/// `resnet50`.
pub const RESNET50: Architecture = Architecture {
    name: "resnet50",
    summary: "53 convolutions in bottlenecks, 3×3 stem without pooling",
    source: "He et al. 2016; CIFAR stem",
    min_size: 1,
    build,
};

fn build(arch: &Arch) -> Blueprint {
    resnet::build(arch, [3, 4, 6, 3], |planes, stride| {
        [(planes, 1, 1), (planes, 3, stride), (4 * planes, 1, 1)]
    })
}
