//! The steps of a network on the CPU.

use crate::Mode;
use crate::cpu::bf16::{self, Bf16Conv, Blocked};
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::isa::Isa;
use crate::cpu::lanes::{self, LaneConv};
use crate::cpu::nhwc::NhwcConv;
use crate::cpu::planes::{self, Layout, SparseLayer};
use crate::cpu::winograd::{LaneWinogradConv, WinogradConv};
use crate::cpu::{gather, pointwise, pool2d, round, window_pool};
use crate::ops::Window;
use crate::tensor::nhwc_to_nchw;

/// One pass over memory.
pub(super) struct Step {
    pub(super) work: Work,
    /// The layer that it is part of.
    pub(super) layer: usize,
    pub(super) x: Slot,
    pub(super) residual: Option<Slot>,
    pub(super) y: Slot,
}

/// A buffer and how many floats of it.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) buffer: usize,
    pub(super) len: usize,
}

/// How the elements of a value lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    Nhwc,
    /// [`lanes`].
    Lanes,
    /// [`planes`].
    Planes(Layout),
    /// [`bf16`].
    Blocked(Blocked),
}

impl Form {
    /// Whether there are zeros between the elements that stay in the memory of a value.
    pub(super) fn has_zeros(&self) -> bool {
        match self {
            Self::Nhwc | Self::Lanes => false,
            Self::Planes(_) => true,
            Self::Blocked(layout) => layout.has_halo(),
        }
    }
}

pub(super) enum Work {
    NhwcConv(NhwcConv),
    WinogradConv(WinogradConv),
    LaneConv(LaneConv),
    LaneWinogradConv(LaneWinogradConv),
    Bf16Conv(Box<Bf16Conv>),
    Sparse(Box<SparseLayer>),
    /// Scale and shift by channel.
    Pointwise {
        scale: Option<(Vec<f32>, Vec<f32>)>,
        relu: bool,
        channels: usize,
    },
    /// `[n, h, w, c]` of what it reads.
    MaxPool([usize; 4]),
    LaneMaxPool([usize; 4]),
    PlaneMaxPool(Layout, Layout),
    BlockedMaxPool(Blocked, Blocked),
    /// Largest or mean of windows; `[n, h, w, c]` of what it reads.
    WindowMax(Window, [usize; 4]),
    WindowMean(Window, [usize; 4]),
    /// `[n, c, h, w]` of what it reads.
    Flatten([usize; 4]),
    /// `[n, pixels, c]` of what it reads.
    Mean([usize; 3]),
    LaneMean([usize; 3]),
    PlaneMean(Layout),
    BlockedMean(Blocked),
    /// Channels that there are, and those that are read.
    Pick(Form, usize, Vec<usize>),
    /// Rounds the operand of a sparse convolution.
    Round(Mode),
    /// `[n, pixels, c]`.
    ToLanes([usize; 3]),
    FromLanes([usize; 3]),
    ToPlanes(Layout),
    FromPlanes(Layout),
    LanesToPlanes(Layout),
    PlanesToLanes(Layout),
    ToBlocked(Blocked),
    FromBlocked(Blocked),
    /// The convolution whose taps lie in one pixel of the layout.
    Patches(ConvShape, Blocked),
}

impl Work {
    pub(super) fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let isa = Isa::detect();
        match self {
            Self::NhwcConv(conv) => conv.run(x, residual, y),
            Self::WinogradConv(conv) => conv.run(x, residual, y),
            Self::LaneConv(conv) => conv.run(x, residual, y),
            Self::LaneWinogradConv(conv) => conv.run(x, residual, y),
            Self::Bf16Conv(conv) => conv.run(x, residual, y),
            Self::Sparse(layer) => layer.run(x, residual, y),
            Self::Pointwise { scale, relu, channels } => {
                let scale = scale.as_ref().map(|(scale, shift)| (&scale[..], &shift[..]));
                pointwise::run(*channels, x, scale, residual, *relu, y);
            }
            Self::MaxPool(shape) => pool2d::max(*shape, x, y),
            Self::LaneMaxPool(shape) => lanes::max_pool(*shape, x, y),
            Self::PlaneMaxPool(from, to) => planes::max_pool(isa, from, x, to, y),
            Self::BlockedMaxPool(from, to) => bf16::max_pool(from, x, to, y),
            Self::WindowMax(window, shape) => window_pool::max_forward(*window, *shape, x, y, None),
            Self::WindowMean(window, shape) => window_pool::mean_forward(*window, *shape, x, y),
            Self::Flatten(shape) => y.copy_from_slice(&nhwc_to_nchw(x, *shape)),
            Self::Mean(shape) => pool2d::mean_forward(*shape, x, y),
            Self::LaneMean(shape) => lanes::mean(*shape, x, y),
            Self::PlaneMean(layout) => planes::global_avg_pool(layout, x, y),
            Self::BlockedMean(layout) => bf16::mean(layout, x, y),
            Self::Pick(Form::Lanes, channels, index) => lanes::pick(*channels, index, x, y),
            Self::Pick(_, channels, index) => gather::pick(*channels, index, x, y),
            Self::Round(mode) => round::all(*mode, x, y),
            Self::ToLanes(shape) => lanes::from_nhwc(*shape, x, y),
            Self::FromLanes(shape) => lanes::to_nhwc(*shape, x, y),
            Self::ToPlanes(layout) => planes::pack(isa, layout, x, y),
            Self::FromPlanes(layout) => planes::unpack(layout, x, y),
            Self::LanesToPlanes(layout) => planes::from_lanes(layout, x, y),
            Self::PlanesToLanes(layout) => planes::to_lanes(layout, x, y),
            Self::ToBlocked(layout) => bf16::from_nhwc(layout, x, y),
            Self::FromBlocked(layout) => bf16::to_nhwc(layout, x, y),
            Self::Patches(shape, layout) => bf16::patches(shape, layout, x, y),
        }
    }
}
