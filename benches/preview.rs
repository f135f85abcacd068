//! What a preview costs: `cargo bench --bench preview -- [cpu|wgpu]`.
//!
//! The default model draws a picture without previews, with a projected one at every step, with insight as well, and with one
//! of the decoder's at every step. The four take turns; what is printed is the least time that a step took, to which a busy
//! machine only adds, and what each kind of preview adds to it. Then one projection alone.

use burn::tensor::Tensor;
use pangu_draw::{
    device::{DeviceChoice, open},
    nets::Pace,
    pipeline::{Generator, MEMORY, Preview, Request},
    weights::{Depot, source::FolderSource},
};
use pollster::block_on;
use std::{
    future::ready,
    rc::Rc,
    time::{Duration, Instant},
};

const ROUNDS: usize = 9;
const STEPS: usize = 6;

fn main() {
    let choice =
        if std::env::args().any(|argument| argument == "wgpu") { DeviceChoice::Wgpu } else { DeviceChoice::Cpu };
    let device = block_on(open(choice)).expect("the device that was asked for");
    let pace = if device.backend == "cpu" { Pace::free() } else { Pace::queueing(|| Box::pin(ready(Ok(())))) };
    let source = FolderSource(format!("{}/www/models/default", env!("CARGO_MANIFEST_DIR")).into());
    let generator = block_on(Generator::open(Depot::new(Rc::new(source), None), device, MEMORY));
    let generator = generator.expect("the default model");
    let kinds = [
        ("none", Preview::None, 0, false),
        ("projection", Preview::Projection, 0, false),
        ("projection, insight", Preview::Projection, 0, true),
        ("decoder", Preview::Decoder, 1, false),
    ];
    let mut times = kinds.map(|_| Vec::new());
    for round in 0..=ROUNDS {
        for ((_, preview, preview_every, insight), times) in kinds.into_iter().zip(&mut times) {
            let request = Request {
                prompt: "red apple".into(),
                steps: Some(STEPS),
                preview: Some(preview),
                preview_every,
                insight,
                ..Request::default()
            };
            let drawing = block_on(generator.generate(&request, &pace, &mut |_| ())).expect("a picture");
            let denoise = drawing.timings.iter().find(|(stage, _)| *stage == "denoise").expect("it was drawn").1;
            // The first round loads weights and compiles kernels.
            if round > 0 {
                times.push(Duration::from_secs_f64(denoise / STEPS as f64));
            }
        }
    }
    let least = times.map(|times| times.into_iter().min().expect("there were rounds"));
    for ((kind, ..), time) in kinds.iter().zip(least) {
        let added = time.as_secs_f64() / least[0].as_secs_f64() - 1.0;
        println!("preview | {kind:<20} | {time:>10.2?} a step | {:>+6.1} %", 100.0 * added);
    }
    let projection = generator.config().latent.projection.as_ref().expect("the default model has one");
    let latents = Tensor::<4>::zeros([1, 8, 16, 16], &generator.device().device);
    let projections = (0..ROUNDS * STEPS).map(|_| {
        let start = Instant::now();
        block_on(projection.picture(latents.clone())).expect("a picture");
        start.elapsed()
    });
    println!("preview | one projection alone: {:.1?}", projections.min().expect("there were some"));
}
