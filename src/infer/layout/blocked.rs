//! Rows of 32 channels in bf16, where the processor multiplies bf16.

use super::form::{ConvLayer, ConvSteps, Form, Layout, Placement, result};
use super::interleaved::Interleaved;
use crate::Mode;
use crate::cpu::bf16::{self, Bf16Conv, Blocked, Target};
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::finish::Finish;
use crate::cpu::window::Window;
use crate::infer::fused::{Conv, FusedLayer, LayerOp, Network};
use crate::infer::step::{Work, pass, work};
use crate::infer::way::Algorithm;

/// A convolution of fewer channels has all its taps in one row, where it can.
const FEW_CHANNELS: usize = 16;

/// Whether dense convolutions run by instructions for bf16.
pub(in crate::infer) fn runs_in_bf16(mode: Mode) -> bool {
    mode == Mode::Bf16 && bf16::Bf16Isa::detect().is_native()
}

pub(super) struct BlockedLayout {
    batch: usize,
    /// Whether convolutions run here at all.
    native: bool,
    /// Whether the rows that are multiplied together are images.
    grouped: bool,
    /// Around every value.
    halo: usize,
}

impl BlockedLayout {
    pub(super) fn new(
        network: &Network,
        batch: usize,
        mode: Mode,
        algorithms: &[Algorithm],
    ) -> Self {
        let grouped = Interleaved::of(batch).form == Form::Lanes;
        let halo = halo(network, batch, algorithms);
        Self { batch, native: runs_in_bf16(mode), grouped, halo }
    }

    fn layout(&self, placement: Placement) -> Blocked {
        let Placement { shape: [h, w, c], halo, .. } = placement;
        Blocked::new([self.batch, h, w, c], self.grouped, halo)
    }

    fn placement(&self, shape: [usize; 3]) -> Placement {
        Placement { form: Form::Blocked, shape, halo: self.halo }
    }

    /// The convolution over all channels of its input, and where its taps join one row the convolution of one tap that it
    /// becomes.
    fn shapes(&self, at: &ConvLayer) -> (ConvShape, Option<ConvShape>) {
        let [h, w, c] = at.input();
        let whole = ConvShape { c, ..at.conv.shape(self.batch, [h, w]) };
        let joined = joins_taps(at.network, at.layer, at.conv).then(|| {
            let (h, w, c) = (whole.p(), whole.q(), whole.r * whole.s * c);
            ConvShape { h, w, c, r: 1, s: 1, stride: 1, pad: 0, ..whole }
        });
        (whole, joined)
    }
}

impl Layout for BlockedLayout {
    fn len(&self, placement: Placement) -> usize {
        self.layout(placement).len()
    }

    fn keeps_zeros(&self, placement: Placement) -> bool {
        self.layout(placement).has_halo()
    }

    fn halo(&self, _value: usize) -> usize {
        self.halo
    }

    fn claims(&self, at: &ConvLayer) -> bool {
        let (whole, joined) = self.shapes(at);
        let takes = Bf16Conv::takes(&joined.unwrap_or(whole), self.grouped);
        self.native && at.algorithm == Algorithm::Dense && takes
    }

    fn conv(&self, at: &ConvLayer) -> ConvSteps {
        let (whole, joined) = self.shapes(at);
        let shape = joined.unwrap_or(whole);
        let from = self.placement([shape.h, shape.w, shape.c]);
        let input = self.layout(from);
        let prepare = joined.map(|_| {
            let layout = input.clone();
            (from, pass(move |x, y| bf16::patches(&whole, &layout, x, y)))
        });
        // Maxima of few images are a pass of their own.
        let finish = Finish { pool: at.finish().pool && self.grouped, ..at.finish() };
        let writes = self.placement(result(&shape, finish.pool));
        let last = at.index + 1 == at.network.layers.len();
        let (writes, target) = if last && at.layer.residual.is_none() && !at.layer.pool {
            (Placement { form: Form::Nhwc, halo: 0, ..writes }, Target::Nhwc)
        } else {
            (writes, Target::Blocked(self.layout(writes)))
        };
        let (_, weight) = at.conv.spread(whole.c);
        let conv = Bf16Conv::new(&shape, &weight, &at.conv.bias, finish, &input, target);
        ConvSteps {
            reads: if joined.is_some() { Form::Nhwc } else { Form::Blocked },
            prepare,
            work: work(move |x, residual, y| conv.run(x, residual, y)),
            writes,
            pooled: finish.pool,
        }
    }

    fn max_pool(&self, from: Placement, to: Placement) -> Work {
        let from = self.layout(from);
        let to = from.resized(to.shape);
        pass(move |x, y| bf16::max_pool(&from, x, &to, y))
    }

    fn mean(&self, from: Placement) -> (Form, Work) {
        let layout = self.layout(from);
        (Form::Nhwc, pass(move |x, y| bf16::mean(&layout, x, y)))
    }

    fn nhwc_to_own(&self, to: Placement) -> Option<Work> {
        let layout = self.layout(to);
        Some(pass(move |x, y| bf16::from_nhwc(&layout, x, y)))
    }

    fn own_to_nhwc(&self, from: Placement) -> Option<Work> {
        let layout = self.layout(from);
        Some(pass(move |x, y| bf16::to_nhwc(&layout, x, y)))
    }
}

/// Whether a convolution has its taps in one row: one of few channels whose input lies in NHWC.
fn joins_taps(network: &Network, layer: &FusedLayer, conv: &Conv) -> bool {
    let made = layer.input.checked_sub(1).map(|i| &network.layers[i].op);
    let plain = !matches!(made, Some(LayerOp::Conv(_) | LayerOp::MaxPool(Window::HALVES)));
    plain && network.shapes[layer.input][2] < FEW_CHANNELS && conv.dims[1] * conv.dims[2] > 1
}

/// The largest padding of a dense convolution that reads rows of this layout.
fn halo(network: &Network, batch: usize, algorithms: &[Algorithm]) -> usize {
    let padding = network.layers.iter().zip(algorithms).filter_map(|(layer, algorithm)| {
        match (&layer.op, algorithm) {
            (LayerOp::Conv(conv), Algorithm::Dense) if !joins_taps(network, layer, conv) => {
                let [h, w, _] = network.shapes[layer.input];
                Bf16Conv::takes(&conv.shape(batch, [h, w]), false).then_some(conv.padding)
            }
            _ => None,
        }
    });
    padding.max().unwrap_or(0)
}
