//! How a layer runs: its algorithm, and how the kept weights of a sparse one are packed.

use crate::{Device, Mode};
use serde::{Deserialize, Serialize};

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// With every stored weight, zeros too.
    Dense,
    /// With the weights that are not 0.
    Sparse,
}

/// How the algorithm of each convolution is chosen.
///
/// On a CPU every plan also chooses its number of threads by measuring, at most those of the pool; what was measured is
/// remembered on disk. The number of threads changes no bit of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This algorithm everywhere.
    Forced(Algorithm),
    /// The fastest on this device, measured once for a network, batch size and mode, then remembered on disk. Algorithms
    /// sum in different orders, so their logits differ by rounding. A network none of whose convolutions holds a 0
    /// is always dense, so that its results have the same bits at every batch size.
    Measured,
    /// As [`Self::Measured`], but measured anew and remembered in place of what was.
    Remeasured,
}

/// How the kept weights of a sparse convolution are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The columns that a group of filters keeps, for tensor cores: [`crate::ops::PackedSparseFilter`].
    Groups,
    /// Each filter's kept weights, one by one: [`crate::ops::FilterLists`], and the sparse layers of a CPU.
    Lists,
}

/// How one layer runs. Layers that are no convolutions are always [`Way::Dense`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    /// With every stored weight.
    Dense,
    /// With the kept weights alone. In the file of remembered choices it has the format's name.
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

    /// The sparse ways that a device has in a mode. The first is taken where the sparse algorithm is forced.
    pub(super) fn sparse(device: &Device, mode: Mode) -> &'static [Self] {
        match (device, mode) {
            (Device::Gpu(_), Mode::Bf16) => {
                &[Self::Sparse(Format::Groups), Self::Sparse(Format::Lists)]
            }
            _ => &[Self::Sparse(Format::Lists)],
        }
    }

    /// The way of a convolution whose algorithm is forced.
    pub(super) fn forced(algorithm: Algorithm, device: &Device, mode: Mode) -> Self {
        match algorithm {
            Algorithm::Dense => Self::Dense,
            Algorithm::Sparse => Self::sparse(device, mode)[0],
        }
    }
}
