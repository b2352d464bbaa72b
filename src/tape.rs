//! Reverse-mode differentiation with an explicit tape: no global state, nothing recorded that nobody asked for.

use crate::Result;
use crate::dtype::Mode;
use crate::ops;
use crate::tensor::{Tensor, TensorId};
use std::collections::{HashMap, HashSet};

/// Records operations whose results depend on a watched tensor. With nothing watched it records nothing:
/// that is inference.
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

/// The gradients that a backward pass has found so far, by tensor.
pub struct Gradients {
    tracked: HashSet<TensorId>,
    found: HashMap<TensorId, Tensor>,
}

impl Tape {
    /// An empty tape; `mode` is the arithmetic of the matrix products run under it.
    pub fn new(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// The arithmetic of matrix products.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Asks for the gradient with respect to `tensor`.
    pub fn watch(&mut self, tensor: &Tensor) {
        self.tracked.insert(tensor.id());
    }

    /// Whether any gradient was asked for.
    pub fn records(&self) -> bool {
        !self.tracked.is_empty()
    }

    /// Whether a gradient will flow to `tensor`; an operation saves nothing for it otherwise.
    pub fn tracks(&self, tensor: &Tensor) -> bool {
        self.tracked.contains(&tensor.id())
    }

    /// Records how to carry the gradient of `output` to `inputs`, unless none of them is tracked.
    /// `backward` receives dJ/d`output` and calls [`Gradients::add`] for the inputs that [`Gradients::wants`].
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

    /// Gradients of the scalar J of which `seed` = dJ/d`output`, for everything watched.
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
    /// Whether anybody asked for the gradient of this tensor.
    pub fn wants(&self, id: TensorId) -> bool {
        self.tracked.contains(&id)
    }

    /// Adds a contribution to the gradient of the tensor `id`; dropped where nobody wants it.
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

    /// The gradient of a watched leaf; `None` where the result does not depend on it.
    pub fn get(&self, tensor: &Tensor) -> Option<&Tensor> {
        self.found.get(&tensor.id())
    }

    /// Takes the gradient of a watched leaf out.
    pub fn take(&mut self, tensor: &Tensor) -> Option<Tensor> {
        self.found.remove(&tensor.id())
    }
}
