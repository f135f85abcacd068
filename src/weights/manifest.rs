//! `model.json`: what a model folder holds, in the order in which drawing needs it.

use super::source::Source;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, ops::Range};

/// Name of the manifest's file in a model folder.
pub const FILE: &str = "model.json";
/// The manifest's format that this engine reads and writes.
pub const FORMAT: u32 = 1;
/// Usual length of a chunk, 4 MiB: small enough to report progress and to refetch, large enough for few requests.
pub const CHUNK_BYTES: u64 = 4 << 20;

const MAX_MANIFEST_BYTES: u64 = 8 << 20;
const MAX_CHUNK_BYTES: u64 = 64 << 20;
const MAX_COMPONENT_BYTES: u64 = 64 << 30;
const MAX_COMPONENTS: usize = 64;

/// A model folder's table of contents.
///
/// It may come from anywhere: [`Manifest::from_json`] refuses names that could leave the folder and sizes that do not add
/// up, so that whoever holds a `Manifest` may rely on both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Short name in ASCII, e.g. `"emoji"`.
    pub name: String,
    /// Name shown to people.
    pub title: Title,
    /// SPDX expression, e.g. `"Apache-2.0"`.
    pub licence: String,
    /// Whom to name, and for what.
    pub attribution: Vec<String>,
    /// Length of every chunk of a file but the last.
    pub chunk_bytes: u64,
    /// The files, first the one needed first.
    pub components: Vec<Component>,
    /// File beside this one that lists what the model knows by name, for pages that suggest prompts. Drawing does not need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<String>,
    /// How the components draw together; [`crate::pipeline::config::PipelineConfig`] reads it.
    pub pipeline: serde_json::Value,
}

/// A name in English and Chinese.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Title {
    /// English.
    pub en: String,
    /// Chinese.
    pub zh: String,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// What the pipeline calls it, e.g. `"structure"`.
    pub role: String,
    /// Class of the network in it, as diffusers and transformers name it, e.g. `"UNet2DConditionModel"`.
    pub network: String,
    /// File name within the model folder.
    pub file: String,
    /// The model folder beside this one that holds the file, where models share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// Length of the file.
    pub bytes: u64,
    /// SHA-256 of each chunk, in hexadecimal; read in small letters.
    pub sha256: Vec<String>,
}

impl Manifest {
    /// Reads `model.json` from a model folder.
    ///
    /// # Errors
    /// [`Error::Read`], and those of [`Manifest::from_json`].
    pub async fn load(source: &dyn Source) -> Result<Self> {
        let bytes = source.read(FILE, 0..MAX_MANIFEST_BYTES + 1, &|_| ()).await?;
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(corrupt("it is longer than a manifest can be"));
        }
        Self::from_json(&bytes)
    }

    /// Parses and checks a manifest.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another format; [`Error::Corrupt`] telling what is wrong.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        if version.format != FORMAT {
            let why = format!("model.json of format {}; this engine reads format {FORMAT}", version.format);
            return Err(Error::Unsupported(why));
        }
        let mut manifest: Self = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        manifest.validate()?;
        // Files are told apart by these.
        let sums = manifest.components.iter_mut().flat_map(|component| &mut component.sha256);
        sums.for_each(|sum| sum.make_ascii_lowercase());
        Ok(manifest)
    }

    /// The manifest as `model.json` holds it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a manifest that would not be read back.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        self.validate()?;
        let mut json = serde_json::to_vec_pretty(self).expect("a manifest is plain data");
        json.push(b'\n');
        Ok(json)
    }

    /// What tells the model from others: the content of its files, and how they draw together.
    pub fn fingerprint(&self) -> String {
        let sums = self.components.iter().map(|component| &component.sha256);
        let drawn = serde_json::to_vec(&(sums.collect::<Vec<_>>(), &self.pipeline));
        hex::encode(Sha256::digest(drawn.expect("a manifest is plain data")))
    }

    /// The component of that role.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is none.
    pub fn component(&self, role: &str) -> Result<&Component> {
        let found = self.components.iter().find(|component| component.role == role);
        found.ok_or_else(|| corrupt(format!("component `{role}` is not listed")))
    }

    /// Where each chunk of `component` lies in its file.
    pub fn chunks(&self, component: &Component) -> impl Iterator<Item = Range<u64>> + use<> {
        let (len, step) = (component.bytes, self.chunk_bytes);
        (0..len.div_ceil(step)).map(move |chunk| chunk * step..len.min((chunk + 1) * step))
    }

    fn validate(&self) -> Result<()> {
        plain_name("name", &self.name)?;
        self.vocabulary.iter().try_for_each(|file| plain_name("vocabulary", file))?;
        if !(1..=MAX_CHUNK_BYTES).contains(&self.chunk_bytes) {
            return Err(corrupt(format!("chunk_bytes is not in 1..={MAX_CHUNK_BYTES}")));
        }
        if self.components.len() > MAX_COMPONENTS {
            return Err(corrupt(format!("it lists more than {MAX_COMPONENTS} components")));
        }
        let (mut roles, mut files) = (BTreeSet::new(), BTreeSet::from([format!("/{FILE}")]));
        for component in &self.components {
            let Component { role, network, file, folder, bytes, sha256 } = component;
            plain_name("role", role)?;
            plain_name("network", network)?;
            plain_name("file", file)?;
            folder.iter().try_for_each(|folder| plain_name("folder", folder))?;
            // Some file systems do not tell cases apart.
            let place = format!("{}/{file}", folder.as_deref().unwrap_or_default()).to_ascii_lowercase();
            if !roles.insert(role) || !files.insert(place) {
                return Err(corrupt(format!("component `{role}` or its file is listed twice")));
            }
            if !(1..=MAX_COMPONENT_BYTES).contains(bytes) || bytes.div_ceil(self.chunk_bytes) != sha256.len() as u64 {
                return Err(corrupt(format!("the size of component `{role}` does not fit its checksums")));
            }
            if sha256.iter().any(|digest| digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit())) {
                return Err(corrupt(format!("a checksum of component `{role}` is not a SHA-256")));
            }
        }
        Ok(())
    }
}

impl Component {
    /// Compares a chunk's bytes with its checksum.
    ///
    /// # Errors
    /// [`Error::Checksum`] if they differ or if there is no such chunk.
    pub fn verify(&self, chunk: usize, bytes: &[u8]) -> Result<()> {
        match self.sha256.get(chunk) {
            Some(digest) if digest.eq_ignore_ascii_case(&hex::encode(Sha256::digest(bytes))) => Ok(()),
            _ => Err(Error::Checksum { file: self.file.clone(), chunk }),
        }
    }

    /// Describes the file called `file` of `folder`.
    ///
    /// # Errors
    /// [`Error::Read`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn of_file(
        folder: &std::path::Path,
        role: impl Into<String>,
        network: impl Into<String>,
        file: impl Into<String>,
        chunk_bytes: u64,
    ) -> Result<Self> {
        use std::io::Read;
        let file = file.into();
        let path = folder.join(&file);
        let failed = |error: std::io::Error| Error::Read { what: path.display().to_string(), why: error.to_string() };
        let mut input = std::fs::File::open(&path).map_err(failed)?;
        let (mut bytes, mut sha256, mut chunk) = (0, Vec::new(), Vec::new());
        while input.by_ref().take(chunk_bytes).read_to_end(&mut chunk).map_err(failed)? > 0 {
            bytes += chunk.len() as u64;
            sha256.push(hex::encode(Sha256::digest(&chunk)));
            chunk.clear();
        }
        Ok(Self { role: role.into(), network: network.into(), file, folder: None, bytes, sha256 })
    }
}

/// Checks that `name` is letters, digits, `.`, `_` and `-`, and no path: safe as a file name and within a URL.
pub(crate) fn plain_name(field: &str, name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    match (1..=128).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain) {
        true => Ok(()),
        false => Err(corrupt(format!("{field} {name:?} is not a plain name"))),
    }
}

fn corrupt(why: impl Into<String>) -> Error {
    Error::Corrupt { what: FILE.into(), why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn json() -> Value {
        json!({
            "format": 1, "name": "tiny", "title": {"en": "Tiny", "zh": "小"}, "licence": "MIT", "attribution": [],
            "chunk_bytes": 4,
            "components": [{
                "role": "text", "network": "CLIPTextModel", "file": "text.gguf", "bytes": 6,
                "sha256": [hex::encode(Sha256::digest(b"abcd")), hex::encode(Sha256::digest(b"ef"))],
            }],
            "pipeline": {"anything": [1, 2]},
        })
    }

    fn parse(json: &Value) -> Result<Manifest> {
        Manifest::from_json(json.to_string().as_bytes())
    }

    #[test]
    fn round_trips_and_verifies() {
        let manifest = parse(&json()).unwrap();
        assert_eq!(Manifest::from_json(&manifest.to_json().unwrap()).unwrap(), manifest);
        let component = manifest.component("text").unwrap();
        assert_eq!(manifest.chunks(component).collect::<Vec<_>>(), [0..4, 4..6]);
        component.verify(0, b"abcd").unwrap();
        component.verify(1, b"ef").unwrap();
        for (chunk, bytes) in [(0, &b"abce"[..]), (1, b"abcd"), (2, b"ef")] {
            assert!(
                matches!(component.verify(chunk, bytes), Err(Error::Checksum { chunk: found, .. }) if found == chunk)
            );
        }
        assert_eq!(manifest.component("other").unwrap_err().code(), "corrupt");
    }

    #[test]
    fn refuses_nonsense() {
        for (pointer, value) in [
            ("/name", json!("")),
            ("/name", json!("a b")),
            ("/vocabulary", json!("../words.json")),
            ("/extra", json!(1)),
            ("/chunk_bytes", json!(0)),
            ("/chunk_bytes", json!(1u64 << 40)),
            ("/chunk_bytes", json!(2)),
            ("/components/0/extra", json!(1)),
            ("/components/0/bytes", json!(0)),
            ("/components/0/bytes", json!(9)),
            ("/components/0/bytes", json!(u64::MAX)),
            ("/components/0/bytes", json!(-1)),
            ("/components/0/sha256", json!([])),
            ("/components/0/sha256/0", json!("00")),
            ("/components/0/sha256/0", json!("z".repeat(64))),
            ("/components/0/role", json!("")),
            ("/components/0/file", json!("../text.gguf")),
            ("/components/0/file", json!("/etc/passwd")),
            ("/components/0/file", json!("a/b")),
            ("/components/0/file", json!("a\\b")),
            ("/components/0/file", json!("c:b")),
            ("/components/0/file", json!(".hidden")),
            ("/components/0/file", json!("a?b")),
            ("/components/0/file", json!("%2e%2e")),
            ("/components/0/file", json!("Model.json")),
            ("/components/0/file", json!("x".repeat(200))),
        ] {
            let mut hostile = json();
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            match hostile.pointer_mut(parent).unwrap() {
                Value::Array(values) => values[field.parse::<usize>().unwrap()] = value.clone(),
                parent => parent[field] = value.clone(),
            }
            assert!(matches!(parse(&hostile), Err(Error::Corrupt { .. })), "{pointer} {value}");
        }
        let mut twice = json();
        let component = twice["components"][0].clone();
        twice["components"].as_array_mut().unwrap().push(component);
        assert!(parse(&twice).is_err());
        let mut future = json();
        future["format"] = json!(2);
        future["unknown"] = json!(true);
        assert_eq!(parse(&future).unwrap_err().code(), "unsupported");
        assert_eq!(Manifest::from_json(b"{").unwrap_err().code(), "corrupt");
    }
}
