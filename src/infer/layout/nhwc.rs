//! NHWC: few images in f32, the image and the logits of every program, and what passes between other layouts.

use super::form::{ConvLayer, ConvSteps, Form, Layout, Placement};
use super::interleaved;
use crate::Mode;
use crate::cpu::nhwc::NhwcConv;
use crate::cpu::winograd::WinogradConv;
use crate::cpu::{gather, pool2d};
use crate::infer::step::{Work, pass, work};
use crate::tensor::nhwc_to_nchw;

pub(super) struct NhwcLayout {
    pub(super) batch: usize,
    pub(super) mode: Mode,
}

impl Layout for NhwcLayout {
    fn len(&self, placement: Placement) -> usize {
        self.batch * placement.shape.iter().product::<usize>()
    }

    fn conv(&self, at: &ConvLayer) -> ConvSteps {
        let [h, w, _] = at.input();
        let (conv, finish, mode) = (at.conv, at.finish(), self.mode);
        let shape = conv.shape(self.batch, [h, w]);
        let tiles = WinogradConv::new(&shape, &conv.weight, &conv.bias, finish, mode)
            .map(|conv| work(move |x, residual, y| conv.run(x, residual, y)));
        let sum = || {
            let conv = NhwcConv::new(&shape, &conv.weight, &conv.bias, finish.relu, mode);
            work(move |x, residual, y| conv.run(x, residual, y))
        };
        interleaved::conv(Form::Nhwc, self.batch, at, tiles, sum, gather::pick)
    }

    fn max_pool(&self, from: Placement, _to: Placement) -> Work {
        let ([h, w, c], n) = (from.shape, self.batch);
        pass(move |x, y| pool2d::max([n, h, w, c], x, y))
    }

    fn mean(&self, from: Placement) -> (Form, Work) {
        let ([h, w, c], n) = (from.shape, self.batch);
        (Form::Nhwc, pass(move |x, y| pool2d::mean_forward([n, h * w, c], x, y)))
    }

    fn nhwc_to_own(&self, _to: Placement) -> Option<Work> {
        None
    }

    fn own_to_nhwc(&self, _from: Placement) -> Option<Work> {
        None
    }
}

/// Images `[h, w, c]` in NHWC as vectors, channel by channel.
pub(in crate::infer) fn flatten(batch: usize, [h, w, c]: [usize; 3]) -> Work {
    pass(move |x, y| y.copy_from_slice(&nhwc_to_nchw(x, [batch, c, h, w])))
}
