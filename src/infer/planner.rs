//! Lays a network out on the CPU: forms of values, steps, buffers.

use super::cpu::Program;
use super::fused::{Conv, Layer, LayerOp, Network};
use super::plan::Algorithm;
use super::step::{Form, Slot, Step, Work};
use crate::Mode;
use crate::cpu::aligned::Aligned;
use crate::cpu::bf16::{self, Bf16Conv, Blocked, Target};
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::finish::Finish;
use crate::cpu::isa::Isa;
use crate::cpu::lanes::{self, LaneConv};
use crate::cpu::nhwc::NhwcConv;
use crate::cpu::planes::{Layout, SparseLayer};
use crate::cpu::round;
use crate::cpu::window::Window;
use crate::cpu::winograd::{LaneWinogradConv, WinogradConv};
use std::borrow::Cow;
use std::time::Instant;

/// The steps of `network` for `batch` images. `algorithms` holds one for each layer; only convolutions look at theirs.
pub(super) fn program(
    network: &Network,
    batch: usize,
    mode: Mode,
    algorithms: &[Algorithm],
) -> Program {
    let layouts = Bf16Layouts::of(network, batch, mode, algorithms);
    let mut planner = Planner {
        network,
        batch,
        mode,
        algorithms,
        isa: Isa::detect(),
        dense: if layouts.is_some() { Form::Nhwc } else { dense_form(batch) },
        bf16: layouts,
        halos: halos(network, batch, algorithms),
        steps: Vec::new(),
        buffers: Buffers::default(),
        values: vec![Vec::new()],
    };
    let image = planner.take(&Form::Nhwc, network.shapes[0]);
    planner.values[0].push((Form::Nhwc, image));
    let last_use = network.last_use();
    for i in 0..network.layers.len() {
        planner.layer(i);
        for value in (0..=i + 1).filter(|&value| last_use[value] == i) {
            for (form, slot) in std::mem::take(&mut planner.values[value]) {
                planner.buffers.give(slot, &form);
            }
        }
    }
    let end = network.layers.len();
    let logits = planner.need(end, &Form::Nhwc, end.saturating_sub(1));
    Program { steps: planner.steps, lens: planner.buffers.lens, image, logits }
}

/// Lanes where they are mostly full, and for all parts of more images than there are lanes: whether these are cut into parts
/// depends on the number of threads, which must not change bits.
fn dense_form(batch: usize) -> Form {
    let lanes = lanes::lanes();
    // VGG16 took as long for 9 images one way as the other with 16 lanes.
    if batch > lanes || 5 * batch >= 3 * lanes { Form::Lanes } else { Form::Nhwc }
}

/// Whether dense convolutions run by instructions for bf16.
pub(super) fn runs_in_bf16(mode: Mode) -> bool {
    mode == Mode::Bf16 && bf16::Bf16Isa::detect().is_native()
}

/// Whether a convolution in bf16 gets its taps in one row: those of few channels, which lie in NHWC.
fn joins_taps(network: &Network, layer: &Layer, conv: &Conv) -> bool {
    let made = layer.input.checked_sub(1).map(|i| &network.layers[i].op);
    let plain = !matches!(made, Some(LayerOp::Conv(_) | LayerOp::MaxPool(Window::HALVES)));
    plain && network.shapes[layer.input][2] < FEW_CHANNELS && conv.dims[1] * conv.dims[2] > 1
}

/// How activations lie where dense convolutions run in bf16.
#[derive(Clone, Copy)]
struct Bf16Layouts {
    grouped: bool,
    halo: usize,
}

impl Bf16Layouts {
    fn of(network: &Network, batch: usize, mode: Mode, algorithms: &[Algorithm]) -> Option<Self> {
        if !runs_in_bf16(mode) {
            return None;
        }
        let dense = network.layers.iter().zip(algorithms);
        let padding = dense.filter_map(|(layer, algorithm)| match (&layer.op, algorithm) {
            (LayerOp::Conv(conv), Algorithm::Dense) if !joins_taps(network, layer, conv) => {
                let [h, w, _] = network.shapes[layer.input];
                Bf16Conv::takes(&conv_shape(conv, [h, w], batch), false).then_some(conv.padding)
            }
            _ => None,
        });
        Some(Self { grouped: dense_form(batch) == Form::Lanes, halo: padding.max().unwrap_or(0) })
    }

    fn layout(&self, batch: usize, [h, w, c]: [usize; 3]) -> Blocked {
        Blocked::new([batch, h, w, c], self.grouped, self.halo)
    }
}

/// The zeros that readers want around each value where it lies in planes. What is added lies as the sum does.
fn halos(network: &Network, batch: usize, algorithms: &[Algorithm]) -> Vec<usize> {
    let mut halos = vec![0; network.shapes.len()];
    for (layer, algorithm) in network.layers.iter().zip(algorithms) {
        if let (LayerOp::Conv(conv), Algorithm::Sparse) = (&layer.op, algorithm) {
            let [h, w, c] = network.shapes[layer.input];
            let shape = ConvShape { c, ..conv_shape(conv, [h, w], batch) };
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

/// Seconds that a value of the shape takes from the form of dense convolutions to planes, the shorter of two times.
pub(super) fn conversion_seconds(shape: [usize; 3], batch: usize, mode: Mode) -> f64 {
    let [h, w, c] = shape;
    let (plain, layout) = (batch * h * w * c, Layout::new(Isa::detect(), [batch, h, w, c], 1));
    let to_planes = |work, from| vec![(work, from, layout.len())];
    let works = match (runs_in_bf16(mode), dense_form(batch)) {
        (true, form) => {
            let blocked = Blocked::new([batch, h, w, c], form == Form::Lanes, 1);
            let len = blocked.len();
            let to = (Work::ToPlanes(layout.clone()), plain, layout.len());
            vec![(Work::FromBlocked(blocked), len, plain), to]
        }
        (false, Form::Lanes) => {
            to_planes(Work::LanesToPlanes(layout.clone()), lanes::len(batch, shape))
        }
        (false, _) => to_planes(Work::ToPlanes(layout.clone()), plain),
    };
    let seconds = works.into_iter().map(|(work, from, to)| {
        let (x, mut y) = (Aligned::zeros(from), Aligned::zeros(to));
        let seconds = [(); 2].map(|()| {
            let start = Instant::now();
            work.run(&x, None, &mut y);
            start.elapsed().as_secs_f64()
        });
        seconds[0].min(seconds[1])
    });
    seconds.sum()
}

struct Planner<'a> {
    network: &'a Network,
    batch: usize,
    mode: Mode,
    algorithms: &'a [Algorithm],
    isa: Isa,
    /// Where dense convolutions read and write, but for those in bf16, which have layouts of their own.
    dense: Form,
    bf16: Option<Bf16Layouts>,
    halos: Vec<usize>,
    steps: Vec<Step>,
    buffers: Buffers,
    /// By value: the forms that it is there in.
    values: Vec<Vec<(Form, Slot)>>,
}

impl Planner<'_> {
    fn layer(&mut self, i: usize) {
        let layer = &self.network.layers[i];
        let result = match &layer.op {
            LayerOp::Conv(conv) if self.algorithms[i] == Algorithm::Sparse => {
                self.sparse_conv(i, layer, conv)
            }
            LayerOp::Conv(conv) => match self.bf16_conv(i, layer, conv) {
                Some(result) => result,
                None => self.dense_conv(i, layer, conv),
            },
            LayerOp::Pointwise(scale) => self.pointwise(i, layer, scale.as_ref()),
            LayerOp::MaxPool(Window::HALVES) => self.max_pool(i, layer.input),
            LayerOp::MaxPool(window) => {
                self.windows(i, layer.input, |shape| Work::WindowMax(*window, shape))
            }
            LayerOp::AvgPool(window) => {
                self.windows(i, layer.input, |shape| Work::WindowMean(*window, shape))
            }
            LayerOp::GlobalAvgPool => self.mean(i, layer.input),
            LayerOp::Flatten => self.flatten(i, layer.input),
        };
        self.values.push(vec![result]);
    }

    fn sparse_conv(&mut self, i: usize, layer: &Layer, conv: &Conv) -> (Form, Slot) {
        let all = self.network.shapes[layer.input];
        let (dims, mut weight) = conv.spread(all[2]);
        let shape = ConvShape { c: dims[3], ..conv_shape(conv, [all[0], all[1]], self.batch) };
        if self.mode != Mode::F32 {
            let mut rounded = vec![0.0; weight.len()];
            round::copy(self.mode, &weight, &mut rounded);
            weight = Cow::Owned(rounded);
        }
        let input = self.layout(layer.input);
        let from = Form::Planes(input.clone());
        let mut x = self.need(layer.input, &from, i);
        let rounded = (self.mode != Mode::F32).then(|| {
            let y = self.take(&from, all);
            self.step(i, Work::Round(self.mode), x, None, y);
            std::mem::replace(&mut x, y)
        });
        let pool = layer.pool && layer.residual.is_none();
        let unpooled = layer.pool && !pool;
        let output = match unpooled {
            true => self.layout_of([shape.p(), shape.q(), shape.k], self.halos[i + 1]),
            false => self.layout(i + 1),
        };
        let to = Form::Planes(output.clone());
        let residual = layer.residual.map(|value| self.need(value, &to, i));
        let full = [shape.p(), shape.q(), shape.k];
        let y = self.take(&to, if unpooled { full } else { self.network.shapes[i + 1] });
        let finish = Finish { relu: layer.relu, pool };
        let (isa, bias) = (self.isa, &conv.bias);
        let built =
            SparseLayer::new(isa, &shape, &weight, bias, finish, input.clone(), output.clone());
        self.step(i, Work::Sparse(Box::new(built)), x, residual, y);
        if rounded.is_some() {
            self.buffers.give(x, &from);
        }
        if !unpooled {
            return (to, y);
        }
        self.pooled(i, true, full, (to, y))
    }

    fn dense_conv(&mut self, i: usize, layer: &Layer, conv: &Conv) -> (Form, Slot) {
        let form = self.dense.clone();
        let [h, w, c] = self.network.shapes[layer.input];
        let shape = conv_shape(conv, [h, w], self.batch);
        let mut x = self.need(layer.input, &form, i);
        let residual = layer.residual.map(|value| self.need(value, &form, i));
        let mut picked = None;
        if let Some(list) = &conv.channels {
            let y = self.take(&form, [h, w, list.len()]);
            self.step(i, Work::Pick(form.clone(), c, list.clone()), x, None, y);
            x = y;
            picked = Some(y);
        }
        let (weight, bias, mode) = (&conv.weight, &conv.bias, self.mode);
        let finish = Finish { relu: layer.relu, pool: layer.pool && residual.is_none() };
        let lanes = form == Form::Lanes;
        let tiled = if lanes {
            LaneWinogradConv::new(&shape, weight, bias, finish, mode).map(Work::LaneWinogradConv)
        } else {
            WinogradConv::new(&shape, weight, bias, finish, mode).map(Work::WinogradConv)
        };
        let pooled = finish.pool && tiled.is_some();
        let work = tiled.unwrap_or_else(|| match lanes {
            true => Work::LaneConv(LaneConv::new(&shape, weight, bias, layer.relu, mode)),
            false => Work::NhwcConv(NhwcConv::new(&shape, weight, bias, layer.relu, mode)),
        });
        let edge = |edge: usize| if pooled { edge / 2 } else { edge };
        let result = [edge(shape.p()), edge(shape.q()), shape.k];
        let y = self.take(&form, result);
        self.step(i, work, x, residual, y);
        if let Some(picked) = picked {
            self.buffers.give(picked, &form);
        }
        self.pooled(i, layer.pool && !pooled, result, (form, y))
    }

    /// Nothing where the convolution is none for bf16.
    fn bf16_conv(&mut self, i: usize, layer: &Layer, conv: &Conv) -> Option<(Form, Slot)> {
        let layouts = self.bf16?;
        let [h, w, c] = self.network.shapes[layer.input];
        let whole = ConvShape { c, ..conv_shape(conv, [h, w], self.batch) };
        let [p, q] = [whole.p(), whole.q()];
        let joined = joins_taps(self.network, layer, conv);
        let shape = match joined {
            true => {
                let c = whole.r * whole.s * c;
                ConvShape { h: p, w: q, c, r: 1, s: 1, stride: 1, pad: 0, ..whole }
            }
            false => whole,
        };
        if !Bf16Conv::takes(&shape, layouts.grouped) {
            return None;
        }
        let (_, weight) = conv.spread(c);
        let read = [shape.h, shape.w, shape.c];
        let from = layouts.layout(self.batch, read);
        let form = Form::Blocked(from.clone());
        let x = if joined {
            let x = self.need(layer.input, &Form::Nhwc, i);
            let y = self.take(&form, read);
            self.step(i, Work::Patches(whole, from.clone()), x, None, y);
            y
        } else {
            self.need(layer.input, &form, i)
        };
        // Maxima of few images are a pass of their own.
        let pool = layer.pool && layer.residual.is_none() && layouts.grouped;
        let finish = Finish { relu: layer.relu, pool };
        let edge = |edge: usize| if pool { edge / 2 } else { edge };
        let result = [edge(p), edge(q), shape.k];
        let last = i + 1 == self.network.layers.len() && layer.residual.is_none() && !layer.pool;
        let to = if last { Form::Nhwc } else { Form::Blocked(layouts.layout(self.batch, result)) };
        let residual = layer.residual.map(|value| self.need(value, &to, i));
        let target = match &to {
            Form::Blocked(layout) => Target::Blocked(layout.clone()),
            _ => Target::Nhwc,
        };
        let y = self.take(&to, result);
        let conv = Bf16Conv::new(&shape, &weight, &conv.bias, finish, &from, target);
        self.step(i, Work::Bf16Conv(Box::new(conv)), x, residual, y);
        if joined {
            self.buffers.give(x, &form);
        }
        Some(self.pooled(i, layer.pool && !pool, result, (to, y)))
    }

    fn pointwise(
        &mut self,
        i: usize,
        layer: &Layer,
        scale: Option<&(Vec<f32>, Vec<f32>)>,
    ) -> (Form, Slot) {
        // Images come as NHWC; normalised, they go on to whatever their reader wants.
        let plain = matches!(self.values[layer.input].as_slice(), [(Form::Nhwc, _)]);
        let form = if plain { Form::Nhwc } else { self.dense.clone() };
        let repeat = if form == Form::Lanes { lanes::lanes() } else { 1 };
        let each = |values: &Vec<f32>| -> Vec<f32> {
            values.iter().flat_map(|&value| std::iter::repeat_n(value, repeat)).collect()
        };
        let scale = scale.map(|(scale, shift)| (each(scale), each(shift)));
        let shape = self.network.shapes[layer.input];
        let x = self.need(layer.input, &form, i);
        let residual = layer.residual.map(|value| self.need(value, &form, i));
        let y = self.take(&form, shape);
        let work = Work::Pointwise { scale, relu: layer.relu, channels: shape[2] * repeat };
        self.step(i, work, x, residual, y);
        self.pooled(i, layer.pool, shape, (form, y))
    }

    /// The 2×2 maximum of a layer's sums of the shape `[h, w, c]`, where it has one.
    fn pooled(
        &mut self,
        i: usize,
        pool: bool,
        [h, w, c]: [usize; 3],
        (form, x): (Form, Slot),
    ) -> (Form, Slot) {
        if !pool {
            return (form, x);
        }
        let result = self.max_of_windows(i, [h, w, c], &form, x);
        self.buffers.give(x, &form);
        result
    }

    /// The 2×2 maximum of a value where it lies.
    fn max_of_windows(
        &mut self,
        i: usize,
        [h, w, c]: [usize; 3],
        form: &Form,
        x: Slot,
    ) -> (Form, Slot) {
        let (shape, result) = ([self.batch, h, w, c], [h / 2, w / 2, c]);
        let (to, work) = match form {
            Form::Nhwc => (Form::Nhwc, Work::MaxPool(shape)),
            Form::Lanes => (Form::Lanes, Work::LaneMaxPool(shape)),
            Form::Planes(from) => {
                let to = self.layout(i + 1);
                (Form::Planes(to.clone()), Work::PlaneMaxPool(from.clone(), to))
            }
            Form::Blocked(from) => {
                let to = from.resized(result);
                (Form::Blocked(to.clone()), Work::BlockedMaxPool(from.clone(), to))
            }
        };
        let y = self.take(&to, result);
        self.step(i, work, x, None, y);
        (to, y)
    }

    fn max_pool(&mut self, i: usize, input: usize) -> (Form, Slot) {
        let form = self.at_hand(input);
        let x = self.need(input, &form, i);
        self.max_of_windows(i, self.network.shapes[input], &form, x)
    }

    /// The form that a layer which runs in any reads a value in.
    fn at_hand(&self, value: usize) -> Form {
        match self.values[value].last() {
            Some((form @ (Form::Planes(_) | Form::Blocked(_)), _)) => form.clone(),
            _ => self.dense.clone(),
        }
    }

    /// Pooling of what is not in planes; with images in the lanes, each lane is a channel more.
    fn windows(
        &mut self,
        i: usize,
        input: usize,
        work: impl Fn([usize; 4]) -> Work,
    ) -> (Form, Slot) {
        let form = self.dense.clone();
        let [h, w, c] = self.network.shapes[input];
        let x = self.need(input, &form, i);
        let y = self.take(&form, self.network.shapes[i + 1]);
        let shape = match form {
            Form::Lanes => [self.batch.div_ceil(lanes::lanes()), h, w, c * lanes::lanes()],
            _ => [self.batch, h, w, c],
        };
        self.step(i, work(shape), x, None, y);
        (form, y)
    }

    fn flatten(&mut self, i: usize, input: usize) -> (Form, Slot) {
        let [h, w, c] = self.network.shapes[input];
        let x = self.need(input, &Form::Nhwc, i);
        let y = self.take(&Form::Nhwc, [1, 1, h * w * c]);
        self.step(i, Work::Flatten([self.batch, c, h, w]), x, None, y);
        (Form::Nhwc, y)
    }

    fn mean(&mut self, i: usize, input: usize) -> (Form, Slot) {
        let [h, w, c] = self.network.shapes[input];
        let shape = [self.batch, h * w, c];
        let form = self.at_hand(input);
        let (result, work) = match &form {
            Form::Planes(layout) => (Form::Nhwc, Work::PlaneMean(layout.clone())),
            Form::Blocked(layout) => (Form::Nhwc, Work::BlockedMean(layout.clone())),
            Form::Lanes => (Form::Lanes, Work::LaneMean(shape)),
            Form::Nhwc => (Form::Nhwc, Work::Mean(shape)),
        };
        let x = self.need(input, &form, i);
        let y = self.take(&result, [1, 1, c]);
        self.step(i, work, x, None, y);
        (result, y)
    }

    /// The value in a form, converted for layer `i` if it is not there yet.
    fn need(&mut self, value: usize, form: &Form, i: usize) -> Slot {
        if let Some((_, slot)) = self.values[value].iter().find(|(have, _)| have == form) {
            return *slot;
        }
        let (mut have, mut x) = self.values[value][0].clone();
        let blocked = |form: &Form| matches!(form, Form::Blocked(_));
        if have != Form::Nhwc && *form != Form::Nhwc && (blocked(&have) || blocked(form)) {
            (have, x) = (Form::Nhwc, self.need(value, &Form::Nhwc, i));
        }
        let [h, w, c] = self.network.shapes[value];
        let shape = [self.batch, h * w, c];
        let work = match (have, form) {
            (Form::Nhwc, Form::Lanes) => Work::ToLanes(shape),
            (Form::Lanes, Form::Nhwc) => Work::FromLanes(shape),
            (Form::Nhwc, Form::Planes(to)) => Work::ToPlanes(to.clone()),
            (Form::Planes(from), Form::Nhwc) => Work::FromPlanes(from),
            (Form::Lanes, Form::Planes(to)) => Work::LanesToPlanes(to.clone()),
            (Form::Planes(from), Form::Lanes) => Work::PlanesToLanes(from),
            (Form::Nhwc, Form::Blocked(to)) => Work::ToBlocked(to.clone()),
            (Form::Blocked(from), Form::Nhwc) => Work::FromBlocked(from),
            (have, form) => unreachable!("a value has one layout of a kind: {have:?}, {form:?}"),
        };
        let y = self.take(form, [h, w, c]);
        self.step(i, work, x, None, y);
        self.values[value].push((form.clone(), y));
        y
    }

    fn step(&mut self, layer: usize, work: Work, x: Slot, residual: Option<Slot>, y: Slot) {
        self.steps.push(Step { work, layer, x, residual, y });
    }

    fn take(&mut self, form: &Form, shape: [usize; 3]) -> Slot {
        self.buffers.take(self.len_of(shape, form), form)
    }

    /// The planes that a value lies in where it lies in planes.
    fn layout(&self, value: usize) -> Layout {
        self.layout_of(self.network.shapes[value], self.halos[value])
    }

    fn layout_of(&self, [h, w, c]: [usize; 3], halo: usize) -> Layout {
        Layout::new(self.isa, [self.batch, h, w, c], halo)
    }

    fn len_of(&self, shape: [usize; 3], form: &Form) -> usize {
        match form {
            Form::Nhwc => self.batch * shape.iter().product::<usize>(),
            Form::Lanes => lanes::len(self.batch, shape),
            Form::Planes(layout) => layout.len(),
            Form::Blocked(layout) => layout.len(),
        }
    }
}

/// Channels below which a convolution in bf16 has its taps in one row, if it can.
const FEW_CHANNELS: usize = 16;

/// The convolution over `n` images of which it reads all channels that it has weights for.
fn conv_shape(conv: &Conv, [h, w]: [usize; 2], n: usize) -> ConvShape {
    let &Conv { dims: [k, r, s, c], stride, padding: pad, .. } = conv;
    ConvShape { n, h, w, c, k, r, s, stride, pad }
}

/// Buffers that values take turns in. Some forms have zeros that stay, so their buffers serve equal forms only.
#[derive(Default)]
struct Buffers {
    lens: Vec<usize>,
    /// With the form that left zeros there.
    free: Vec<(usize, Option<Form>)>,
}

impl Buffers {
    /// The free buffer whose length is nearest to `len`, made longer where it must be; a new one where none is free.
    fn take(&mut self, len: usize, form: &Form) -> Slot {
        let kept = form.has_zeros().then_some(form);
        let fits = |i: &usize| self.free[*i].1.as_ref() == kept;
        let nearest = (0..self.free.len())
            .filter(fits)
            .min_by_key(|&i| self.lens[self.free[i].0].abs_diff(len));
        let buffer = match nearest {
            Some(i) => self.free.swap_remove(i).0,
            None => {
                self.lens.push(0);
                self.lens.len() - 1
            }
        };
        self.lens[buffer] = self.lens[buffer].max(len);
        Slot { buffer, len }
    }

    fn give(&mut self, slot: Slot, form: &Form) {
        self.free.push((slot.buffer, form.has_zeros().then(|| form.clone())));
    }
}
