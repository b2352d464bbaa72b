//! Types of elements ([`DType`]), and how matrix products round their operands ([`Mode`]).

use crate::{Error, Result};
use std::fmt;

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    /// IEEE single precision: activations, weights, gradients.
    F32,
    /// bfloat16: operands of tensor-core kernels.
    Bf16,
    /// Unsigned bytes: masks (0 or 1), positions of maxima.
    U8,
    /// 32-bit integers: labels and indices.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }

    /// `channels`, rounded up so that a row of so many elements fills whole 16-byte chunks; at least one chunk.
    pub fn padded(self, channels: usize) -> usize {
        channels.max(1).next_multiple_of(16 / self.size())
    }
}

/// A Rust type that a tensor can hold.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// The value of [`DType`] that stands for the type.
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for half::bf16 {
    const DTYPE: DType = DType::Bf16;
}
impl Element for u8 {
    const DTYPE: DType = DType::U8;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}

/// How matrix products, those of convolutions and linear layers, round their operands.
///
/// Sums are f32 in every mode, and so is everything that is no matrix product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Operands are not rounded; on a GPU the products run on CUDA cores.
    #[default]
    F32,
    /// Operands rounded to TF32 (10-bit mantissa, ties away from zero) for tensor cores.
    Tf32,
    /// Operands rounded to bfloat16 (ties to even) for tensor cores.
    Bf16,
}

impl Mode {
    /// Every mode, the most precise first.
    pub const ALL: [Self; 3] = [Self::F32, Self::Tf32, Self::Bf16];

    /// The name on the command line and in kernels: `f32`, `tf32`, `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }

    /// The type in which operands of products lie in memory: bf16 in mode `bf16`, else f32.
    pub fn storage(self) -> DType {
        if self == Self::Bf16 { DType::Bf16 } else { DType::F32 }
    }

    /// The largest relative error ‖result − reference‖ / ‖reference‖ that one product may have against float64: 1e-5 in `f32`,
    /// 1e-3 in `tf32`, 1e-2 in `bf16`.
    pub fn tolerance(self) -> f64 {
        match self {
            Self::F32 => 1e-5,
            Self::Tf32 => 1e-3,
            Self::Bf16 => 1e-2,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Mode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| Error::param("--mode", name, "f32, tf32 or bf16"))
    }
}
