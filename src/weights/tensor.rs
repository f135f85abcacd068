//! Tensors as they are stored, and what holds them.

use super::quant::GgmlType;
use crate::Result;
use std::borrow::Cow;

/// One tensor as it is stored: bytes of a ggml type, with PyTorch's shape order (outermost axis first).
#[derive(Debug, Clone)]
pub struct StoredTensor<'a> {
    /// Axes, outermost first.
    pub shape: Vec<usize>,
    /// Element type of `bytes`.
    pub dtype: GgmlType,
    /// Little-endian data, whole blocks for quantized types.
    pub bytes: Cow<'a, [u8]>,
}

/// The named tensors of one component, whatever file they lie in.
pub trait TensorSource {
    /// Name of the component, for messages.
    fn component(&self) -> &str;
    /// All tensor names.
    fn names(&self) -> Vec<String>;
    /// One tensor, if there is one of that name.
    ///
    /// # Errors
    /// If the bytes cannot be read.
    fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>>;
}
