//! VGG16 for small images: 13 convolutions with batch norm, one linear layer.

use super::architecture::Architecture;
use crate::nn::{Arch, Blueprint, Builder};
use crate::ops::Window;

/// `vgg16`.
pub const VGG16: Architecture = Architecture {
    name: "vgg16",
    summary: "13 convolutions with bias and batch norm, global average, one linear layer",
    source: "Simonyan & Zisserman 2015, configuration D; CIFAR head",
    min_size: 32,
    build,
};

/// Filters of the convolutions; 0 stands for a 2×2 maximum.
const LAYERS: [usize; 18] =
    [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0];

/// γ starts at 0.5. The positions in `features.N` are those of torchvision's `vgg16_bn`.
fn build(arch: &Arch) -> Blueprint {
    let mut net = Builder::new(arch, 0.5);
    let (mut x, mut position) = (net.last(), 0);
    for filters in LAYERS {
        if filters == 0 {
            x = net.max_pool(x, Window::HALVES);
            position += 1;
            continue;
        }
        x = net.conv(x, &format!("features.{position}"), arch.channels(filters), 3, 1, true);
        x = net.batch_norm(x, &format!("features.{}", position + 1));
        x = net.relu(x);
        position += 3;
    }
    x = net.global_avg_pool(x);
    net.linear(x, "classifier", arch.classes, true);
    net.finish()
}
