//! What it costs that a network can be cancelled inside a step: `cargo bench --bench pace -- [cpu|wgpu]`.
//!
//! One evaluation of the default model's UNet without a pace, and with the pace that a page uses: a checkpoint after
//! every block that yields once, and on a GPU reads one element back after as many as take about 30 ms. The two take turns; what is
//! printed is the ratio of their medians.

use burn::tensor::{Device, Distribution, Tensor};
use pangu_draw::{
    device::{DeviceChoice, open},
    nets::{
        Pace, Waiting,
        unet::{UNet, UNetConfig},
    },
};
use pollster::block_on;
use std::{
    future::poll_fn,
    task::Poll,
    time::{Duration, Instant},
};

const ROUNDS: usize = 25;

/// Gives way once, as a page's worker does between two blocks.
async fn give_way() {
    let mut asked = false;
    poll_fn(move |context| {
        if asked {
            return Poll::Ready(());
        }
        asked = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn evaluate(unet: &UNet, device: &Device, pace: &Pace) -> Duration {
    let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Default, device);
    let (sample, context) = (random([2, 8, 16, 16]), random([1, 2, 16, 512]).squeeze_dim::<3>(0));
    let vector = Tensor::<2>::zeros([2, 512], device);
    let timesteps = Tensor::<1>::full([2], 500.0, device);
    block_on(async {
        // Nothing of the preparation is left in the queue.
        timesteps.clone().into_data_async().await.expect("a working device");
        let start = Instant::now();
        let output = unet.forward(sample, timesteps, context, Some(vector), pace).await.expect("nobody cancels");
        output.into_data_async().await.expect("a working device");
        start.elapsed()
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn main() {
    let choice =
        if std::env::args().any(|argument| argument == "wgpu") { DeviceChoice::Wgpu } else { DeviceChoice::Cpu };
    let opened = block_on(open(choice)).expect("the device that was asked for");
    let unet = UNetConfig::emoji().init(&opened.device).expect("a valid configuration");
    let yielder = || -> Waiting {
        Box::pin(async {
            give_way().await;
            Ok(())
        })
    };
    let paced = match opened.backend {
        "cpu" => Pace::yielding(yielder),
        _ => Pace::queueing(yielder),
    };
    let free = Pace::free();
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + 2 {
        let pair = (evaluate(&unet, &opened.device, &free), evaluate(&unet, &opened.device, &paced));
        // The first rounds compile kernels.
        if round >= 2 {
            without.push(pair.0);
            with.push(pair.1);
        }
    }
    let (without, with) = (median(without), median(with));
    println!(
        "{}: {without:.2?} without, {with:.2?} with checkpoints between {} blocks: {:+.2} %",
        opened.name,
        unet.units(),
        (with.as_secs_f64() / without.as_secs_f64() - 1.0) * 100.0
    );
}
