#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    pangu_draw::properties::manifest(bytes);
});
