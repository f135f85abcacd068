//! How far loads have come.

use super::manifest::Component;
use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use web_time::Instant;

/// The rate is that of so long a time before now.
const WINDOW: Duration = Duration::from_secs(5);
/// Less than this says nothing about a rate.
const SHORTEST: Duration = Duration::from_millis(300);

/// How far a load has come, in bytes of weights.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadProgress {
    /// Name of the model that the arriving component is of: of several, the first that asked for it.
    pub model: String,
    /// Role of the component that is arriving.
    pub component: String,
    /// Bytes of it that are here.
    pub component_loaded: u64,
    /// Its length.
    pub component_bytes: u64,
    /// Bytes here of the whole load.
    pub loaded_bytes: u64,
    /// Bytes of the whole load.
    pub total_bytes: u64,
    /// Bytes among [`LoadProgress::loaded_bytes`] that were stored here already.
    pub stored_bytes: u64,
    /// Bytes a second from the network, in the last seconds.
    pub bytes_per_second: Option<f64>,
    /// What is left at that rate.
    pub seconds_left: Option<f64>,
}

/// Counts what arrives. Files are counted by their content: what two models share arrives once.
#[derive(Debug, Default)]
pub struct Traffic(RefCell<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// By the checksums of their chunks.
    files: BTreeMap<Vec<String>, File>,
    last: Option<Vec<String>>,
    /// Grows with every change.
    version: u64,
    fetched: u64,
    /// When how much had come from the network.
    window: VecDeque<(Instant, u64)>,
}

#[derive(Debug)]
struct File {
    model: String,
    role: String,
    bytes: u64,
    /// Bytes of each chunk that are here, and whether they were stored.
    chunks: BTreeMap<usize, (u64, bool)>,
}

impl File {
    fn loaded(&self) -> u64 {
        self.chunks.values().map(|(bytes, _)| bytes).sum()
    }

    fn stored(&self) -> u64 {
        self.chunks.values().filter(|(_, stored)| *stored).map(|(bytes, _)| bytes).sum()
    }
}

impl Traffic {
    /// Counts `component` of the model `name` among what is to arrive, unless it does already.
    pub fn expect(&self, name: &str, component: &Component) {
        let mut counts = self.0.borrow_mut();
        let new = || File {
            model: name.into(),
            role: component.role.clone(),
            bytes: component.bytes,
            chunks: BTreeMap::new(),
        };
        counts.files.entry(component.sha256.clone()).or_insert_with(new);
    }

    /// Forgets all but the files that are still `coming`, by their checksums, so that a further load is counted by itself.
    pub fn settle(&self, coming: impl Fn(&[String]) -> bool) {
        self.0.borrow_mut().files.retain(|sums, _| coming(sums));
    }

    /// What [`Traffic::news`] counts from.
    pub fn version(&self) -> u64 {
        self.0.borrow().version
    }

    /// Tells that `bytes` of a chunk are here; `stored`: from the store.
    pub(super) fn arrived(&self, component: &Component, chunk: usize, bytes: u64, stored: bool) {
        let counts = &mut *self.0.borrow_mut();
        let Some(file) = counts.files.get_mut(&component.sha256) else {
            return; // Loaded before, and again since.
        };
        let before = file.chunks.insert(chunk, (bytes, stored)).map_or(0, |(bytes, _)| bytes);
        if !stored {
            counts.fetched += bytes.saturating_sub(before);
            let now = Instant::now();
            counts.window.push_back((now, counts.fetched));
            while counts.window.len() > 2 && now - counts.window[1].0 > WINDOW {
                counts.window.pop_front();
            }
        }
        if counts.last.as_ref() != Some(&component.sha256) {
            counts.last = Some(component.sha256.clone());
        }
        counts.version += 1;
    }

    /// How far all that is expected has come, if that has changed since the version that was `seen`.
    pub fn news(&self, seen: &mut u64) -> Option<LoadProgress> {
        let counts = &*self.0.borrow();
        if std::mem::replace(seen, counts.version) == counts.version {
            return None;
        }
        let file = counts.files.get(counts.last.as_ref()?)?;
        let sum = |of: fn(&File) -> u64| counts.files.values().map(of).sum::<u64>();
        let (loaded, total) = (sum(File::loaded), sum(|file| file.bytes));
        let rate = counts.window.front().zip(counts.window.back()).and_then(|((from, had), (to, has))| {
            let time = *to - *from;
            (time >= SHORTEST).then(|| (has - had) as f64 / time.as_secs_f64())
        });
        Some(LoadProgress {
            model: file.model.clone(),
            component: file.role.clone(),
            component_loaded: file.loaded(),
            component_bytes: file.bytes,
            loaded_bytes: loaded,
            total_bytes: total,
            stored_bytes: sum(File::stored),
            bytes_per_second: rate,
            seconds_left: rate.filter(|rate| *rate > 0.0).map(|rate| (total - loaded) as f64 / rate),
        })
    }
}
