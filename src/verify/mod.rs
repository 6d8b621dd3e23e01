//! Proves a running daemon: what its users ask, answered with values, and the way of images.

pub mod engine;
pub mod probe;
pub mod registry;
