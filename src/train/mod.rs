//! The trainer.

pub mod text;
