//! A network made ready for one device, batch size and mode.

use super::cpu::CpuPlan;
use super::fused::Network;
use crate::nn::Model;
use crate::{Error, Mode, Result, Tensor};

/// A compiled network: batch norm folded, sums, ReLU and pooling fused into the convolutions, filters packed.
pub struct Plan {
    cpu: CpuPlan,
    batch: usize,
    image: [usize; 3],
    classes: usize,
    names: Vec<String>,
}

impl Plan {
    /// Makes `model` ready for calls of `batch` images.
    pub fn build(model: &Model, batch: usize, mode: Mode) -> Result<Self> {
        let network = Network::of(model)?;
        let names = network
            .layers
            .iter()
            .map(|layer| match &layer.op {
                super::fused::LayerOp::Conv(conv) => conv.name.clone(),
                _ => "other".into(),
            })
            .collect();
        let cpu = CpuPlan::build(&network, batch, mode);
        Ok(Self {
            cpu,
            batch,
            image: network.shapes[0],
            classes: model.arch().classes,
            names,
        })
    }

    /// Logits `[N, classes]` of x `[N, H, W, C]`, N the plan's batch.
    pub fn run(&mut self, x: &Tensor) -> Result<Tensor> {
        let [h, w, c] = self.image;
        x.expect_shape("plan", "x", &[self.batch, h, w, c])?;
        let mut y = Tensor::empty(&[self.batch, self.classes], crate::DType::F32, &x.device())?;
        self.cpu.run(x.cpu()?, y.cpu_mut()?, None);
        Ok(y)
    }

    /// Milliseconds by layer.
    pub fn profile(&mut self, x: &Tensor, rounds: usize) -> Result<Vec<(String, f64)>> {
        let mut y = vec![0.0; self.batch * self.classes];
        let mut best = vec![f64::INFINITY; self.names.len()];
        for _ in 0..rounds {
            let mut times = vec![0.0; self.names.len()];
            self.cpu.run(x.cpu()?, &mut y, Some(&mut times));
            best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
        }
        Ok(self.names.iter().cloned().zip(best.into_iter().map(|s| s * 1e3)).collect())
    }
}
