//! The files of a model's components, once they have arrived.

use super::{LoadProgress, config::PipelineConfig};
use crate::{
    Error, Result,
    nets::Pace,
    weights::{
        gguf::GgufFile,
        manifest::{Component, Manifest},
        source::{self, Source},
    },
};

/// The components that drawing needs, verified and in memory.
pub struct Components<'a> {
    arrived: Vec<(&'a Component, GgufFile)>,
}

impl<'a> Components<'a> {
    /// Reads them in the manifest's order; `pace` cancels between chunks.
    ///
    /// # Errors
    /// As [`source::load_component`]; [`Error::Cancelled`].
    pub async fn load(
        source: &dyn Source,
        manifest: &'a Manifest,
        config: &PipelineConfig,
        pace: &Pace,
        on_progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self> {
        let needed = config.components();
        let needed = manifest.components.iter().filter(|component| needed.contains(&component.role.as_str()));
        let total_bytes = needed.clone().map(|component| component.bytes).sum();
        let mut before = 0;
        let mut arrived = Vec::new();
        for component in needed {
            let mut report = |bytes| {
                pace.check()?;
                let component = component.role.clone();
                on_progress(LoadProgress { component, loaded_bytes: before + bytes, total_bytes });
                Ok(())
            };
            report(0)?;
            arrived.push((component, source::load_component(source, manifest, &component.role, &mut report).await?));
            before += component.bytes;
        }
        Ok(Self { arrived })
    }

    /// The file of `role`, and which of `networks` it holds.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the manifest does not list it, [`Error::Unsupported`] if it is another network.
    pub fn find(&self, role: &str, networks: &[&str]) -> Result<(&GgufFile, &str)> {
        let found = self.arrived.iter().find(|(component, _)| component.role == role);
        let (Component { network, .. }, file) = found.ok_or_else(|| Error::Corrupt {
            what: "model.json".into(),
            why: format!("component `{role}` is not listed"),
        })?;
        if !networks.contains(&network.as_str()) {
            return Err(Error::Unsupported(format!("network `{network}` as `{role}`")));
        }
        Ok((file, network))
    }
}
