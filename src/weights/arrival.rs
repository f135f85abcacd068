//! A component that arrives: its header first, then tensor by tensor.

use super::{
    depot::{Chunks, Depot},
    gguf::{GgufHeader, TensorInfo},
    manifest::{Component, Manifest},
    module::Assembly,
};
use crate::{Error, Result};
use burn::module::Module;

/// A header longer than this is not one: a text encoder's, with its vocabulary in it, is a few MiB long.
const MAX_HEADER: usize = 64 << 20;

/// A GGUF file of which the header is here.
///
/// Memory never holds more of it than two chunks and the tensor that comes, or a [piece](super::PIECE) of that if it is long and
/// goes to a GPU: each chunk is taken apart as it comes, into the form in which the device keeps the tensor, and what is whole goes
/// there before anything else takes memory. The CPU keeps tensors in the memory in which they came.
pub struct Arrival {
    component: Component,
    header: GgufHeader,
    chunks: Chunks,
    /// The chunk that came last, and where it begins in the file.
    chunk: Vec<u8>,
    begins: usize,
}

impl Arrival {
    /// Waits for the header of `component`.
    ///
    /// # Errors
    /// As [`stock`](super::stock) and [`GgufHeader::parse`].
    pub async fn new(depot: &Depot, manifest: &Manifest, component: &Component) -> Result<Self> {
        let what = &component.file;
        let corrupt = |why: &str| Error::Corrupt { what: what.clone(), why: why.into() };
        let len = usize::try_from(component.bytes).map_err(|_| corrupt("it is longer than memory can be"))?;
        let mut chunks = Chunks::new(depot, manifest, component);
        let (mut head, mut begins) = (Vec::new(), 0);
        loop {
            let chunk = chunks.next().await.ok_or_else(|| corrupt("it ends in the middle of its header"))??;
            // Most headers fit into the first chunk, which then need not be copied.
            let known: &[u8] = if head.is_empty() {
                &chunk
            } else {
                head.extend(&chunk);
                &head
            };
            if let Some(header) = GgufHeader::parse(what, known, len)? {
                return Ok(Self { component: component.clone(), header, chunks, chunk, begins });
            }
            if known.len() > MAX_HEADER {
                return Err(corrupt("its header is longer than a header can be"));
            }
            if head.is_empty() {
                head.extend(&chunk);
            }
            begins += chunk.len();
        }
    }

    /// Class of the network in it.
    pub fn network(&self) -> &str {
        &self.component.network
    }

    /// Metadata and table of tensors.
    pub fn header(&self) -> &GgufHeader {
        &self.header
    }

    /// The text under `key` of the metadata; see [`GgufHeader::text_of`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is none.
    pub fn text(&self, key: &str) -> Result<&str> {
        self.header.text_of(&self.component.file, key)
    }

    /// The network's configuration; see [`GgufHeader::config_of`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is none or if it does not fit.
    pub fn config<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        self.header.config_of(&self.component.file)
    }

    /// Gives `module` its tensors as they come; see [`load`](super::load). What does not fit is known before they come.
    ///
    /// # Errors
    /// As [`load`](super::load) and [`stock`](super::stock).
    pub async fn load<M: Module>(mut self, module: M, prefix: &str) -> Result<M> {
        let mut assembly = Assembly::new(module, &self.component.file, prefix);
        let mut tensors: Vec<(String, TensorInfo)> = std::mem::take(&mut self.header.tensors).into_iter().collect();
        assembly.check(tensors.iter().map(|(name, _)| name.as_str()))?;
        tensors.iter().try_for_each(|(name, info)| assembly.check_shape(name, &info.shape))?;
        tensors.retain(|(name, _)| assembly.wants(name));
        tensors.sort_by_key(|(_, info)| info.start);
        for (name, TensorInfo { dtype, start, len, .. }) in tensors {
            let mut incoming = assembly.expect(&name, dtype)?;
            self.bytes(start, len, &mut |piece| incoming.push(piece)).await?;
            let placed = incoming.finish()?;
            assembly.place(&name, placed);
        }
        // What follows the last tensor is padding, but it belongs to the file that is to be stored whole.
        self.drain().await?;
        Ok(assembly.finish())
    }

    /// Reads and verifies the rest of the file, to no other end.
    ///
    /// # Errors
    /// As [`stock`](super::stock).
    pub async fn drain(self) -> Result<()> {
        self.chunks.drain().await
    }

    /// Gives `take` the `len` bytes from `start` on, which must not lie before what was asked for last, piece by piece.
    async fn bytes(&mut self, start: usize, len: usize, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (mut at, end) = (start, start + len);
        while at < end {
            while at >= self.begins + self.chunk.len() {
                self.next().await?;
            }
            let piece = &self.chunk[at - self.begins..];
            let piece = &piece[..piece.len().min(end - at)];
            take(piece)?;
            at += piece.len();
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<()> {
        self.begins += self.chunk.len();
        self.chunk = Vec::new(); // Gone before the next one comes.
        let ends = || Error::Read { what: self.component.file.clone(), why: "it ends before its last tensor".into() };
        self.chunk = self.chunks.next().await.ok_or_else(ends)??;
        Ok(())
    }
}
