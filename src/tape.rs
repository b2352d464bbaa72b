//! Gradients: reverse-mode differentiation with an explicit [`Tape`]. There is no global state.

use crate::Result;
use crate::dtype::Mode;
use crate::ops;
use crate::tensor::{Tensor, TensorId};
use std::collections::{HashMap, HashSet};

/// A record of the operations whose results depend on a watched tensor.
///
/// Every operation of [`crate::ops`] takes a tape. [`Tape::watch`] names the tensors whose gradients are wanted, and
/// [`Tape::backward`] computes them. A tape on which nothing is watched records nothing: so inference runs.
///
/// ```
/// use rewire::{Device, Mode, Tape, Tensor, ops};
/// # fn main() -> rewire::Result<()> {
/// let x = Tensor::from_vec(vec![-1.0f32, 2.0], &[2], &Device::Cpu)?;
/// let mut tape = Tape::new(Mode::F32);
/// tape.watch(&x);
/// let y = ops::relu(&mut tape, &x)?;
/// let ones = Tensor::from_vec(vec![1.0f32; 2], &[2], &Device::Cpu)?;
/// let gradients = tape.backward(&y, ones)?;
/// assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>()?, [0.0, 1.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Tape {
    mode: Mode,
    tracked: HashSet<TensorId>,
    nodes: Vec<Node>,
}

type Backward = Box<dyn FnOnce(&Tensor, &mut Gradients) -> Result<()>>;

struct Node {
    output: TensorId,
    backward: Backward,
}

/// The gradients that a backward pass has computed, by tensor.
pub struct Gradients {
    tracked: HashSet<TensorId>,
    found: HashMap<TensorId, Tensor>,
}

impl Tape {
    /// An empty tape. Matrix products that are given the tape round their operands as `mode` says.
    pub fn new(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// How matrix products that are given the tape round their operands.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Asks for the gradient with respect to `tensor`. It must be called before the operations that read the tensor.
    pub fn watch(&mut self, tensor: &Tensor) {
        self.tracked.insert(tensor.id());
    }

    /// Whether any gradient was asked for.
    pub fn records(&self) -> bool {
        !self.tracked.is_empty()
    }

    /// Whether `tensor` is watched or depends on a watched tensor. An operation keeps nothing for the gradients of others.
    pub fn tracks(&self, tensor: &Tensor) -> bool {
        self.tracked.contains(&tensor.id())
    }

    /// Records how an operation carries the gradient of its `output` to its `inputs`. Records nothing where no input is tracked.
    ///
    /// `backward` is given ∂J/∂output and calls [`Gradients::add`] for those inputs that [`Gradients::wants`] asks for.
    pub fn push(
        &mut self,
        inputs: &[&Tensor],
        output: &Tensor,
        backward: impl FnOnce(&Tensor, &mut Gradients) -> Result<()> + 'static,
    ) {
        if inputs.iter().any(|input| self.tracks(input)) {
            self.tracked.insert(output.id());
            self.nodes.push(Node { output: output.id(), backward: Box::new(backward) });
        }
    }

    /// The gradients ∂J/∂x of a scalar J for every watched tensor x, from `seed` = ∂J/∂output.
    ///
    /// Where `output` is the loss J itself, of shape `[1]`, `seed` is a one.
    /// Errors: [`crate::ErrorKind::Shape`] where `seed` has another shape than `output`.
    pub fn backward(self, output: &Tensor, seed: Tensor) -> Result<Gradients> {
        seed.expect_shape("backward", "seed", output.shape())?;
        let mut gradients = Gradients { tracked: self.tracked, found: HashMap::new() };
        gradients.found.insert(output.id(), seed);
        for node in self.nodes.into_iter().rev() {
            // Taken out: an intermediate gradient is needed once, then its memory goes back.
            if let Some(gradient) = gradients.found.remove(&node.output) {
                (node.backward)(&gradient, &mut gradients)?;
            }
        }
        Ok(gradients)
    }
}

impl Gradients {
    /// Whether the gradient of this tensor is needed: for itself, or for that of a watched tensor.
    pub fn wants(&self, id: TensorId) -> bool {
        self.tracked.contains(&id)
    }

    /// Adds a contribution to the gradient of the tensor `id`. It is dropped where that gradient is not needed.
    pub fn add(&mut self, id: TensorId, gradient: Tensor) -> Result<()> {
        if !self.wants(id) {
            return Ok(());
        }
        let sum = match self.found.remove(&id) {
            None => gradient,
            Some(first) => ops::elementwise::sum(&first, &gradient)?,
        };
        self.found.insert(id, sum);
        Ok(())
    }

    /// The gradient of a watched tensor; `None` where the output does not depend on it.
    pub fn get(&self, tensor: &Tensor) -> Option<&Tensor> {
        self.found.get(&tensor.id())
    }

    /// The gradient as [`Self::get`] has it, moved out.
    pub fn take(&mut self, tensor: &Tensor) -> Option<Tensor> {
        self.found.remove(&tensor.id())
    }
}
