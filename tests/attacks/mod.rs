//! One file a family of attacks.

mod autoattack;
