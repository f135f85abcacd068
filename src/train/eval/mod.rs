//! Evaluation that can fail.

pub mod frechet;
