//! `pangu-draw inspect`: what a model folder holds, every checksum verified.

use super::cache;
use crate::{
    Result,
    weights::{Arrival, manifest::Title},
};
use clap::Args;
use serde::Serialize;
use std::{collections::BTreeMap, fmt};

/// Arguments of `pangu-draw inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Model folder or URL (a folder that holds model.json).
    model: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    /// Reads the whole model and prints what it holds.
    ///
    /// # Errors
    /// Those of [`Report::read`].
    pub fn run(self) -> Result<()> {
        let report = pollster::block_on(Report::read(&self.model))?;
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&report).expect("a report is plain data")),
            false => print!("{report}"),
        }
        Ok(())
    }
}

/// What a model holds. All its chunks matched their checksums.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Short name.
    pub name: String,
    /// Name shown to people.
    pub title: Title,
    /// SPDX expression.
    pub licence: String,
    /// Whom to name, and for what.
    pub attribution: Vec<String>,
    /// Numbers in all components.
    pub parameters: u64,
    /// Bytes of all components.
    pub bytes: u64,
    /// First the one needed first.
    pub components: Vec<ComponentReport>,
}

/// What one component holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComponentReport {
    /// What the pipeline calls it.
    pub role: String,
    /// Class of its network.
    pub network: String,
    /// File name.
    pub file: String,
    /// Numbers in it.
    pub parameters: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Chunks that matched their checksums: all of them.
    pub verified_chunks: usize,
    /// By element type.
    pub types: BTreeMap<String, TypeReport>,
}

/// The tensors of one element type.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TypeReport {
    /// Tensors.
    pub tensors: usize,
    /// Numbers in them.
    pub parameters: u64,
    /// Bytes of their data.
    pub bytes: u64,
}

impl Report {
    /// Reads and verifies the model at `location`, a folder or a URL.
    ///
    /// # Errors
    /// As [`Depot::manifest`](crate::weights::Depot::manifest) and [`Arrival::new`].
    pub async fn read(location: &str) -> Result<Self> {
        let depot = cache::depot(location);
        let manifest = depot.manifest().await?;
        let mut components = Vec::new();
        for component in &manifest.components {
            let file = Arrival::new(&depot, &manifest, component).await?;
            let mut types = BTreeMap::<String, TypeReport>::new();
            for info in file.header().tensors.values() {
                let entry = types.entry(info.dtype.to_string()).or_default();
                entry.tensors += 1;
                entry.parameters += info.shape.iter().product::<usize>() as u64;
                entry.bytes += info.len as u64;
            }
            file.drain().await?;
            components.push(ComponentReport {
                role: component.role.clone(),
                network: component.network.clone(),
                file: component.file.clone(),
                parameters: types.values().map(|entry| entry.parameters).sum(),
                bytes: component.bytes,
                verified_chunks: component.sha256.len(),
                types,
            });
        }
        Ok(Self {
            parameters: components.iter().map(|component| component.parameters).sum(),
            bytes: components.iter().map(|component| component.bytes).sum(),
            name: manifest.name,
            title: manifest.title,
            licence: manifest.licence,
            attribution: manifest.attribution,
            components,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, title, licence, .. } = self;
        writeln!(f, "{name}: {} / {}, licence {licence}", title.en, title.zh)?;
        self.attribution.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        writeln!(f, "\n{:<10} {:<28} {:>14} {:>14}  types", "component", "network", "parameters", "bytes")?;
        for component in &self.components {
            let ComponentReport { role, network, parameters, bytes, types, .. } = component;
            let types: Vec<_> = types.iter().map(|(name, entry)| format!("{name} x{}", entry.tensors)).collect();
            writeln!(f, "{role:<10} {network:<28} {parameters:>14} {bytes:>14}  {}", types.join(", "))?;
        }
        writeln!(f, "{:<10} {:<28} {:>14} {:>14}  checksums verified", "in all", "", self.parameters, self.bytes)
    }
}
