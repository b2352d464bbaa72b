//! Single attacks: closed forms, and other programs' results on the same network.

mod noise;
mod reference;
mod registry;
