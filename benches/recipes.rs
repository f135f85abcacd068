//! What quantizing the default model's experts costs: `cargo bench --bench recipes -- [cpu|wgpu]`.
//!
//! The reference are the shipped experts, whose Q8_0 blocks are read as f32: the weights as they were trained are not
//! part of this repository. They lie on Q8_0's grid, so that its own error is estimated with blocks moved by half a
//! block. Every recipe draws the 50 prompts of docs/fifty.txt with the same noise as the reference.

use pangu_draw::{
    device::{DeviceChoice, OpenDevice, open},
    nets::Pace,
    pipeline::{Generator, MEMORY, Request},
    weights::{
        Depot, TensorSource,
        gguf::{GgufFile, GgufWriter, TensorPlan},
        manifest::{self, Component, Manifest},
        quant::GgmlType,
        source::FolderSource,
    },
};
use pollster::block_on;
use std::{collections::BTreeMap, fs, path::Path, rc::Rc};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/www/models/default");
const PROMPTS: &str = include_str!("../docs/fifty.txt");
const EXPERTS: [&str; 2] = ["structure", "texture"];
const HALF_BLOCK: usize = 16;

/// How a recipe stores a tensor of this name and rank: its type, and whether its blocks are moved.
type Recipe = fn(&str, usize) -> (GgmlType, bool);

const RECIPES: [(&str, Recipe); 6] = [
    ("f32", |_, _| (GgmlType::F32, false)),
    ("Q8_0 (blocks moved)", |_, _| (GgmlType::Q8_0, true)),
    ("Q4_0 convolutions, Q8_0 linear", |_, rank| (if rank == 4 { GgmlType::Q4_0 } else { GgmlType::Q8_0 }, false)),
    ("Q8_0 convolutions, Q4_0 linear", |_, rank| (if rank == 4 { GgmlType::Q8_0 } else { GgmlType::Q4_0 }, false)),
    ("Q4_0, Q8_0 time and edges", |name, _| {
        let edge = ["conv_in", "conv_out", "embedding", "time_emb"].into_iter().any(|part| name.contains(part));
        (if edge { GgmlType::Q8_0 } else { GgmlType::Q4_0 }, false)
    }),
    ("Q4_0", |_, _| (GgmlType::Q4_0, false)),
];

/// A quantized layer's relative error, the root of the mean square over that of its weights.
struct LayerError {
    name: String,
    rank: usize,
    error: f64,
}

/// `file` with its quantized tensors stored by the recipe, as a file, with the error and the size that it would have.
fn requantized(file: &GgufFile, recipe: Recipe) -> (Vec<u8>, Vec<LayerError>, usize) {
    let (mut plans, mut contents, mut errors, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for name in file.names() {
        let stored = file.tensor(&name).expect("readable").expect("a name of the file's");
        let (mut dtype, mut content) = (stored.dtype, stored.bytes.to_vec());
        if dtype.is_quantized() {
            let count = stored.shape.iter().product();
            let values = dtype.dequantize(&content, count).expect("whole blocks");
            let (wanted, moved) = recipe(&name, stored.shape.len());
            let within = if moved { HALF_BLOCK..count - HALF_BLOCK } else { 0..count };
            let blocks = wanted.quantize(&values[within.clone()]).expect("finite weights");
            let mut found = values.clone();
            found[within.clone()].copy_from_slice(&wanted.dequantize(&blocks, within.len()).expect("whole blocks"));
            let square = |x: f32| f64::from(x) * f64::from(x);
            let noise: f64 = values.iter().zip(&found).map(|(a, b)| square(a - b)).sum();
            let power: f64 = values.iter().map(|x| square(*x)).sum();
            errors.push(LayerError { name: name.clone(), rank: stored.shape.len(), error: (noise / power).sqrt() });
            bytes += wanted.byte_len(count).expect("whole blocks");
            // Moved blocks are no tensor of the file's types: their numbers are.
            dtype = if moved { GgmlType::F32 } else { wanted };
            content = dtype.quantize(&found).expect("finite weights");
        } else {
            bytes += content.len();
        }
        plans.push(TensorPlan { name, shape: stored.shape, dtype });
        contents.push(content);
    }
    let mut writer = GgufWriter::new(Vec::new(), &file.header().metadata, &plans).expect("a plan of valid tensors");
    contents.iter().for_each(|content| writer.tensor(content).expect("as planned"));
    (writer.finish().expect("as planned"), errors, bytes)
}

/// The fifty pictures over white, RGB.
fn draw(folder: &Path, device: &OpenDevice) -> Vec<Vec<u8>> {
    let pace = Pace::free();
    let depot = Depot::new(Rc::new(FolderSource(folder.into())), None);
    let generator = block_on(Generator::open(depot, device.clone(), MEMORY)).expect("a whole model");
    let picture = |prompt: &str| {
        let request = Request { prompt: prompt.into(), seed: 1, ..Default::default() };
        let drawing = block_on(generator.generate(&request, &pace, &mut |_| {})).expect("nobody cancels");
        let image = drawing.image.on([255; 3]);
        image.rgba.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
    };
    PROMPTS.lines().filter(|line| !line.is_empty()).map(picture).collect()
}

fn main() {
    let wgpu = std::env::args().any(|argument| argument == "wgpu");
    let device = block_on(open(if wgpu { DeviceChoice::Wgpu } else { DeviceChoice::Cpu })).expect("a device");
    let source = FolderSource(MODEL.into());
    let shipped = block_on(Manifest::load(&source)).expect("the default model");
    let component = |role: &str| {
        let file = &shipped.component(role).expect("a role of the model").file;
        GgufFile::new(file, fs::read(Path::new(MODEL).join(file)).expect("a readable file")).expect("a sound file")
    };
    let experts: BTreeMap<_, _> = EXPERTS.into_iter().map(|role| (role, component(role))).collect();
    let folder = std::env::temp_dir().join(format!("pangu-draw-recipes-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder to write to");
    for component in &shipped.components {
        fs::copy(Path::new(MODEL).join(&component.file), folder.join(&component.file)).expect("copied");
    }

    println!("{}, {} prompts, against f32\n", device.name, PROMPTS.lines().count());
    println!(
        "| experts | bytes | error of convolutions | of linear layers | worst layer | picture: mean | worst | PSNR |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut reference = None;
    for (name, recipe) in RECIPES {
        let (mut manifest, mut errors, mut bytes) = (shipped.clone(), Vec::new(), 0);
        for component in manifest.components.iter_mut().filter(|c| EXPERTS.contains(&c.role.as_str())) {
            let (file, found, size) = requantized(&experts[component.role.as_str()], recipe);
            fs::write(folder.join(&component.file), file).expect("written");
            let Component { role, network, file, .. } = component.clone();
            *component = Component::of_file(&folder, role, network, file, shipped.chunk_bytes).expect("just written");
            errors.extend(found);
            bytes += size;
        }
        fs::write(folder.join(manifest::FILE), manifest.to_json().expect("a manifest")).expect("written");
        let pictures = draw(&folder, &device);
        let reference = reference.get_or_insert_with(|| pictures.clone());
        let difference = |power: i32| -> Vec<f64> {
            let of = |(a, b): (&Vec<u8>, &Vec<u8>)| {
                let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(power)).sum();
                sum / a.len() as f64
            };
            reference.iter().zip(&pictures).map(of).collect()
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let of_rank = |rank: usize| -> f64 {
            mean(&errors.iter().filter(|layer| layer.rank == rank).map(|layer| layer.error).collect::<Vec<_>>())
        };
        let worst = errors.iter().max_by(|a, b| a.error.total_cmp(&b.error)).expect("quantized layers");
        let (absolute, square) = (difference(1), mean(&difference(2)));
        println!(
            "| {name} | {bytes} | {:.2} % | {:.2} % | {:.2} % ({}) | {:.3} | {:.2} | {:.1} dB |",
            of_rank(4) * 100.0,
            of_rank(2) * 100.0,
            worst.error * 100.0,
            worst.name,
            mean(&absolute),
            absolute.iter().copied().fold(0.0, f64::max),
            10.0 * (255.0f64.powi(2) / square).log10(),
        );
    }
    fs::remove_dir_all(folder).expect("what was written above");
}
