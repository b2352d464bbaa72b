//! Single attacks: closed forms, and other programs' results on the same network.

mod autoattack;
mod noise;
mod reference;
mod registry;
