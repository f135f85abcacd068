//! The files of a model's components, once they have arrived.

use super::LoadProgress;
use crate::{
    Error, Result,
    nets::Pace,
    weights::{
        gguf::GgufFile,
        manifest::{Component, Manifest},
        source::{self, Source},
    },
};

/// Some components of a model, verified and in memory.
pub struct Components<'a> {
    arrived: Vec<(&'a Component, GgufFile)>,
}

/// What of a whole load is here.
pub struct Tally<'a> {
    /// Bytes of the components that have arrived.
    pub loaded_bytes: u64,
    /// Bytes of all components that will be loaded.
    pub total_bytes: u64,
    /// Hears of every chunk.
    pub on_progress: &'a mut dyn FnMut(LoadProgress),
}

impl<'a> Components<'a> {
    /// Reads the components of `roles` in the manifest's order; `pace` cancels between chunks.
    ///
    /// # Errors
    /// As [`source::load_component`]; [`Error::Cancelled`].
    pub async fn load(
        source: &dyn Source,
        manifest: &'a Manifest,
        roles: &[&str],
        pace: &Pace,
        tally: &mut Tally<'_>,
    ) -> Result<Self> {
        let mut arrived = Vec::new();
        for component in manifest.components.iter().filter(|component| roles.contains(&component.role.as_str())) {
            let mut report = |bytes| {
                pace.check()?;
                (tally.on_progress)(LoadProgress {
                    component: component.role.clone(),
                    loaded_bytes: tally.loaded_bytes + bytes,
                    total_bytes: tally.total_bytes,
                });
                Ok(())
            };
            report(0)?;
            arrived.push((component, source::load_component(source, manifest, &component.role, &mut report).await?));
            tally.loaded_bytes += component.bytes;
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

/// Bytes of the components of `roles`.
pub fn bytes(manifest: &Manifest, roles: &[&str]) -> u64 {
    let wanted = manifest.components.iter().filter(|component| roles.contains(&component.role.as_str()));
    wanted.map(|component| component.bytes).sum()
}
