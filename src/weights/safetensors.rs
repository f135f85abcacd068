//! safetensors files as a [`TensorSource`]: what diffusers saves, and what the goldens are.

use super::{StoredTensor, TensorSource, quant::GgmlType};
use crate::{Error, Result};
use safetensors::{Dtype, SafeTensors as Parsed};
use std::{borrow::Cow, collections::HashMap};

/// A safetensors file held in memory. BF16 tensors are read as F32, F16 and F32 as they are.
pub struct SafeTensors {
    component: String,
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl SafeTensors {
    /// Checks the header of `bytes`.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn new(component: impl Into<String>, bytes: Vec<u8>) -> Result<Self> {
        let component = component.into();
        let corrupt = |why: &dyn std::fmt::Display| Error::Corrupt { what: component.clone(), why: why.to_string() };
        let (_, header) = Parsed::read_metadata(&bytes).map_err(|error| corrupt(&error))?;
        Parsed::deserialize(&bytes).map_err(|error| corrupt(&error))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(Self { component, bytes, metadata })
    }

    /// The `__metadata__` strings.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    fn parsed(&self) -> Parsed<'_> {
        Parsed::deserialize(&self.bytes).expect("checked in new")
    }
}

impl TensorSource for SafeTensors {
    fn component(&self) -> &str {
        &self.component
    }

    fn names(&self) -> Vec<String> {
        self.parsed().names().into_iter().map(str::to_owned).collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>> {
        let parsed = self.parsed();
        let Ok(view) = parsed.tensor(name) else {
            return Ok(None);
        };
        let offset = view.data().as_ptr() as usize - self.bytes.as_ptr() as usize;
        let data = &self.bytes[offset..offset + view.data().len()];
        let (dtype, bytes) = match view.dtype() {
            Dtype::F32 => (GgmlType::F32, Cow::Borrowed(data)),
            Dtype::F16 => (GgmlType::F16, Cow::Borrowed(data)),
            Dtype::BF16 => {
                let widened = data.chunks_exact(2).flat_map(|b| [0, 0, b[0], b[1]]).collect();
                (GgmlType::F32, Cow::Owned(widened))
            }
            other => {
                return Err(Error::Unsupported(format!("{}: tensor `{name}` of type {other:?}", self.component)));
            }
        };
        Ok(Some(StoredTensor { shape: view.shape().to_vec(), dtype, bytes }))
    }
}
