//! Initial values of parameters, from one random stream a parameter.

use crate::Seed;

/// How the initial values of a parameter are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Uniform in [−b, b] with `b = gain · √(6 / (fan_in + fan_out))`. As in PyTorch, fans are channels times the pixels of a
    /// filter. Source: Glorot & Bengio 2010.
    XavierUniform {
        /// Multiplies the bound.
        gain: f64,
    },
    /// Normal with mean 0 and deviation `std`.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// The same value everywhere.
    Constant(f32),
}

impl Init {
    /// The initial values of the parameter `name`. Element i is made of number i of the stream `init.{name}`.
    ///
    /// Shapes: filters `[K, R, S, C]`, matrices `[O, F]`, vectors `[C]`.
    pub fn values(self, name: &str, shape: &[usize], seed: Seed) -> Vec<f32> {
        let len = shape.iter().product();
        let rng = seed.stream(&format!("init.{name}"), 0, 0);
        match self {
            Self::Constant(value) => vec![value; len],
            Self::Normal { std } => {
                (0..len).map(|i| (std * f64::from(rng.normal(i))) as f32).collect()
            }
            Self::XavierUniform { gain } => {
                let window = len / (shape[0] * shape[shape.len() - 1]).max(1);
                let fans = (shape[0] + shape[shape.len() - 1]) * window;
                let bound = gain * (6.0 / fans as f64).sqrt();
                (0..len).map(|i| (bound * (2.0 * f64::from(rng.uniform(i)) - 1.0)) as f32).collect()
            }
        }
    }
}
