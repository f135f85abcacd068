//! Beginning with the weights of a model that exists, although the network has grown since.

use super::read_error;
use crate::{
    Result,
    weights::{self, StoredTensor, TensorSource, gguf::GgufFile, quant::GgmlType},
};
use burn::module::Module;
use std::{borrow::Cow, collections::HashMap, path::Path};

/// Loads what the GGUF file at `path` has for `module`. Where the network has more channels, it begins by ignoring the new
/// inputs, whose weights become 0; new outputs, and parameters that the file lacks, keep their values.
///
/// # Errors
/// If the file cannot be read.
pub fn start<M: Module>(module: M, path: &Path, prefix: &str) -> Result<M> {
    let bytes = std::fs::read(path).map_err(|error| read_error(path, error))?;
    let file = GgufFile::new(path.display().to_string(), bytes)?;
    let own = weights::save(&module, prefix).into_iter().map(|(name, shape, values)| (name, (shape, values))).collect();
    weights::load(module, &Grown { file, own }, prefix)
}

struct Grown {
    file: GgufFile,
    own: HashMap<String, (Vec<usize>, Vec<f32>)>,
}

impl TensorSource for Grown {
    fn component(&self) -> &str {
        self.file.component()
    }

    fn names(&self) -> Vec<String> {
        self.own.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>> {
        let Some((shape, own)) = self.own.get(name) else { return Ok(None) };
        let values = match self.file.tensor(name)? {
            Some(stored) if stored.shape.len() == shape.len() => {
                let mut values = own.clone();
                copy(
                    &stored.shape,
                    &stored.dtype.dequantize(&stored.bytes, stored.shape.iter().product())?,
                    shape,
                    &mut values,
                );
                values
            }
            _ => own.clone(),
        };
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Ok(Some(StoredTensor { shape: shape.clone(), dtype: GgmlType::F32, bytes: Cow::Owned(bytes) }))
    }
}

/// Copies the block that both shapes have in common. What lies beside it becomes 0, what lies after it stays.
fn copy(from_shape: &[usize], from: &[f32], to_shape: &[usize], to: &mut [f32]) {
    let (Some((&from_outer, from_rest)), Some((&to_outer, to_rest))) =
        (from_shape.split_first(), to_shape.split_first())
    else {
        to[0] = from[0];
        return;
    };
    let [from_size, to_size] = [from_rest, to_rest].map(|rest| rest.iter().product::<usize>());
    for index in 0..from_outer.min(to_outer) {
        let to = &mut to[index * to_size..][..to_size];
        to.fill(0.0);
        copy(from_rest, &from[index * from_size..][..from_size], to_rest, to);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_both_have_is_copied() {
        let mut to = [9.0; 9];
        super::copy(&[2, 2], &[1.0, 2.0, 3.0, 4.0], &[3, 3], &mut to);
        assert_eq!(to, [1.0, 2.0, 0.0, 3.0, 4.0, 0.0, 9.0, 9.0, 9.0]);
    }
}
