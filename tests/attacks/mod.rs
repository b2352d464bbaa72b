//! Single attacks: closed forms, and other programs' results on the same network.

mod autoattack;
mod bb_l0;
mod common;
mod cw_l2;
mod noise;
mod reference;
mod registry;
mod zoo;
