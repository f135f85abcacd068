//! The memory that a load takes: alone in its process, since it counts what everybody allocates.

use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, DeviceKind},
};
use pangu_draw::weights::{
    Arrival, Depot,
    gguf::Metadata,
    manifest::{self, Component, Manifest, Title},
    quant::GgmlType,
    source::FolderSource,
    write_module,
};
use pollster::block_on;
use std::{
    alloc::{GlobalAlloc, Layout, System},
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

const CHUNK: u64 = 512 << 10;
const SIDE: usize = 512;

#[derive(Module, Debug)]
struct Net {
    layers: Vec<Linear>,
}

impl Net {
    fn new(device: &Device) -> Self {
        Self { layers: (0..64).map(|_| LinearConfig::new(SIDE, SIDE).with_bias(false).init(device)).collect() }
    }
}

/// 17 MiB of `Q8_0` go to a GPU; memory never holds more than two chunks, and a tensor in the forms that it passes through on its
/// way (words, burn's data, cubecl's and wgpu's staging), one or two tensors of which the device has not taken over yet. 5.3 tensors
/// were measured at most.
#[test]
fn a_load_holds_two_chunks_and_a_tensor() {
    let folder = std::env::temp_dir().join(format!("pangu-draw-heap-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let bytes = write_module(&Net::new(&Device::flex()), "", GgmlType::Q8_0, &Metadata::new(), Vec::new()).unwrap();
    std::fs::write(folder.join("net.gguf"), &bytes).unwrap();
    let total = bytes.len();
    drop(bytes);
    let component = Component::of_file(&folder, "net", "Net", "net.gguf", CHUNK).unwrap();
    let manifest = Manifest {
        format: manifest::FORMAT,
        name: "net".into(),
        title: Title { en: "Net".into(), zh: "网".into() },
        licence: "MIT".into(),
        attribution: vec![],
        chunk_bytes: CHUNK,
        components: vec![component.clone()],
        vocabulary: None,
        pipeline: serde_json::Value::Null,
    };
    let depot = Depot::new(Rc::new(FolderSource(folder.clone())), None);
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    let load =
        || block_on(async { Arrival::new(&depot, &manifest, &component).await?.load(Net::new(&device), "").await });
    // What the device needs for itself is allocated with the first load.
    drop(load().unwrap());
    device.sync().unwrap();
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let net = load().unwrap();
    device.sync().unwrap();
    let peak = PEAK.load(Ordering::Relaxed) - before;
    drop(net);
    std::fs::remove_dir_all(folder).unwrap();
    let tensor = SIDE * SIDE / 32 * 34;
    let bound = 2 * CHUNK as usize + 8 * tensor;
    println!("peak {peak} bytes, bound {bound}, file {total}");
    assert!(peak <= bound, "{peak} bytes of {total}; two chunks and eight tensors are {bound}");
}
