//! A network on the CPU: every layer made ready once, buffers planned ahead.

use super::fused::{Conv, Layer, LayerOp, Network};
use super::plan::Algorithm;
use crate::Mode;
use crate::ops::conv_shape::ConvShape;
use crate::ops::cpu::aligned::Aligned;
use crate::ops::cpu::gather;
use crate::ops::cpu::lanes::{self, LaneConv};
use crate::ops::cpu::nhwc::NhwcConv;
use crate::ops::cpu::planes::{self, Finish, Isa, Layout, SparseLayer};
use crate::ops::cpu::{pointwise, pool2d, round};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Most blocks of images in a part. VGG16 with 5 % of its weights took 28.1, 31.8 and 29.5 ms with parts of 1, 2 and 4
/// blocks of 16, and 208, 188 and 183 ms dense, where filters are large and read again for every part.
const SPARSE_PART: usize = 1;
const DENSE_PART: usize = 4;

/// A network for one batch size.
///
/// Large batches are cut into parts of a few blocks of one image a lane: a core takes a part through the whole network, so that what
/// one layer writes is still in its cache when the next one reads it. Small batches run layer by layer, all cores on
/// one layer.
pub(super) struct CpuPlan {
    program: Program,
    batch: usize,
    /// Images that the program takes at once.
    part: usize,
    /// One for each core where there are parts for all, else one.
    workers: Vec<Mutex<Worker>>,
    image_len: usize,
    logits_len: usize,
}

/// A core's own pool, where parts are cut, and memory.
struct Worker {
    pool: Option<ThreadPool>,
    buffers: Vec<Aligned>,
}

/// The steps for some images.
struct Program {
    steps: Vec<Step>,
    lens: Vec<usize>,
    image: Slot,
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

/// How the elements of a value lie.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Nhwc,
    /// [`lanes`].
    Lanes,
    /// [`planes`].
    Planes(Layout),
}

enum Work {
    NhwcConv(NhwcConv),
    LaneConv(LaneConv),
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
    /// `[n, pixels, c]` of what it reads.
    Mean([usize; 3]),
    LaneMean([usize; 3]),
    PlaneMean(Layout),
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
}

impl CpuPlan {
    /// `algorithms` holds one for each layer; only convolutions look at theirs.
    pub(super) fn build(
        network: &Network,
        batch: usize,
        mode: Mode,
        algorithms: &[Algorithm],
    ) -> Self {
        let threads = rayon::current_num_threads();
        let blocks = batch.div_ceil(lanes::lanes());
        let cut = blocks >= 2 * threads || (blocks > 1 && blocks.is_multiple_of(threads));
        let most = if algorithms.contains(&Algorithm::Sparse) { SPARSE_PART } else { DENSE_PART };
        // Without a pool of its own a part still runs, on all cores.
        let pool = || cut.then(|| ThreadPoolBuilder::new().num_threads(1).build().ok()).flatten();
        let part = if cut { most.min(blocks / threads).max(1) * lanes::lanes() } else { batch };
        let program = Program::build(network, part, mode, algorithms);
        let count = if cut { threads } else { 1 };
        let worker = |_| Mutex::new(Worker { pool: pool(), buffers: program.memory() });
        let workers = (0..count).map(worker).collect();
        let len = |value: usize| network.shapes[value].iter().product();
        let (image_len, logits_len) = (len(0), len(network.shapes.len() - 1));
        Self { program, batch, part, workers, image_len, logits_len }
    }

    /// Logits of the `batch` images `pixels`.
    pub(super) fn run(&self, pixels: &[f32], logits: &mut [f32]) {
        let (part, image, row) = (self.part, self.image_len, self.logits_len);
        assert!(pixels.len() == self.batch * image && logits.len() == self.batch * row);
        let parts = pixels.chunks(part * image).zip(logits.chunks_mut(part * row));
        let parts: Vec<_> = parts.map(|part| Mutex::new(Some(part))).collect();
        let next = AtomicUsize::new(0);
        let work = |worker: &Mutex<Worker>| {
            let Worker { pool, buffers } = &mut *lock(worker);
            let mut all = || {
                while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some((pixels, logits)) = lock(part).take() {
                        self.program.run(buffers, pixels, logits, None);
                    }
                }
            };
            match pool {
                Some(pool) => pool.install(all),
                None => all(),
            }
        };
        match &self.workers[..] {
            // From inside the pool a layer reaches its threads without waking one first.
            [worker] => rayon::scope(|_| work(worker)),
            workers => workers.par_iter().with_max_len(1).for_each(work),
        }
    }

    /// Seconds of each layer in a run of one part, the images of which are zeros.
    pub(super) fn layer_seconds(&self, layers: usize) -> Vec<f64> {
        let Worker { pool, buffers } = &mut *lock(&self.workers[0]);
        let mut seconds = vec![0.0; layers];
        let pixels = vec![0.0; self.part * self.image_len];
        let mut logits = vec![0.0; self.part * self.logits_len];
        let mut run = || self.program.run(buffers, &pixels, &mut logits, Some(&mut seconds));
        match pool {
            Some(pool) => pool.install(run),
            None => rayon::scope(|_| run()),
        }
        seconds
    }

    /// Images that go through the network together.
    pub(super) fn part(&self) -> usize {
        self.part
    }

    /// Bytes of the buffers that activations pass through.
    pub(super) fn activation_bytes(&self) -> usize {
        self.workers.len() * 4 * self.program.lens.iter().sum::<usize>()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Program {
    fn build(network: &Network, batch: usize, mode: Mode, algorithms: &[Algorithm]) -> Self {
        let mut planner = Planner {
            network,
            batch,
            mode,
            algorithms,
            isa: Isa::detect(),
            dense: dense_form(batch),
            halos: halos(network, batch, algorithms),
            steps: Vec::new(),
            buffers: Buffers::default(),
            values: vec![Vec::new()],
        };
        let image = planner.buffers.take(planner.len(0), None);
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
        Self { steps: planner.steps, lens: planner.buffers.lens, image, logits }
    }

    fn memory(&self) -> Vec<Aligned> {
        self.lens.iter().copied().map(Aligned::zeros).collect()
    }

    /// Logits of up to as many images as the program takes; adds the seconds of each layer to `times`.
    fn run(
        &self,
        buffers: &mut [Aligned],
        pixels: &[f32],
        logits: &mut [f32],
        mut times: Option<&mut [f64]>,
    ) {
        buffers[self.image.buffer][..pixels.len()].copy_from_slice(pixels);
        for step in &self.steps {
            let start = times.is_some().then(Instant::now);
            // The planner never gives a step the buffer that it reads.
            let mut y = std::mem::replace(&mut buffers[step.y.buffer], Aligned::zeros(0));
            let read = |slot: Slot| &buffers[slot.buffer][..slot.len];
            step.work.run(read(step.x), step.residual.map(read), &mut y[..step.y.len]);
            buffers[step.y.buffer] = y;
            if let (Some(times), Some(start)) = (times.as_deref_mut(), start) {
                times[step.layer] += start.elapsed().as_secs_f64();
            }
        }
        logits.copy_from_slice(&buffers[self.logits.buffer][..logits.len()]);
    }
}

/// Lanes where they are mostly full.
fn dense_form(batch: usize) -> Form {
    let filled = batch.next_multiple_of(lanes::lanes());
    if 4 * batch >= 3 * filled { Form::Lanes } else { Form::Nhwc }
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
pub(super) fn conversion_seconds(shape: [usize; 3], batch: usize) -> f64 {
    let [h, w, c] = shape;
    let layout = Layout::new(Isa::detect(), [batch, h, w, c], 1);
    let (work, len) = match dense_form(batch) {
        Form::Lanes => (Work::LanesToPlanes(layout.clone()), lanes::len(batch, shape)),
        _ => (Work::ToPlanes(layout.clone()), batch * h * w * c),
    };
    let (x, mut y) = (Aligned::zeros(len), Aligned::zeros(layout.len()));
    let seconds = [(); 2].map(|()| {
        let start = Instant::now();
        work.run(&x, None, &mut y);
        start.elapsed().as_secs_f64()
    });
    seconds[0].min(seconds[1])
}

struct Planner<'a> {
    network: &'a Network,
    batch: usize,
    mode: Mode,
    algorithms: &'a [Algorithm],
    isa: &'static Isa,
    /// Where dense convolutions read and write.
    dense: Form,
    halos: Vec<usize>,
    steps: Vec<Step>,
    buffers: Buffers,
    /// By value: the forms that it is there in.
    values: Vec<Vec<(Form, Slot)>>,
}

impl Planner<'_> {
    fn layer(&mut self, i: usize) {
        let layer = &self.network.layers[i];
        let sparse = match &layer.op {
            LayerOp::Conv(_) => self.algorithms[i] == Algorithm::Sparse,
            _ => matches!(self.values[layer.input].last(), Some((Form::Planes(_), _))),
        };
        let result = match &layer.op {
            LayerOp::Conv(conv) if sparse => self.sparse_conv(i, layer, conv),
            LayerOp::Conv(conv) => self.dense_conv(i, layer, conv),
            LayerOp::Pointwise(scale) => self.pointwise(i, layer, scale.as_ref()),
            LayerOp::MaxPool2 => self.max_pool(i, layer.input, sparse),
            LayerOp::GlobalAvgPool => self.mean(i, layer.input, sparse),
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
            let y = self.buffers.take(input.len(), Some(&input));
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
        let mut y = self.buffers.take(output.len(), Some(&output));
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
        let pooled = self.layout(i + 1);
        let full = std::mem::replace(&mut y, self.buffers.take(pooled.len(), Some(&pooled)));
        self.step(i, Work::PlaneMaxPool(output, pooled.clone()), full, None, y);
        self.buffers.give(full, &to);
        (Form::Planes(pooled), y)
    }

    fn dense_conv(&mut self, i: usize, layer: &Layer, conv: &Conv) -> (Form, Slot) {
        let form = self.dense.clone();
        let [h, w, c] = self.network.shapes[layer.input];
        let shape = conv_shape(conv, [h, w], self.batch);
        let mut x = self.need(layer.input, &form, i);
        let residual = layer.residual.map(|value| self.need(value, &form, i));
        let mut picked = None;
        if let Some(list) = &conv.channels {
            let y = self.buffers.take(self.len_of([h, w, list.len()], &form), None);
            self.step(i, Work::Pick(form.clone(), c, list.clone()), x, None, y);
            x = y;
            picked = Some(y);
        }
        let (weight, bias, relu) = (&conv.weight, &conv.bias, layer.relu);
        let work = match form {
            Form::Lanes => Work::LaneConv(LaneConv::new(&shape, weight, bias, relu, self.mode)),
            _ => Work::NhwcConv(NhwcConv::new(&shape, weight, bias, relu, self.mode)),
        };
        let result = [shape.p(), shape.q(), shape.k];
        let y = self.buffers.take(self.len_of(result, &form), None);
        self.step(i, work, x, residual, y);
        if let Some(picked) = picked {
            self.buffers.give(picked, &form);
        }
        self.pooled(i, layer.pool, result, (form, y))
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
        let y = self.buffers.take(self.len_of(shape, &form), None);
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
        let y = self.buffers.take(self.len_of([h / 2, w / 2, c], &form), None);
        let shape = [self.batch, h, w, c];
        let lanes = form == Form::Lanes;
        let work = if lanes { Work::LaneMaxPool(shape) } else { Work::MaxPool(shape) };
        self.step(i, work, x, None, y);
        self.buffers.give(x, &form);
        (form, y)
    }

    fn max_pool(&mut self, i: usize, input: usize, sparse: bool) -> (Form, Slot) {
        if sparse {
            let (from, to) = (self.layout(input), self.layout(i + 1));
            let x = self.need(input, &Form::Planes(from.clone()), i);
            let y = self.buffers.take(to.len(), Some(&to));
            self.step(i, Work::PlaneMaxPool(from, to.clone()), x, None, y);
            return (Form::Planes(to), y);
        }
        let form = self.dense.clone();
        let [h, w, c] = self.network.shapes[input];
        let x = self.need(input, &form, i);
        let y = self.buffers.take(self.len_of([h / 2, w / 2, c], &form), None);
        let shape = [self.batch, h, w, c];
        let lanes = form == Form::Lanes;
        self.step(
            i,
            if lanes { Work::LaneMaxPool(shape) } else { Work::MaxPool(shape) },
            x,
            None,
            y,
        );
        (form, y)
    }

    fn mean(&mut self, i: usize, input: usize, sparse: bool) -> (Form, Slot) {
        let [h, w, c] = self.network.shapes[input];
        let shape = [self.batch, h * w, c];
        let (form, result, work) = match (sparse, &self.dense) {
            (true, _) => {
                let layout = self.layout(input);
                (Form::Planes(layout.clone()), Form::Nhwc, Work::PlaneMean(layout))
            }
            (false, Form::Lanes) => (Form::Lanes, Form::Lanes, Work::LaneMean(shape)),
            (false, _) => (Form::Nhwc, Form::Nhwc, Work::Mean(shape)),
        };
        let x = self.need(input, &form, i);
        let y = self.buffers.take(self.len_of([1, 1, c], &result), None);
        self.step(i, work, x, None, y);
        (result, y)
    }

    /// The value in a form, converted for layer `i` if it is not there yet.
    fn need(&mut self, value: usize, form: &Form, i: usize) -> Slot {
        if let Some((_, slot)) = self.values[value].iter().find(|(have, _)| have == form) {
            return *slot;
        }
        let (have, x) = self.values[value][0].clone();
        let [h, w, c] = self.network.shapes[value];
        let shape = [self.batch, h * w, c];
        let work = match (have, form) {
            (Form::Nhwc, Form::Lanes) => Work::ToLanes(shape),
            (Form::Lanes, Form::Nhwc) => Work::FromLanes(shape),
            (Form::Nhwc, Form::Planes(to)) => Work::ToPlanes(to.clone()),
            (Form::Planes(from), Form::Nhwc) => Work::FromPlanes(from),
            (Form::Lanes, Form::Planes(to)) => Work::LanesToPlanes(to.clone()),
            (Form::Planes(from), Form::Lanes) => Work::PlanesToLanes(from),
            (have, form) => unreachable!("a value has one layout of planes: {have:?}, {form:?}"),
        };
        let y = self.take(form, self.len_of([h, w, c], form));
        self.step(i, work, x, None, y);
        self.values[value].push((form.clone(), y));
        y
    }

    fn step(&mut self, layer: usize, work: Work, x: Slot, residual: Option<Slot>, y: Slot) {
        self.steps.push(Step { work, layer, x, residual, y });
    }

    fn take(&mut self, form: &Form, len: usize) -> Slot {
        match form {
            Form::Planes(layout) => self.buffers.take(len, Some(layout)),
            _ => self.buffers.take(len, None),
        }
    }

    /// The planes that a value lies in where it lies in planes.
    fn layout(&self, value: usize) -> Layout {
        self.layout_of(self.network.shapes[value], self.halos[value])
    }

    fn layout_of(&self, [h, w, c]: [usize; 3], halo: usize) -> Layout {
        Layout::new(self.isa, [self.batch, h, w, c], halo)
    }

    fn len(&self, value: usize) -> usize {
        self.len_of(self.network.shapes[value], &Form::Nhwc)
    }

    fn len_of(&self, shape: [usize; 3], form: &Form) -> usize {
        match form {
            Form::Nhwc => self.batch * shape.iter().product::<usize>(),
            Form::Lanes => lanes::len(self.batch, shape),
            Form::Planes(layout) => layout.len(),
        }
    }
}

impl Work {
    fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let isa = Isa::detect();
        match self {
            Self::NhwcConv(conv) => conv.run(x, residual, y),
            Self::LaneConv(conv) => conv.run(x, residual, y),
            Self::Sparse(layer) => layer.run(x, residual, y),
            Self::Pointwise { scale, relu, channels } => {
                let scale = scale.as_ref().map(|(scale, shift)| (&scale[..], &shift[..]));
                pointwise::run(*channels, x, scale, residual, *relu, y);
            }
            Self::MaxPool(shape) => pool2d::max(*shape, x, y),
            Self::LaneMaxPool(shape) => lanes::max_pool2(*shape, x, y),
            Self::PlaneMaxPool(from, to) => planes::max_pool2(isa, from, x, to, y),
            Self::Mean(shape) => pool2d::mean_forward(*shape, x, y),
            Self::LaneMean(shape) => lanes::mean(*shape, x, y),
            Self::PlaneMean(layout) => planes::global_avg_pool(layout, x, y),
            Self::Pick(Form::Lanes, channels, index) => lanes::pick(*channels, index, x, y),
            Self::Pick(_, channels, index) => gather::pick(*channels, index, x, y),
            Self::Round(mode) => {
                let parts = y.par_chunks_mut(1 << 14).zip(x.par_chunks(1 << 14));
                parts.for_each(|(y, x)| round::copy(*mode, x, y));
            }
            Self::ToLanes(shape) => lanes::from_nhwc(*shape, x, y),
            Self::FromLanes(shape) => lanes::to_nhwc(*shape, x, y),
            Self::ToPlanes(layout) => planes::pack(isa, layout, x, y),
            Self::FromPlanes(layout) => planes::unpack(layout, x, y),
            Self::LanesToPlanes(layout) => planes::from_lanes(layout, x, y),
            Self::PlanesToLanes(layout) => planes::to_lanes(layout, x, y),
        }
    }
}

/// The convolution over `n` images of which it reads all channels that it has weights for.
fn conv_shape(conv: &Conv, [h, w]: [usize; 2], n: usize) -> ConvShape {
    let &Conv { dims: [k, r, s, c], stride, padding: pad, .. } = conv;
    ConvShape { n, h, w, c, k, r, s, stride, pad }
}

/// Buffers that values take turns in. Planes have zeros around them that stay, so their buffers serve equal
/// layouts only.
#[derive(Default)]
struct Buffers {
    lens: Vec<usize>,
    free: Vec<(usize, Option<Layout>)>,
}

impl Buffers {
    /// The free buffer whose length is nearest to `len`, made longer where it must be; a new one where none is free.
    fn take(&mut self, len: usize, layout: Option<&Layout>) -> Slot {
        let fits = |i: &usize| self.free[*i].1.as_ref() == layout;
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
        let layout = match form {
            Form::Planes(layout) => Some(layout.clone()),
            _ => None,
        };
        self.free.push((slot.buffer, layout));
    }
}
