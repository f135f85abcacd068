//! What the fuzzers found interesting, and what it becomes when it is changed at random, is refused in words, or adds up.

#[path = "../fuzz/properties.rs"]
mod properties;

/// The longest file that a fuzzer tries.
const LONGEST: usize = 4096;
/// Changed files of each file of a corpus.
const CHANGED: usize = 20;

/// The files of a fuzzer's corpus, in the order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Numbers without a pattern, always the same.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit.max(1)
    }

    /// Where a part of `bytes` begins and ends.
    fn part(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.below(bytes.len());
        start..start + self.below((bytes.len() - start).min(64) + 1)
    }

    /// Changes `bytes` in one place, as a fuzzer does; `other` is a file to take parts of.
    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let part = self.part(bytes);
        match self.below(7) {
            0 => bytes.truncate(part.start),
            1 => drop(bytes.drain(part)),
            2 => {
                let copy = bytes[part].to_vec();
                let at = self.below(bytes.len());
                bytes.splice(at..at, copy);
            }
            3 => {
                let piece = other[self.part(other)].to_vec();
                bytes.splice(part, piece);
            }
            // Lengths, counts and offsets are numbers of eight bytes or four.
            4 => {
                let number = [0, 1, u64::from(u32::MAX), u64::MAX, 1 << 63, self.below(LONGEST) as u64][self.below(6)];
                let length = [4, 8][self.below(2)].min(bytes.len() - part.start);
                bytes[part.start..part.start + length].copy_from_slice(&number.to_le_bytes()[..length]);
            }
            5 => bytes.iter_mut().skip(part.start).take(1).for_each(|byte| *byte = self.below(256) as u8),
            _ => bytes.iter_mut().skip(part.start).take(1).for_each(|byte| *byte ^= 1 << self.below(8)),
        }
        bytes.truncate(LONGEST);
    }
}

/// Checks every file of a fuzzer's corpus, and changed ones; of either some must be taken and some refused, or else the corpus is
/// of another format.
fn replay(target: &str, takes: fn(&[u8]) -> bool) {
    let files = corpus(target);
    let (mut random, mut changed) = (Random(1), Vec::new());
    for file in &files {
        for _ in 0..CHANGED {
            let mut bytes = file.clone();
            for _ in 0..=random.below(3) {
                let other = &files[random.below(files.len())];
                random.change(&mut bytes, other);
            }
            changed.push(bytes);
        }
    }
    for (what, files) in [("found", files), ("changed", changed)] {
        let check = |bytes: &Vec<u8>| {
            std::panic::catch_unwind(|| takes(bytes))
                .unwrap_or_else(|_| panic!("{target}: {:?}", String::from_utf8_lossy(bytes)))
        };
        let taken = files.iter().filter(|bytes| check(bytes)).count();
        let refused = files.len() - taken;
        println!("{target}, {what}: {taken} taken, {refused} refused");
        assert!(taken >= 10 && refused >= 10, "{taken} {refused}");
    }
}

#[test]
fn gguf_files() {
    replay("gguf", properties::gguf);
}

#[test]
fn manifests() {
    replay("manifest", properties::manifest);
}
