//! Operations: one file each, with its equation, shape checks, CPU path, kernel launches and gradient.

pub mod adam;
pub mod batch_norm;
pub mod conv2d;
pub(crate) mod conv_shape;
pub(crate) mod cpu;
pub mod elementwise;
pub mod gather_conv2d;
mod implicit_gemm;
pub mod infer_sparse_conv2d;
pub mod linear;
pub mod mask;
pub mod masked_sgd;
pub mod noise;
pub mod normalize;
pub mod pgd_step;
pub mod pool;
mod product;
pub mod softmax_xent;
pub mod sparse_conv2d;
pub mod topk;

pub use adam::{AdamStep, masked_adam};
pub use batch_norm::{batch_norm_eval, batch_norm_train};
pub use conv2d::conv2d;
pub use elementwise::{add, relu};
pub use gather_conv2d::gather_conv2d;
pub use infer_sparse_conv2d::{
    PackedSparseFilter, SparseProduct, images_to_planes, infer_sparse_conv2d, planes_shape,
    planes_to_images,
};
pub use linear::linear;
pub use mask::{
    apply_mask, channel_norms, filter_norms, mask_count, masked_abs_mean, squared_distance,
};
pub use masked_sgd::{SgdStep, masked_sgd};
pub use noise::noisy_weight;
pub use normalize::normalize;
pub use pgd_step::{pgd_start, pgd_step};
pub use pool::{global_avg_pool, max_pool2};
pub use softmax_xent::{softmax_xent, softmax_xent_each};
pub use sparse_conv2d::{SparseFilter, sparse_conv2d};
pub use topk::{prune_smallest, regrow_largest};
