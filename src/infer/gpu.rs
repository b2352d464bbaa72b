//! A network on a GPU.

use super::fused::{LayerOp, Network};
use super::plan::Algorithm;
use crate::dtype::DType;
use crate::nn::{Execution, Model};
use crate::ops::SparseFilter;
use crate::{Mode, Result, Tape, Tensor};

/// The network and the formats of its sparse convolutions.
pub(super) struct GpuPlan {
    model: Model,
    execution: Execution,
    mode: Mode,
}

impl GpuPlan {
    pub(super) fn build(
        model: &Model,
        network: &Network,
        mode: Mode,
        algorithms: &[Algorithm],
    ) -> Result<Self> {
        let mut execution = Execution::default();
        for (layer, algorithm) in network.layers.iter().zip(algorithms) {
            let LayerOp::Conv(conv) = &layer.op else { continue };
            if *algorithm == Algorithm::Dense || conv.channels.is_some() {
                continue;
            }
            let name = format!("{}.weight", conv.name);
            let weight = model.param(&name)?;
            let kept = weight.to_vec::<f32>()?.iter().map(|&w| u8::from(w != 0.0)).collect();
            let mask = Tensor::from_vec::<u8>(kept, weight.shape(), model.device())?;
            execution.sparse.insert(name, SparseFilter::build(weight, &mask)?);
        }
        Ok(Self { model: model.clone(), execution, mode })
    }

    pub(super) fn run(&self, x: &Tensor) -> Result<Tensor> {
        x.expect_dtype("plan", DType::F32)?;
        self.model.forward_eval(&mut Tape::new(self.mode), x, &self.execution)
    }
}
