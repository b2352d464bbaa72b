//! Which way an attack drives each image.

use super::{Case, Network, Target};
use crate::{Error, Result, Tensor};
use rand::RngExt;

/// What the cross-entropy is taken of, and which way steps go: up for true labels, down for targets.
pub(super) struct Aim {
    /// `[N]`.
    pub labels: Tensor,
    /// 1 or −1.
    pub sign: f32,
}

/// Where the images of `case` are driven, by the logits of `network`.
///
/// Errors: [`crate::ErrorKind::Param`] for a target that is no class of the network.
pub(super) fn aim(case: &Case, network: &Network) -> Result<Aim> {
    let Some(target) = case.settings.target else {
        return Ok(Aim { labels: case.labels.clone(), sign: 1.0 });
    };
    let classes = network.model.arch().classes;
    if let Target::Class(class) = target
        && class >= classes
    {
        return Err(Error::param("target", class, format!("below {classes}")));
    }
    if classes < 2 {
        return Err(Error::param("target", target, "absent where there is one class"));
    }
    let mut labels = case.labels.to_vec::<i32>()?;
    let logits = match target {
        Target::LeastLikely => network.logits(case.x)?.to_vec::<f32>()?,
        _ => Vec::new(),
    };
    for (i, label) in labels.iter_mut().enumerate() {
        let own = *label as usize;
        let class = match target {
            Target::Next => (own + 1) % classes,
            Target::Class(class) => class,
            Target::Random => {
                let other = case.draws.host(case.images[i]).random_range(0..classes - 1);
                other + usize::from(other >= own)
            }
            Target::LeastLikely => {
                let row = &logits[i * classes..][..classes];
                let others = (0..classes).filter(|&class| class != own);
                others.reduce(|a, b| if row[b] < row[a] { b } else { a }).unwrap_or(own)
            }
        };
        *label = class as i32;
    }
    let labels = Tensor::from_vec(labels, case.labels.shape(), &case.labels.device())?;
    Ok(Aim { labels, sign: -1.0 })
}
