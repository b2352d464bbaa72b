//! One image in each lane of a vector: many images in f32.

use super::form::{ConvLayer, ConvSteps, Form, Layout, Placement};
use super::interleaved;
use crate::Mode;
use crate::cpu::lanes::{self, LaneConv};
use crate::cpu::winograd::LaneWinogradConv;
use crate::infer::step::{Work, pass, work};

pub(super) struct LanesLayout {
    pub(super) batch: usize,
    pub(super) mode: Mode,
}

impl LanesLayout {
    /// `[n, pixels, c]` of a value.
    fn pixels(&self, placement: Placement) -> [usize; 3] {
        let [h, w, c] = placement.shape;
        [self.batch, h * w, c]
    }
}

impl Layout for LanesLayout {
    fn len(&self, placement: Placement) -> usize {
        lanes::len(self.batch, placement.shape)
    }

    fn conv(&self, at: &ConvLayer) -> ConvSteps {
        let [h, w, _] = at.input();
        let (conv, finish, mode) = (at.conv, at.finish(), self.mode);
        let shape = conv.shape(self.batch, [h, w]);
        let tiles = LaneWinogradConv::new(&shape, &conv.weight, &conv.bias, finish, mode)
            .map(|conv| work(move |x, residual, y| conv.run(x, residual, y)));
        let sum = || {
            let conv = LaneConv::new(&shape, &conv.weight, &conv.bias, finish.relu, mode);
            work(move |x, residual, y| conv.run(x, residual, y))
        };
        interleaved::conv(Form::Lanes, self.batch, at, tiles, sum, lanes::pick)
    }

    fn max_pool(&self, from: Placement, _to: Placement) -> Work {
        let ([h, w, c], n) = (from.shape, self.batch);
        pass(move |x, y| lanes::max_pool([n, h, w, c], x, y))
    }

    fn mean(&self, from: Placement) -> (Form, Work) {
        let pixels = self.pixels(from);
        (Form::Lanes, pass(move |x, y| lanes::mean(pixels, x, y)))
    }

    fn nhwc_to_own(&self, to: Placement) -> Option<Work> {
        let pixels = self.pixels(to);
        Some(pass(move |x, y| lanes::from_nhwc(pixels, x, y)))
    }

    fn own_to_nhwc(&self, from: Placement) -> Option<Work> {
        let pixels = self.pixels(from);
        Some(pass(move |x, y| lanes::to_nhwc(pixels, x, y)))
    }
}
