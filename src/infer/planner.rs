//! Plans a network on the CPU: walks its layers and writes down steps and buffers. Where values lie and how convolutions run is
//! the layouts' business.

use super::buffers::{Buffers, Stored};
use super::fused::{Conv, FusedLayer, LayerOp, Network};
use super::layout::{ConvLayer, Form, Interleaved, Layouts, Placement, flatten};
use super::step::{Program, Step, Work};
use super::way::Algorithm;
use crate::Mode;
use crate::cpu::window::Window;

/// The steps of `network` for `batch` images. `algorithms` holds one for each layer; only convolutions look at theirs.
pub(super) fn program(
    network: &Network,
    batch: usize,
    mode: Mode,
    algorithms: &[Algorithm],
) -> Program {
    let layouts = Layouts::new(network, batch, mode, algorithms);
    let mut buffers = Buffers::new(&layouts);
    let image = buffers.take(layouts.placement(Form::Nhwc, network.shapes[0], 0));
    let (steps, values) = (Vec::new(), vec![vec![image]]);
    let mut planner =
        Planner { network, batch, algorithms, layouts: &layouts, buffers, values, steps };
    for (i, released) in network.released().into_iter().enumerate() {
        let result = planner.layer(i);
        planner.values.push(vec![result]);
        for value in released {
            let stored = std::mem::take(&mut planner.values[value]);
            stored.into_iter().for_each(|stored| planner.buffers.give(stored));
        }
    }
    let end = network.layers.len();
    let logits = planner.need(end.saturating_sub(1), end, planner.place(end, Form::Nhwc));
    let Planner { steps, buffers: Buffers { lens, .. }, .. } = planner;
    Program { steps, lens, image: image.slot, logits: logits.slot }
}

struct Planner<'a> {
    network: &'a Network,
    batch: usize,
    algorithms: &'a [Algorithm],
    layouts: &'a Layouts,
    buffers: Buffers<'a>,
    /// Where each value is stored: first as it was computed, then as it was converted.
    values: Vec<Vec<Stored>>,
    steps: Vec<Step>,
}

impl Planner<'_> {
    /// Plans layer `i`.
    fn layer(&mut self, i: usize) -> Stored {
        let layer = &self.network.layers[i];
        match &layer.op {
            LayerOp::Conv(conv) => self.conv(i, layer, conv),
            LayerOp::Pointwise(scale) => self.pointwise(i, layer, scale.as_ref()),
            LayerOp::MaxPool(Window::HALVES) => {
                let x = self.at_hand(i, layer.input);
                self.max_pool(i, x)
            }
            &LayerOp::MaxPool(window) => {
                self.interleaved(i, layer.input, |own, batch, shape| own.max(window, batch, shape))
            }
            &LayerOp::AvgPool(window) => {
                self.interleaved(i, layer.input, |own, batch, shape| own.mean(window, batch, shape))
            }
            LayerOp::GlobalAvgPool => self.mean(i, layer.input),
            LayerOp::Flatten => self.flatten(i, layer.input),
        }
    }

    fn conv(&mut self, i: usize, layer: &FusedLayer, conv: &Conv) -> Stored {
        let algorithm = self.algorithms[i];
        let at = ConvLayer { network: self.network, index: i, layer, conv, algorithm };
        let steps = self.layouts.of_conv(&at).conv(&at);
        let input = self.need(i, layer.input, self.place(layer.input, steps.reads));
        let prepared = steps.prepare.map(|(to, work)| self.step(i, work, input, None, to));
        let residual = layer.residual.map(|value| self.need(i, value, steps.writes));
        let y = self.step(i, steps.work, prepared.unwrap_or(input), residual, steps.writes);
        prepared.into_iter().for_each(|prepared| self.buffers.give(prepared));
        self.pooled(i, layer.pool && !steps.pooled, y)
    }

    fn pointwise(
        &mut self,
        i: usize,
        layer: &FusedLayer,
        scale: Option<&(Vec<f32>, Vec<f32>)>,
    ) -> Stored {
        // Images come as NHWC; normalised, they go on to whatever their reader wants.
        let plain = matches!(&self.values[layer.input][..], [x] if x.placement.form == Form::Nhwc);
        let own = if plain { Interleaved::NHWC } else { self.layouts.interleaved };
        let shape = self.network.shapes[layer.input];
        let x = self.need(i, layer.input, self.place(layer.input, own.form));
        let residual = layer.residual.map(|value| self.need(i, value, self.place(value, own.form)));
        let work = own.pointwise(scale, layer.relu, shape[2]);
        let to = self.layouts.placement(own.form, shape, i + 1);
        let y = self.step(i, work, x, residual, to);
        self.pooled(i, layer.pool, y)
    }

    /// The 2×2 maximum of a layer's sums, where it has one.
    fn pooled(&mut self, i: usize, pool: bool, sums: Stored) -> Stored {
        if !pool {
            return sums;
        }
        let y = self.max_pool(i, sums);
        self.buffers.give(sums);
        y
    }

    /// The 2×2 maximum of x where it lies.
    fn max_pool(&mut self, i: usize, x: Stored) -> Stored {
        let Placement { form, shape: [h, w, c], .. } = x.placement;
        let to = self.layouts.placement(form, [h / 2, w / 2, c], i + 1);
        let work = self.layouts.get(form).max_pool(x.placement, to);
        self.step(i, work, x, None, to)
    }

    /// A layer that runs in NHWC and with images in the lanes alone. `work` gets which of the two, the number of images and the
    /// shape of what it reads.
    fn interleaved(
        &mut self,
        i: usize,
        input: usize,
        work: impl FnOnce(Interleaved, usize, [usize; 3]) -> Work,
    ) -> Stored {
        let own = self.layouts.interleaved;
        let x = self.need(i, input, self.place(input, own.form));
        let work = work(own, self.batch, self.network.shapes[input]);
        self.step(i, work, x, None, self.place(i + 1, own.form))
    }

    fn mean(&mut self, i: usize, input: usize) -> Stored {
        let x = self.at_hand(i, input);
        let (form, work) = self.layouts.get(x.placement.form).mean(x.placement);
        self.step(i, work, x, None, self.place(i + 1, form))
    }

    fn flatten(&mut self, i: usize, input: usize) -> Stored {
        let x = self.need(i, input, self.place(input, Form::Nhwc));
        let work = flatten(self.batch, self.network.shapes[input]);
        self.step(i, work, x, None, self.place(i + 1, Form::Nhwc))
    }

    /// Where value number `value` lies in a form.
    fn place(&self, value: usize, form: Form) -> Placement {
        self.layouts.placement(form, self.network.shapes[value], value)
    }

    /// A value for layer `i`, which runs in every layout: as it is stored, but for images, which come as NHWC.
    fn at_hand(&mut self, i: usize, value: usize) -> Stored {
        let last = self.values[value].last().map(|stored| stored.placement.form);
        let form = last.filter(|&form| form != Form::Nhwc);
        let form = form.unwrap_or(self.layouts.interleaved.form);
        self.need(i, value, self.place(value, form))
    }

    /// A value for layer `i`, converted to a placement where it is not there yet.
    fn need(&mut self, i: usize, value: usize, placement: Placement) -> Stored {
        if let Some(stored) = self.stored(value, placement) {
            return stored;
        }
        let mut x = self.values[value][0];
        for (to, work) in self.layouts.passes(x.placement, placement) {
            x = match self.stored(value, to) {
                Some(stored) => stored,
                None => {
                    let y = self.step(i, work, x, None, to);
                    self.values[value].push(y);
                    y
                }
            };
        }
        x
    }

    fn stored(&self, value: usize, placement: Placement) -> Option<Stored> {
        self.values[value].iter().find(|stored| stored.placement == placement).copied()
    }

    /// Adds a step of layer `i` that writes to memory of its own.
    fn step(
        &mut self,
        i: usize,
        work: Work,
        x: Stored,
        residual: Option<Stored>,
        to: Placement,
    ) -> Stored {
        let y = self.buffers.take(to);
        let residual = residual.map(|residual| residual.slot);
        self.steps.push(Step { work, layer: i, x: x.slot, residual, y: y.slot });
        y
    }
}
