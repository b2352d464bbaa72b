//! A network on a GPU: the fused layers with packed filters, recorded once as a graph where the device has graphs.

use super::fused::{LayerOp, Network};
use super::gpu_layers::Compiled;
use super::plan::Algorithm;
use crate::device::{Gpu, Graph};
use crate::dtype::DType;
use crate::nn::{Execution, Model};
use crate::ops::SparseFilter;
use crate::{Device, Error, Mode, Result, Tape, Tensor};
use std::time::Instant;

/// A network for one batch size.
pub(super) struct GpuPlan {
    runs: Runs,
    /// What the graph reads, and what it fills.
    recorded: Option<(Graph, Tensor)>,
    input: Tensor,
}

enum Runs {
    Compiled(Compiled),
    /// Sparse convolutions in f32 and tf32: training's kernels, uncompiled.
    Interpreted(Box<Interpreted>),
}

struct Interpreted {
    model: Model,
    execution: Execution,
    mode: Mode,
}

impl GpuPlan {
    pub(super) fn build(
        model: &Model,
        network: &Network,
        batch: usize,
        mode: Mode,
        algorithm: Algorithm,
        measure: bool,
    ) -> Result<Self> {
        let device = model.device();
        let [h, w, c] = network.shapes[0];
        let input = Tensor::zeros(&[batch, h, w, c], DType::F32, device)?;
        let sparse = algorithm == Algorithm::Sparse;
        let runs = if sparse && mode != Mode::Bf16 {
            interpreted(model, network, mode)?
        } else {
            Runs::Compiled(Compiled::new(network, batch, mode, sparse, measure, device)?)
        };
        let mut plan = Self { runs, recorded: None, input };
        if gpu(device)?.records_graphs() {
            // Once before the recording: kernels that are compiled on first use are there then.
            plan.forward()?;
            plan.recorded = Some(Graph::record(device, || plan.forward())?);
        }
        Ok(plan)
    }

    /// Logits of x `[N, H, W, C]`, N at most the batch.
    pub(super) fn run(&self, x: &Tensor) -> Result<Tensor> {
        x.expect_dtype("plan", DType::F32)?;
        let batch = self.input.shape()[0];
        self.input.copy_front(x)?;
        let logits = match &self.recorded {
            None => self.forward()?,
            Some((graph, logits)) => {
                graph.launch()?;
                let mut own = logits.clone();
                own.make_unique()?;
                own
            }
        };
        let n = x.shape()[0];
        if n == batch {
            return Ok(logits);
        }
        let classes = logits.shape()[1];
        let mut values = logits.to_vec::<f32>()?;
        values.truncate(n * classes);
        Tensor::from_vec(values, &[n, classes], &x.device())
    }

    /// Seconds of a call, the shortest of some.
    pub(super) fn seconds(&self, rounds: usize) -> Result<f64> {
        let device = self.input.device();
        let gpu = gpu(&device)?;
        let mut best = f64::INFINITY;
        for _ in 0..rounds {
            let start = Instant::now();
            match &self.recorded {
                Some((graph, _)) => graph.launch()?,
                None => drop(self.forward()?),
            }
            gpu.synchronize()?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best)
    }

    fn forward(&self) -> Result<Tensor> {
        match &self.runs {
            Runs::Compiled(compiled) => compiled.forward(&self.input),
            Runs::Interpreted(interpreted) => {
                let Interpreted { model, execution, mode } = interpreted.as_ref();
                model.forward_eval(&mut Tape::new(*mode), &self.input, execution)
            }
        }
    }
}

pub(super) fn gpu(device: &Device) -> Result<&dyn Gpu> {
    match device {
        Device::Gpu(gpu) => Ok(gpu.as_ref()),
        Device::Cpu => Err(Error::device("cpu", "a plan for GPUs")),
    }
}

fn interpreted(model: &Model, network: &Network, mode: Mode) -> Result<Runs> {
    let mut execution = Execution::default();
    for layer in &network.layers {
        let LayerOp::Conv(conv) = &layer.op else { continue };
        if conv.linear || conv.channels.is_some() {
            continue;
        }
        let name = format!("{}.weight", conv.name);
        let weight = model.param(&name)?;
        let kept = weight.to_vec::<f32>()?.iter().map(|&w| u8::from(w != 0.0)).collect();
        let mask = Tensor::from_vec::<u8>(kept, weight.shape(), model.device())?;
        execution.sparse.insert(name, SparseFilter::build(weight, &mask)?);
    }
    Ok(Runs::Interpreted(Box::new(Interpreted { model: model.clone(), execution, mode })))
}
