//! Inference with activations and weights in bf16, sums in f32: on matrix units, or vectors of bf16 pairs.
//!
//! Operands lie as the instructions want them: 16 rows of 32 channels ([`Blocked`]) are multiplied with 32 filters, whose weights
//! are packed by pairs of channels. Few images may have too few neighbouring pixels for 16 rows; then rows are gathered first
//! ([`units::RowGather`]).

mod conv;
mod convert;
mod layout;
mod tile;
mod units;

pub(crate) use conv::Bf16Conv;
pub(crate) use convert::{from_nhwc, max_pool, mean, patches, to_nhwc};
pub(crate) use layout::Blocked;
pub(crate) use tile::Bf16Isa;
pub(crate) use units::Target;
