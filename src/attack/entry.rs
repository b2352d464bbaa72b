//! What the registry holds of an attack.

use super::{AttackSettings, Case, Norm};
use crate::{Result, Tensor};

/// An entry of [`super::ATTACKS`].
pub struct AttackEntry {
    /// The name in `--attack` and in recipes.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// Where it is published.
    pub source: &'static str,
    /// What eps and distances are measured in.
    pub norm: Norm,
    /// What it looks for.
    pub search: Search,
    /// Its steps where none are given.
    pub steps: usize,
    /// The keys of [`AttackSettings`] beside `attack` and `eps` that it reads; others are refused.
    pub reads: &'static [&'static str],
    /// Writes out what the user has left to the attack.
    pub resolve: fn(&mut AttackSettings),
    /// The attack: images near [`Case::x`], of its shape. The driver projects and recounts them.
    pub perturb: fn(&Case) -> Result<Tensor>,
}

/// What an attack looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// One step from the image itself.
    OneStep,
    /// A wrong image inside the ball of radius eps. A restart finds something else.
    Ball,
    /// The nearest wrong image, anywhere in [0, 1]; eps is only what the accuracy is counted at. Where it finds none
    /// it returns the image itself.
    Nearest,
}

impl Search {
    /// As lists print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneStep | Self::Ball => "inside eps",
            Self::Nearest => "nearest",
        }
    }
}
