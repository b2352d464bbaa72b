//! A network on the CPU: every layer made ready once, buffers planned ahead, nothing allocated in a call.

use super::fused::{Conv, Layer, LayerOp, Network};
use crate::Mode;
use crate::ops::conv_shape::ConvShape;
use crate::ops::cpu::aligned::Aligned;
use crate::ops::cpu::dense_layer::DenseLayer;
use crate::ops::cpu::lanes::{self, LaneConv};
use crate::ops::cpu::{pointwise, pool2d};
use std::time::Instant;

/// The steps of one network for one batch size.
pub(super) struct CpuPlan {
    steps: Vec<Step>,
    buffers: Vec<Aligned>,
    logits: Slot,
}

/// One pass over memory.
struct Step {
    work: Work,
    /// The layer that it is part of.
    layer: usize,
    x: Slot,
    residual: Option<Slot>,
    y: Slot,
}

/// A buffer and how many floats of it.
#[derive(Clone, Copy)]
struct Slot {
    buffer: usize,
    len: usize,
}

enum Work {
    Dense(DenseLayer),
    Pointwise { scale: Option<(Vec<f32>, Vec<f32>)>, relu: bool, channels: usize },
    /// `[n, h, w, c]` of what it reads.
    MaxPool([usize; 4]),
    /// `[n, pixels, c]` of what it reads.
    Mean([usize; 3]),
    LaneConv(LaneConv),
    LaneMaxPool([usize; 4]),
    LaneMean([usize; 3]),
    /// `[n, pixels, c]`
    ToLanes([usize; 3]),
    FromLanes([usize; 3]),
}

impl CpuPlan {
    pub(super) fn build(network: &Network, batch: usize, mode: Mode) -> Self {
        let mut buffers = Buffers::default();
        let last_use = network.last_use();
        let lanes = batch >= 16;
        let len = |shape: [usize; 3]| if lanes { lanes::len(batch, shape) } else { batch * shape.iter().product::<usize>() };
        let mut steps = Vec::new();
        let [h, w, c] = network.shapes[0];
        let image = buffers.take(batch * h * w * c);
        let mut values = vec![image];
        if lanes {
            let y = buffers.take(len(network.shapes[0]));
            steps.push(Step { work: Work::ToLanes([batch, h * w, c]), layer: 0, x: image, residual: None, y });
            values = vec![y];
        }
        for (i, layer) in network.layers.iter().enumerate() {
            let x = values[layer.input];
            let residual = layer.residual.map(|value| values[value]);
            let from = network.shapes[layer.input];
            let work = work(layer, from, batch, mode, lanes);
            let unpooled = layer.pool.then(|| before_pool(&layer.op, from));
            let y = buffers.take(unpooled.map_or(len(network.shapes[i + 1]), len));
            steps.push(Step { work, layer: i, x, residual, y });
            let result = match unpooled {
                None => y,
                Some([h, w, c]) => {
                    let pooled = buffers.take(len(network.shapes[i + 1]));
                    let work = if lanes { Work::LaneMaxPool([batch, h, w, c]) } else { Work::MaxPool([batch, h, w, c]) };
                    steps.push(Step { work, layer: i, x: y, residual: None, y: pooled });
                    buffers.give(y);
                    pooled
                }
            };
            values.push(result);
            (0..values.len()).filter(|&v| last_use[v] == i).for_each(|v| buffers.give(values[v]));
        }
        let mut logits = values[values.len() - 1];
        if lanes {
            let [h, w, c] = network.shapes[network.shapes.len() - 1];
            let y = buffers.take(batch * h * w * c);
            steps.push(Step { work: Work::FromLanes([batch, h * w, c]), layer: network.layers.len() - 1, x: logits, residual: None, y });
            logits = y;
        }
        let buffers = buffers.lens.into_iter().map(Aligned::zeros).collect();
        Self { steps, buffers, logits }
    }

    /// Logits of the `batch` images `pixels`; adds the seconds of each layer to `times`.
    pub(super) fn run(
        &mut self,
        pixels: &[f32],
        logits: &mut [f32],
        times: Option<&mut [f64]>,
    ) {
        // From inside the pool a layer reaches its threads without waking one first.
        rayon::scope(|_| self.run_steps(pixels, times));
        let Slot { buffer, len } = self.logits;
        logits.copy_from_slice(&self.buffers[buffer][..len]);
    }

    fn run_steps(&mut self, pixels: &[f32], mut times: Option<&mut [f64]>) {
        self.buffers[0][..pixels.len()].copy_from_slice(pixels);
        for step in &self.steps {
            let start = times.is_some().then(Instant::now);
            // The planner never gives a step the buffer that it reads.
            let mut y = std::mem::replace(&mut self.buffers[step.y.buffer], Aligned::zeros(0));
            let read = |slot: Slot| &self.buffers[slot.buffer][..slot.len];
            step.work.run(read(step.x), step.residual.map(read), &mut y[..step.y.len]);
            self.buffers[step.y.buffer] = y;
            if let (Some(times), Some(start)) = (times.as_deref_mut(), start) {
                times[step.layer] += start.elapsed().as_secs_f64();
            }
        }
    }

    /// Bytes of the buffers that activations pass through.
    pub(super) fn activation_bytes(&self) -> usize {
        self.buffers.iter().map(|buffer| 4 * buffer.len()).sum()
    }
}

impl Work {
    fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        match self {
            Self::Dense(layer) => layer.run(x, residual, y),
            Self::Pointwise { scale, relu, channels } => {
                let scale = scale.as_ref().map(|(scale, shift)| (&scale[..], &shift[..]));
                pointwise::run(*channels, x, scale, residual, *relu, y);
            }
            Self::MaxPool(shape) => pool2d::max(*shape, x, y),
            Self::Mean(shape) => pool2d::mean_forward(*shape, x, y),
            Self::LaneConv(conv) => conv.run(x, residual, y),
            Self::LaneMaxPool(shape) => lanes::max_pool2(*shape, x, y),
            Self::LaneMean(shape) => lanes::mean(*shape, x, y),
            Self::ToLanes(shape) => lanes::from_nhwc(*shape, x, y),
            Self::FromLanes(shape) => lanes::to_nhwc(*shape, x, y),
        }
    }
}

fn work(layer: &Layer, [h, w, c]: [usize; 3], batch: usize, mode: Mode, lanes: bool) -> Work {
    if lanes {
        match &layer.op {
            LayerOp::Conv(conv) => return Work::LaneConv(LaneConv::new(&conv_shape(conv, [h, w], batch), &conv.weight, &conv.bias, layer.relu, mode)),
            LayerOp::MaxPool2 => return Work::LaneMaxPool([batch, h, w, c]),
            LayerOp::GlobalAvgPool => return Work::LaneMean([batch, h * w, c]),
            LayerOp::Pointwise(_) => {}
        }
    }
    match &layer.op {
        LayerOp::Conv(conv) => {
            let shape = conv_shape(conv, [h, w], batch);
            let index = |list: &Vec<usize>| list.iter().map(|&channel| channel as i32).collect();
            let channels = conv.channels.as_ref().map(|list| (c, index(list)));
            let layer =
                DenseLayer::new(&shape, &conv.weight, &conv.bias, layer.relu, channels, mode);
            Work::Dense(layer)
        }
        LayerOp::Pointwise(scale) => {
            Work::Pointwise { scale: scale.clone(), relu: layer.relu, channels: c }
        }
        LayerOp::MaxPool2 => Work::MaxPool([batch, h, w, c]),
        LayerOp::GlobalAvgPool => Work::Mean([batch, h * w, c]),
    }
}

fn conv_shape(conv: &Conv, [h, w]: [usize; 2], n: usize) -> ConvShape {
    let &Conv { dims: [k, r, s, c], stride, padding: pad, .. } = conv;
    ConvShape { n, h, w, c, k, r, s, stride, pad }
}

/// What the layer writes before it pools.
fn before_pool(op: &LayerOp, [h, w, c]: [usize; 3]) -> [usize; 3] {
    match op {
        LayerOp::Conv(conv) => {
            let shape = conv_shape(conv, [h, w], 1);
            [shape.p(), shape.q(), shape.k]
        }
        _ => [h, w, c],
    }
}

/// Buffers that values take turns in.
#[derive(Default)]
struct Buffers {
    lens: Vec<usize>,
    free: Vec<usize>,
}

impl Buffers {
    /// The free buffer whose length is nearest to `len`, made longer where it must be; a new one where none is free.
    fn take(&mut self, len: usize) -> Slot {
        let nearest = (0..self.free.len()).min_by_key(|&i| self.lens[self.free[i]].abs_diff(len));
        let buffer = match nearest {
            Some(i) => self.free.swap_remove(i),
            None => {
                self.lens.push(0);
                self.lens.len() - 1
            }
        };
        self.lens[buffer] = self.lens[buffer].max(len);
        Slot { buffer, len }
    }

    fn give(&mut self, slot: Slot) {
        self.free.push(slot.buffer);
    }
}
