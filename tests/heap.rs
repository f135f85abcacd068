//! The memory that a load takes: alone in its process, since it counts what everybody allocates.

#[path = "common/heap.rs"]
mod heap;

use burn::tensor::{Device, DeviceKind};
use heap::{CHUNK, SMALL, TENSOR, peak_of_a_load};
use pollster::block_on;

/// Memory holds two chunks, the tensor that comes, and the one before it, as long as the device has not taken that over: 2.1 tensors
/// were measured beside the chunks, and 1.7 in a browser (tests/web.rs).
#[test]
fn a_load_holds_two_chunks_and_two_tensors() {
    let peak = block_on(peak_of_a_load(&Device::wgpu(DeviceKind::DefaultDevice)));
    println!("a load held {peak} bytes");
    assert!(peak <= 2 * CHUNK + 2 * TENSOR + SMALL, "{peak} bytes");
}
