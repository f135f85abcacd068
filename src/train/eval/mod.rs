//! Evaluation that can fail.

pub mod dual;
pub mod frechet;
