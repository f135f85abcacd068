//! Control images: what a ControlNet reads, made from a picture. Knows no network.

pub mod outline;

pub use outline::{Lines, Reading, outline};
