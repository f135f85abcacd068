//! What the fuzzers found interesting is refused in words, or adds up.

#[path = "../fuzz/properties.rs"]
mod properties;

/// Checks every file of a fuzzer's corpus; some must be taken and some refused, or else the corpus is of another format.
fn replay(target: &str, takes: fn(&[u8]) -> bool) {
    let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let (mut taken, mut refused) = (0, 0);
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}")) {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        *if takes(&std::fs::read(path).unwrap()) { &mut taken } else { &mut refused } += 1;
    }
    println!("{target}: {taken} taken, {refused} refused");
    assert!(taken >= 10 && refused >= 10, "{taken} {refused}");
}

#[test]
fn gguf_files() {
    replay("gguf", properties::gguf);
}

#[test]
fn manifests() {
    replay("manifest", properties::manifest);
}
