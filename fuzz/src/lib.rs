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

pub mod coop {
    pub mod latent {
        use serde::{Deserialize, Serialize};

        /// As in `src/coop/latent.rs`.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Falloff {
            #[default]
            Constant,
            Noise,
        }
    }
}

pub mod decoupled {
    use serde::{Deserialize, Serialize};

    /// As in `src/decoupled.rs`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum BoundaryRule {
        #[default]
        Timestep,
        PreviousStep,
    }
}
