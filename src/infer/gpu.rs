//! A network on a GPU: the fused layers with packed filters, recorded once as a graph where the device has graphs.

use super::gpu_device::{gpu, timed};
use super::gpu_layers::Compiled;
use super::gpu_ready::{GpuSettings, ReadyLayers};
use super::gpu_values::{Form, Value, input};
use super::way::Way;
use crate::device::Graph;
use crate::dtype::DType;
use crate::ops::TileConfig;
use crate::{Result, Tensor};

/// A network for one batch size.
pub(super) struct GpuPlan {
    compiled: Compiled,
    /// The graph, where the device has graphs, and the logits that it fills.
    recorded: Option<(Graph, Tensor)>,
    /// What the layers read: a batch of images.
    input: Tensor,
}

impl GpuPlan {
    /// `ways` holds one for each layer; only convolutions look at theirs.
    pub(super) fn build(ready: &mut ReadyLayers<'_>, ways: &[Way]) -> Result<Self> {
        let GpuSettings { device, batch, .. } = ready.settings;
        let [h, w, c] = ready.network.shapes[0];
        let input = Tensor::zeros(&[batch, h, w, c], DType::F32, device)?;
        let compiled = Compiled::new(ready, ways)?;
        let mut plan = Self { compiled, recorded: None, input };
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

    /// Copies x to where [`Self::call`] reads it.
    pub(super) fn load(&self, x: &Tensor) -> Result<()> {
        self.input.copy_front(x)
    }

    /// A run over the images that are there.
    pub(super) fn call(&self) -> Result<()> {
        match &self.recorded {
            Some((graph, _)) => graph.launch()?,
            None => drop(self.forward()?),
        }
        gpu(&self.input.device())?.synchronize()
    }

    /// Seconds of each layer in a run over the images that are there, without conversions between layers.
    pub(super) fn layer_seconds(&self) -> Result<Vec<f64>> {
        self.compiled.layer_seconds(&self.input)
    }

    /// By layer: how its convolution is cut, where it is a dense one.
    pub(super) fn tiles(&self) -> Vec<Option<TileConfig>> {
        self.compiled.tiles()
    }

    fn forward(&self) -> Result<Tensor> {
        self.compiled.forward(&self.input)
    }
}

/// Seconds that a value of the shape takes from rows to planes.
pub(super) fn conversion_seconds([h, w, c]: [usize; 3], settings: &GpuSettings<'_>) -> Result<f64> {
    let &GpuSettings { device, batch, mode, .. } = settings;
    let rows = input(&Tensor::zeros(&[batch, h, w, c], DType::F32, device)?, None, mode)?;
    let convert = || -> Result<Value> { rows.to(Form::Planes, mode) };
    convert()?;
    Ok(timed(device, convert)?.1)
}
