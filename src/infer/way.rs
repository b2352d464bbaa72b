//! How a layer runs: its algorithm, and how the kept weights of a sparse one are packed.

use super::plan::{Algorithm, Format};
use crate::{Device, Mode};
use serde::{Deserialize, Serialize};

/// One layer's way; only convolutions have others than the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    /// Every stored weight.
    Dense,
    /// The kept ones; remembered by the format's name alone.
    #[serde(untagged)]
    Sparse(Format),
}

impl Way {
    pub(super) fn algorithm(self) -> Algorithm {
        match self {
            Self::Dense => Algorithm::Dense,
            Self::Sparse(_) => Algorithm::Sparse,
        }
    }

    pub(super) fn format(self) -> Option<Format> {
        match self {
            Self::Dense => None,
            Self::Sparse(format) => Some(format),
        }
    }

    /// The sparse ones that there are; the first is taken where no other is asked for.
    pub(super) fn sparse(device: &Device, mode: Mode) -> &'static [Self] {
        match (device, mode) {
            (Device::Gpu(_), Mode::Bf16) => {
                &[Self::Sparse(Format::Groups), Self::Sparse(Format::Lists)]
            }
            _ => &[Self::Sparse(Format::Lists)],
        }
    }

    /// Of an algorithm that is forced.
    pub(super) fn forced(algorithm: Algorithm, device: &Device, mode: Mode) -> Self {
        match algorithm {
            Algorithm::Dense => Self::Dense,
            Algorithm::Sparse => Self::sparse(device, mode)[0],
        }
    }
}
