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

    use crate::Result;
    use quant::GgmlType;
    use std::borrow::Cow;

    /// As in `src/weights/module.rs`.
    pub struct StoredTensor<'a> {
        pub shape: Vec<usize>,
        pub dtype: GgmlType,
        pub bytes: Cow<'a, [u8]>,
    }

    /// As in `src/weights/module.rs`.
    pub trait TensorSource {
        fn component(&self) -> &str;
        fn names(&self) -> Vec<String>;
        fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>>;
    }
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
