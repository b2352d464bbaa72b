//! Element types and the arithmetic of matrix products.

use crate::{Error, Result};
use std::fmt;

/// What a tensor's elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    /// IEEE single precision: activations, weights, gradients.
    F32,
    /// bfloat16: operands of tensor-core kernels.
    Bf16,
    /// Masks (0 or 1), arg-max positions.
    U8,
    /// Labels and indices.
    I32,
}

impl DType {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }

    /// Channels of a row of whole 16-byte chunks that holds `channels` of them; at least one chunk.
    pub fn padded(self, channels: usize) -> usize {
        channels.max(1).next_multiple_of(16 / self.size())
    }
}

/// A Rust type that a tensor can hold.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// Its tag.
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

/// How matrix products (convolution, linear) multiply. Sums are f32 in every mode; everything else is
/// f32 throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// f32 operands, exact products on CUDA cores.
    #[default]
    F32,
    /// Operands rounded to TF32 (10-bit mantissa, ties away from zero) for tensor cores.
    Tf32,
    /// Operands rounded to bfloat16 (ties to even) for tensor cores.
    Bf16,
}

impl Mode {
    /// Every mode, in the order of falling precision.
    pub const ALL: [Self; 3] = [Self::F32, Self::Tf32, Self::Bf16];

    /// The name on the command line and in kernels: `f32`, `tf32`, `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }

    /// What operands of products are in memory: bf16 in mode `bf16`, else f32.
    pub fn storage(self) -> DType {
        if self == Self::Bf16 { DType::Bf16 } else { DType::F32 }
    }

    /// The relative error ‖e‖/‖ref‖ against float64 that one product may have: 1e-5, 1e-3, 1e-2.
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
