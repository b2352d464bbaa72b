//! Some of the images of a batch.

use crate::dtype::Element;
use crate::{Result, Tensor};

/// The rows `which` of a tensor whose first dimension counts images.
pub(super) fn rows<T: Element>(x: &Tensor, which: &[usize]) -> Result<Tensor> {
    let n = x.shape().first().copied().unwrap_or(0);
    if which.len() == n {
        return Ok(x.clone());
    }
    let values = x.to_vec::<T>()?;
    let size = values.len() / n;
    let picked: Vec<T> = which.iter().flat_map(|&i| &values[i * size..][..size]).copied().collect();
    Tensor::from_vec(picked, &[&[which.len()], &x.shape()[1..]].concat(), &x.device())
}
