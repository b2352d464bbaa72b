//! Planes for sparse convolutions, with zeros around them.

use super::form::{ConvLayer, ConvSteps, Form, Layout, Placement, result};
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::isa::Isa;
use crate::cpu::planes::{self, SparseLayer};
use crate::cpu::round;
use crate::infer::fused::{LayerOp, Network};
use crate::infer::step::{Work, pass, work};
use crate::infer::way::Algorithm;
use std::borrow::Cow;

pub(super) struct PlanesLayout {
    batch: usize,
    mode: Mode,
    isa: Isa,
    /// By value.
    halos: Vec<usize>,
}

impl PlanesLayout {
    pub(super) fn new(
        network: &Network,
        batch: usize,
        mode: Mode,
        algorithms: &[Algorithm],
    ) -> Self {
        let halos = halos(network, batch, algorithms);
        Self { batch, mode, isa: Isa::detect(), halos }
    }

    fn layout(&self, placement: Placement) -> planes::Layout {
        let Placement { shape: [h, w, c], halo, .. } = placement;
        planes::Layout::new(self.isa, [self.batch, h, w, c], halo)
    }

    fn placement(&self, shape: [usize; 3], value: usize) -> Placement {
        Placement { form: Form::Planes, shape, halo: self.halo(value) }
    }
}

impl Layout for PlanesLayout {
    fn len(&self, placement: Placement) -> usize {
        self.layout(placement).len()
    }

    fn keeps_zeros(&self, _placement: Placement) -> bool {
        true
    }

    fn halo(&self, value: usize) -> usize {
        self.halos[value]
    }

    fn claims(&self, at: &ConvLayer) -> bool {
        at.algorithm == Algorithm::Sparse
    }

    fn conv(&self, at: &ConvLayer) -> ConvSteps {
        let (mode, finish, [h, w, c]) = (self.mode, at.finish(), at.input());
        let shape = ConvShape { c, ..at.conv.shape(self.batch, [h, w]) };
        let (_, mut weight) = at.conv.spread(c);
        let from = self.placement([h, w, c], at.layer.input);
        let writes = self.placement(result(&shape, finish.pool), at.index + 1);
        let prepare = (mode != Mode::F32).then(|| {
            let mut rounded = vec![0.0; weight.len()];
            round::copy(mode, &weight, &mut rounded);
            weight = Cow::Owned(rounded);
            (from, pass(move |x, y| round::all(mode, x, y)))
        });
        let (input, output) = (self.layout(from), self.layout(writes));
        let layer =
            SparseLayer::new(self.isa, &shape, &weight, &at.conv.bias, finish, input, output);
        let work = work(move |x, residual, y| layer.run(x, residual, y));
        ConvSteps { reads: Form::Planes, prepare, work, writes, pooled: finish.pool }
    }

    fn max_pool(&self, from: Placement, to: Placement) -> Work {
        let (isa, from, to) = (self.isa, self.layout(from), self.layout(to));
        pass(move |x, y| planes::max_pool(isa, &from, x, &to, y))
    }

    fn mean(&self, from: Placement) -> (Form, Work) {
        let layout = self.layout(from);
        (Form::Nhwc, pass(move |x, y| planes::global_avg_pool(&layout, x, y)))
    }

    fn nhwc_to_own(&self, to: Placement) -> Option<Work> {
        let (isa, layout) = (self.isa, self.layout(to));
        Some(pass(move |x, y| planes::pack(isa, &layout, x, y)))
    }

    fn own_to_nhwc(&self, from: Placement) -> Option<Work> {
        let layout = self.layout(from);
        Some(pass(move |x, y| planes::unpack(&layout, x, y)))
    }

    fn form_to_own(&self, from: Form, to: Placement) -> Option<Work> {
        let layout = self.layout(to);
        (from == Form::Lanes).then(|| pass(move |x, y| planes::from_lanes(&layout, x, y)))
    }

    fn own_to_form(&self, from: Placement, to: Form) -> Option<Work> {
        let layout = self.layout(from);
        (to == Form::Lanes).then(|| pass(move |x, y| planes::to_lanes(&layout, x, y)))
    }
}

/// The zeros that the sparse readers of each value want around it. A residual lies as the sum does, so both have the larger
/// halo.
fn halos(network: &Network, batch: usize, algorithms: &[Algorithm]) -> Vec<usize> {
    let mut halos = vec![0; network.shapes.len()];
    for (layer, algorithm) in network.layers.iter().zip(algorithms) {
        if let (LayerOp::Conv(conv), Algorithm::Sparse) = (&layer.op, algorithm) {
            let [h, w, c] = network.shapes[layer.input];
            let shape = ConvShape { c, ..conv.shape(batch, [h, w]) };
            let halo = &mut halos[layer.input];
            *halo = (*halo).max(SparseLayer::halo(Isa::detect(), &shape));
        }
    }
    let layers = || network.layers.iter().enumerate();
    let sums = || layers().filter_map(|(i, layer)| Some((i + 1, layer.residual?)));
    while let Some((a, b)) = sums().find(|&(a, b)| halos[a] != halos[b]) {
        let most = halos[a].max(halos[b]);
        (halos[a], halos[b]) = (most, most);
    }
    halos
}
