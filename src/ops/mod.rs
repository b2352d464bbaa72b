//! Operations on tensors, on every device, with their gradients. Each takes a [`Tape`](crate::Tape): start with [`conv2d()`] or
//! [`relu`]. Networks are run by [`crate::nn`]; you need an operation where you write something that no network has.
//!
//! An operation is a file, with its equation, checks of shapes, loops on the CPU, kernel launches and gradient.

pub mod adam;
pub mod batch_norm;
pub mod conv2d;
pub mod elementwise;
mod filter_order;
pub mod flatten;
pub mod gather_conv2d;
mod implicit_gemm;
pub mod infer_conv2d;
pub mod infer_layers;
pub mod infer_planes;
pub mod infer_sparse_conv2d;
pub mod infer_sparse_lists;
pub mod linear;
pub mod mask;
pub mod masked_sgd;
pub mod noise;
pub mod normalize;
pub mod packed_filter;
pub mod pgd_l2_step;
pub mod pgd_step;
mod plane_tile;
pub mod pool;
mod product;
pub mod softmax_xent;
pub mod sparse_conv2d;
pub mod tile_config;
pub mod topk;

pub use crate::cpu::window::Window;
pub use adam::{AdamStep, masked_adam};
pub use batch_norm::{batch_norm_eval, batch_norm_train};
pub use conv2d::conv2d;
pub use elementwise::{add, relu};
pub use flatten::flatten;
pub use gather_conv2d::gather_conv2d;
pub use implicit_gemm::{operand, operand_type};
pub use infer_conv2d::InferConv2d;
pub use infer_layers::{
    infer_add, infer_global_avg_pool, infer_image, infer_input, infer_max_pool2, infer_relu,
};
pub use infer_planes::{planes_shape, planes_to_rows, rows_to_planes};
pub use infer_sparse_conv2d::{PackedSparseFilter, SparseProduct, infer_sparse_conv2d};
pub use infer_sparse_lists::{FilterLists, infer_sparse_lists};
pub use linear::linear;
pub use mask::{
    apply_mask, channel_norms, filter_norms, mask_count, masked_abs_mean, squared_distance,
};
pub use masked_sgd::{SgdParameter, SgdStep, masked_sgd};
pub use noise::noisy_weight;
pub use normalize::normalize;
pub use packed_filter::{Channels, PackedFilter};
pub use pgd_l2_step::pgd_l2_step;
pub use pgd_step::{pgd_start, pgd_step};
pub use pool::{avg_pool, global_avg_pool, max_pool};
pub use softmax_xent::{softmax_xent, softmax_xent_each};
pub use sparse_conv2d::{SparseFilter, sparse_conv2d};
pub use tile_config::{Order, Tile, TileConfig};
pub use topk::{prune_smallest, regrow_largest};
