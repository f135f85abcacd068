//! Counts what is allocated, and loads networks meanwhile: for tests that are alone in their process.

use super::common::relative_error;
use burn::{
    module::Module,
    nn::LinearConfig,
    tensor::{Device, Tensor},
};
use pangu_draw::{
    Result,
    nets::layers::Linear,
    weights::{
        Arrival, Depot, PIECE,
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

/// Bytes of a chunk.
const CHUNK: usize = 512 << 10;
/// Bytes of all that is not weights: names, shapes, handles, requests to the device. 53 KiB were measured natively and 28 in a
/// browser, 3 to 5 of them a tensor, however long that is; a second tensor would be more.
const SMALL: usize = 128 << 10;

/// A network whose tensors are all alike: square, so many numbers along a side.
#[derive(Debug, Clone, Copy)]
struct Case {
    dtype: GgmlType,
    side: usize,
    layers: usize,
}

/// Tensors that a GPU is given at once, and longer ones.
const CASES: [Case; 4] = [
    Case { dtype: GgmlType::Q8_0, side: 1024, layers: 4 },
    Case { dtype: GgmlType::F16, side: 1024, layers: 4 },
    Case { dtype: GgmlType::Q8_0, side: 3008, layers: 1 },
    Case { dtype: GgmlType::F32, side: 2048, layers: 1 },
];

impl Case {
    /// Bytes of a tensor on its device.
    fn tensor(&self) -> usize {
        let kept = if self.dtype.is_quantized() { self.dtype } else { GgmlType::F32 };
        kept.byte_len(self.side * self.side).unwrap()
    }

    fn net(&self, device: &Device) -> Net {
        let layer = || LinearConfig::new(self.side, self.side).with_bias(false).init(device).into();
        Net { layers: (0..self.layers).map(|_| layer()).collect() }
    }
}

#[derive(Module, Debug)]
struct Net {
    layers: Vec<Linear>,
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

/// Loads every network onto every device, and holds what that took against what it may take: two chunks beside the tensor that
/// comes, or the piece of it that a GPU is given at once; the CPU's weights are in the same memory, and stay. Networks are as
/// on the first device.
pub async fn loads_take_two_chunks_and_a_tensor(devices: &[(&str, Device)], say: impl Fn(String)) {
    for case in CASES {
        let file = write_module(&case.net(&Device::flex()), "", case.dtype, &Metadata::new(), Vec::new()).unwrap();
        let file = Rc::new(file);
        let mut expected = None;
        for (name, device) in devices {
            let Load { peak, kept, output } = load(case, file.clone(), device).await;
            let (stays, comes) = match *device == Device::flex() {
                true => (case.layers * case.tensor(), 0),
                false => (0, case.tensor().min(PIECE)),
            };
            let small = peak as i64 - (stays + comes + 2 * CHUNK) as i64;
            say(format!("{case:?} on {name}: two chunks, weights of {stays} bytes, {comes} of a tensor, and {small}"));
            assert!(kept <= stays + SMALL, "{name}: {kept} bytes stay of {case:?}");
            assert!(peak <= stays + comes + 2 * CHUNK + SMALL, "{name}: {peak} bytes at once for {case:?}");
            let expected = expected.get_or_insert_with(|| output.clone());
            assert!(relative_error(&output, expected) <= 1e-4, "{name}: {case:?}");
        }
    }
}

/// What a load took.
struct Load {
    /// Bytes that there were more at once than before.
    peak: usize,
    /// Bytes that there were more in the end.
    kept: usize,
    /// What the network makes of ones.
    output: Vec<f32>,
}

/// Loads the network out of its file onto `device`.
async fn load(case: Case, file: Rc<Vec<u8>>, device: &Device) -> Load {
    let component = Component {
        role: "net".into(),
        network: "Net".into(),
        file: "net.gguf".into(),
        folder: None,
        bytes: file.len() as u64,
        sha256: file.chunks(CHUNK).map(|chunk| hex::encode(Sha256::digest(chunk))).collect(),
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
    let depot = Depot::new(Rc::new(Far(file)), None);
    let load = async || {
        let net = case.net(device);
        Arrival::new(&depot, &manifest, &component).await.unwrap().load(net, "").await.unwrap()
    };
    // Once all that was sent to the device has come there.
    let settle = async || Tensor::<1>::zeros([1], device).into_data_async().await.map(drop).unwrap();
    // What the device needs for itself is allocated with the first load, and with the first reading.
    drop(load().await);
    settle().await;
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let net = load().await;
    settle().await;
    let (peak, kept) = (PEAK.load(Ordering::Relaxed) - before, NOW.load(Ordering::Relaxed) - before);
    let output = net.layers.iter().fold(Tensor::<2>::ones([1, case.side], device), |x, layer| layer.forward(x));
    Load { peak, kept, output: output.into_data_async().await.unwrap().try_to_vec().unwrap() }
}
