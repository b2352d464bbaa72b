//! The instruction sets that the loops over f32 are compiled for.

use super::vector::Vector;
use std::sync::OnceLock;

/// What the loops are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InstructionSet {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every machine can run.
    Portable,
}

/// An instruction set of this machine: who has one may run what is compiled for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Isa(InstructionSet);

impl Isa {
    /// The best; chosen once.
    pub(crate) fn detect() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available()[0])
    }

    /// All, the best first.
    pub(super) fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                found.push(Self(InstructionSet::Avx512));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Self(InstructionSet::Avx2));
            }
        }
        found.push(Self(InstructionSet::Portable));
        found
    }

    pub(super) fn set(self) -> InstructionSet {
        self.0
    }

    /// Floats of a vector.
    pub(super) fn lanes(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => <std::arch::x86_64::__m512 as Vector>::LANES,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => <std::arch::x86_64::__m256 as Vector>::LANES,
            InstructionSet::Portable => <[f32; 8] as Vector>::LANES,
        }
    }
}
