//! Single attacks: closed forms, and other programs' results on the same network.

mod bb_l0;
mod common;
mod cw_l2;
mod zoo;
