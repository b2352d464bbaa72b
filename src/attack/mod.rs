//! Attacks: images within eps of the true ones that the network gets wrong. An attack proposes; the driver
//! draws the start, projects, clips to [0, 1] and recounts in eval mode.
//!
//! An attack is a file here and a line in [`ATTACKS`].

mod aim;
mod apgd;
mod attempt;
mod ball;
mod bb_l0;
mod case;
mod cw_l2;
mod driver;
mod entry;
mod eot_pgd;
mod epsilon;
mod examples;
mod expand;
mod fab;
mod fgsm;
mod fgsm_rs;
mod first_gradient;
mod hyperplane;
mod loss;
mod margin;
mod network;
mod norm;
mod outcome;
mod per_image;
mod pgd;
mod pgd_l2;
mod reads;
mod registry;
mod resolve;
mod rows;
mod sequence;
mod settings;
mod square;
mod target;
mod transfer;
mod warning;
mod zoo;

pub use attempt::adversary;
pub use case::{Case, Draws};
pub use driver::{Evaluation, Event, evaluate};
pub use entry::{AttackEntry, Search};
pub use epsilon::Epsilon;
pub use expand::{ExpandedAttack, expand};
pub use first_gradient::FirstGradients;
pub use network::{Network, predictions};
pub use norm::Norm;
pub use outcome::{Distances, Outcome};
pub use reads::read_by;
pub use registry::{ATTACKS, find};
pub use sequence::{SEQUENCES, SequenceEntry};
pub use settings::AttackSettings;
pub use target::Target;
pub use warning::{Measured, vanished_gradients, warnings};

use rows::rows;
