//! Counts what is allocated, and loads a network meanwhile: for tests that are alone in their process.

use burn::{
    module::Module,
    nn::LinearConfig,
    tensor::{Device, Tensor},
};
use pangu_draw::{
    Result,
    nets::layers::Linear,
    weights::{
        Arrival, Depot,
        gguf::Metadata,
        manifest::{self, Component, Manifest, Title},
        quant::GgmlType,
        source::{Pending, Source},
        write_module,
    },
};
use sha2::{Digest, Sha256};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    ops::Range,
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering},
};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it is; counting touches none of its memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes of a chunk, and of the network's largest tensor.
pub const CHUNK: usize = 512 << 10;
pub const TENSOR: usize = SIDE * SIDE / 32 * 34;
/// Bytes of all that is not weights: names, handles, requests to the device.
pub const SMALL: usize = 128 << 10;

const SIDE: usize = 512;
const LAYERS: usize = 64;

#[derive(Module, Debug)]
struct Net {
    layers: Vec<Linear>,
}

impl Net {
    fn new(device: &Device) -> Self {
        let layer = || LinearConfig::new(SIDE, SIDE).with_bias(false).init(device).into();
        Self { layers: (0..LAYERS).map(|_| layer()).collect() }
    }
}

/// A file far away.
struct Far(Rc<Vec<u8>>);

impl Source for Far {
    fn read<'a>(&'a self, _: &'a str, range: Range<u64>, on_bytes: &'a dyn Fn(u64)) -> Pending<'a, Result<Vec<u8>>> {
        let bytes = self.0[range.start as usize..range.end as usize].to_vec();
        on_bytes(bytes.len() as u64);
        Box::pin(std::future::ready(Ok(bytes)))
    }

    fn sibling(&self, _: &str) -> Rc<dyn Source> {
        Rc::new(Self(self.0.clone()))
    }

    fn address(&self) -> String {
        "https://models.example/net".into()
    }
}

/// Loads 17 MiB of `Q8_0` onto `device`; answers how much more memory that took in between than before.
pub async fn peak_of_a_load(device: &Device) -> usize {
    let bytes = write_module(&Net::new(&Device::flex()), "", GgmlType::Q8_0, &Metadata::new(), Vec::new()).unwrap();
    assert!(bytes.len() > LAYERS * TENSOR);
    let component = Component {
        role: "net".into(),
        network: "Net".into(),
        file: "net.gguf".into(),
        folder: None,
        bytes: bytes.len() as u64,
        sha256: bytes.chunks(CHUNK).map(|chunk| hex::encode(Sha256::digest(chunk))).collect(),
    };
    let manifest = Manifest {
        format: manifest::FORMAT,
        name: "net".into(),
        title: Title { en: "Net".into(), zh: "网".into() },
        licence: "MIT".into(),
        attribution: vec![],
        chunk_bytes: CHUNK as u64,
        components: vec![component.clone()],
        vocabulary: None,
        pipeline: serde_json::Value::Null,
    };
    let depot = Depot::new(Rc::new(Far(Rc::new(bytes))), None);
    let load = async || {
        let net = Net::new(device);
        Arrival::new(&depot, &manifest, &component).await.unwrap().load(net, "").await.unwrap()
    };
    // What the device needs for itself is allocated with the first load, and with the first reading.
    let settle = async || Tensor::<1>::zeros([1], device).into_data_async().await.map(drop).unwrap();
    drop(load().await);
    settle().await;
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let net = load().await;
    settle().await;
    drop(net);
    PEAK.load(Ordering::Relaxed) - before
}
