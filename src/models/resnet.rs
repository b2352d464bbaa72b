//! What the residual networks for small images share: a 3×3 stem without pooling, four stages, global
//! average, one linear layer. Names are torchvision's. γ starts at 1.
//!
//! Source: He et al. 2016.

use crate::nn::{Arch, Blueprint, Builder};

/// A convolution of a block, counted from 1: filters for a width-1 network, window, stride.
type Conv = (usize, usize, usize);

/// The network of `blocks[stage]` blocks in stages of 64, 128, 256, 512 planes; `block` lists the
/// convolutions of one block from its planes and its stride.
pub fn build<const N: usize>(
    arch: &Arch,
    blocks: [usize; 4],
    block: fn(usize, usize) -> [Conv; N],
) -> Blueprint {
    let mut net = Builder::new(arch, 1.0);
    let mut x = net.last();
    x = net.conv(x, "conv1", arch.channels(64), 3, 1, false);
    x = net.batch_norm(x, "bn1");
    x = net.relu(x);
    for (stage, &count) in blocks.iter().enumerate() {
        for index in 0..count {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let prefix = format!("layer{}.{index}", stage + 1);
            x = residual(&mut net, x, &prefix, arch, &block(64 << stage, stride), stride);
        }
    }
    x = net.global_avg_pool(x);
    net.linear(x, "fc", arch.classes, true);
    net.finish()
}

/// `relu(convolutions(x) + shortcut(x))`; the shortcut is a 1×1 convolution where shapes change.
fn residual(
    net: &mut Builder,
    x: usize,
    prefix: &str,
    arch: &Arch,
    convs: &[Conv],
    stride: usize,
) -> usize {
    let mut y = x;
    for (i, &(filters, window, stride)) in convs.iter().enumerate() {
        if i > 0 {
            y = net.relu(y);
        }
        y = net.conv(
            y,
            &format!("{prefix}.conv{}", i + 1),
            arch.channels(filters),
            window,
            stride,
            false,
        );
        y = net.batch_norm(y, &format!("{prefix}.bn{}", i + 1));
    }
    let mut shortcut = x;
    if stride != 1 || net.channels(x) != net.channels(y) {
        shortcut =
            net.conv(x, &format!("{prefix}.downsample.0"), net.channels(y), 1, stride, false);
        shortcut = net.batch_norm(shortcut, &format!("{prefix}.downsample.1"));
    }
    let sum = net.add(y, shortcut);
    net.relu(sum)
}
