//! All integration tests, one binary.

mod host;
