//! The memory that a load takes: alone in its process, since it counts what everybody allocates.

mod common;
#[path = "common/heap.rs"]
mod heap;

use pollster::block_on;

#[test]
fn loads_take_two_chunks_and_a_tensor() {
    block_on(heap::loads_take_two_chunks_and_a_tensor(&common::devices(), |line| println!("{line}")));
}
