//! What a drawing takes, before anything is fetched for it.

use super::residency::{Part, Residency};
use crate::{Result, device::OpenDevice};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

/// Most that WebAssembly's 32-bit memory can hold, less what activations and the engine itself need.
const HEAP: u64 = 3 << 30;

/// What a drawing takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Files, in the order of their need.
    pub components: Vec<PlannedComponent>,
    /// Bytes that must come over the network.
    pub fetch_bytes: u64,
    /// Bytes that are stored here.
    pub stored_bytes: u64,
    /// Most bytes of weights on the device at once.
    pub peak_weight_bytes: u64,
    /// Most bytes of a file in the engine's own memory while it is brought to the device: two chunks, and the largest tensor,
    /// which is at most so long.
    pub transfer_bytes: u64,
    /// Why this device cannot do it, if it cannot.
    pub obstacle: Option<String>,
}

/// A file that a drawing needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedComponent {
    /// Name of the model.
    pub model: String,
    /// Role in it.
    pub role: String,
    /// Length.
    pub bytes: u64,
    /// Bytes of it that are stored here.
    pub stored_bytes: u64,
    /// Whether it is in memory already.
    pub here: bool,
}

/// Plans a drawing in `stages`.
pub async fn plan(residency: &Residency, stages: &[Vec<Rc<dyn Part>>], device: &OpenDevice) -> Result<Plan> {
    let mut components = Vec::new();
    let (mut seen, mut transfer_bytes) = (BTreeSet::new(), 0);
    // All parts come through one store.
    let sizes = match stages.iter().flatten().next() {
        Some(part) => part.depot().sizes().await?,
        None => BTreeMap::new(),
    };
    for part in stages.iter().flatten() {
        let component = part.component();
        if !seen.insert(&component.sha256) {
            continue;
        }
        transfer_bytes = transfer_bytes.max((2 * part.manifest().chunk_bytes).min(component.bytes) + component.bytes);
        components.push(PlannedComponent {
            model: part.manifest().name.clone(),
            role: component.role.clone(),
            bytes: component.bytes,
            stored_bytes: part.depot().stored_bytes(&sizes, part.manifest(), component),
            here: part.is_here(),
        });
    }
    // What one stage needs is needed together, though not all of it at the same moment.
    let stage_bytes = |stage: &Vec<Rc<dyn Part>>| {
        let files = stage.iter().map(|part| (&part.component().sha256, part.component().bytes));
        let files: BTreeMap<_, _> = files.collect();
        files.values().sum::<u64>()
    };
    let total: u64 = components.iter().map(|component| component.bytes).sum();
    let least = stages.iter().map(stage_bytes).max().unwrap_or(0);
    let kept = stages.iter().flatten().all(|part| part.depot().keeps());
    let peak = if kept { least.max(residency.budget().min(total)) } else { total };
    let obstacle = (cfg!(target_arch = "wasm32") && device.backend == "cpu" && peak > HEAP).then(|| {
        format!("{peak} bytes of weights do not fit into the {HEAP} that a page's memory has for them; a GPU is needed")
    });
    let fetch = components.iter().filter(|component| !component.here);
    Ok(Plan {
        fetch_bytes: fetch.map(|component| component.bytes - component.stored_bytes).sum(),
        stored_bytes: components.iter().map(|component| component.stored_bytes).sum(),
        peak_weight_bytes: peak,
        transfer_bytes,
        obstacle,
        components,
    })
}
