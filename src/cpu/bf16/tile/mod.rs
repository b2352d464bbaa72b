//! The products of 16 rows of activations with 32 filters in bf16, summed in f32.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod isa;
mod operands;
mod portable;

pub(crate) use isa::Bf16Isa;
pub(super) use operands::{
    AlignedSums, Bf16Tile, COLUMNS, JOINED, Join, RowTarget, STEP, SUMS, TapStep, UnitRows,
};
