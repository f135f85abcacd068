//! The memory that a load takes: alone in its process, since it counts what everybody allocates.

#[path = "common/heap.rs"]
mod heap;

use burn::tensor::{Device, DeviceKind};
use heap::{CHUNK, SMALL, TENSOR, peak_of_a_load};
use pollster::block_on;

/// Memory holds two chunks and the tensor that comes; natively, the device's own thread may not have taken over the tensor before
/// it. (In a browser there is no such thread: tests/web.rs.)
#[test]
fn a_load_holds_two_chunks_and_two_tensors() {
    let peak = block_on(peak_of_a_load(&Device::wgpu(DeviceKind::DefaultDevice)));
    println!("a load held {peak} bytes");
    assert!(peak <= 2 * CHUNK + 2 * TENSOR + SMALL, "{peak} bytes");
}
