//! What of the engine reads untrusted files, without the networks: burn would take longer to compile than a fuzzer runs.
#![allow(dead_code, unexpected_cfgs)]

extern crate self as pangu_draw;

#[path = "../properties.rs"]
pub mod properties;

#[path = "../../src/error.rs"]
mod error;

pub use error::{Error, Result};

#[path = "../../src/weights"]
pub mod weights {
    pub mod gguf;
    pub mod manifest;
    pub mod quant;
    pub mod source;
    mod tensor;

    pub use tensor::{StoredTensor, TensorSource};
}

#[path = "../../src/pipeline"]
pub mod pipeline {
    pub mod config;
}

#[path = "../../src/diffusion"]
pub mod diffusion {
    pub mod schedule;
}

#[path = "../../src/coop"]
pub mod coop {
    mod strength;
    pub mod latent {
        pub use super::strength::Falloff;
    }
}

#[path = "../../src/decoupled"]
pub mod decoupled {
    mod boundary;
    pub use boundary::BoundaryRule;
}
