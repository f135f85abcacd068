//! Scaling of pictures against Pillow. Goldens: tests/oracle/resample.py.

mod common;

use common::{devices, golden, relative_error, tensor, values};
use pangu_draw::pixels::{Upsampler, resample};

/// Pillow computes in f64 and rounds once an axis; here kernels are f64, products and sums f32: a few units in the last place
/// of values up to 2. Measured: below 3e-7.
const TOLERANCE: f32 = 2e-6;

#[test]
fn pictures_are_scaled_as_pillow_does() {
    let golden = golden("resample");
    let sizes: Vec<[[usize; 2]; 2]> = serde_json::from_str(&golden.metadata()["config"]).unwrap();
    for (device_name, device) in devices() {
        for (index, [old, new]) in sizes.iter().enumerate() {
            let picture = tensor::<4>(&golden, &format!("input.{index}"), &device);
            for upsampler in Upsampler::ALL {
                let (_, expected) = values(&golden, &format!("output.{index}.{upsampler}"));
                let scaled = resample(picture.clone(), *new, upsampler);
                assert_eq!(scaled.dims(), [1, 1, new[0], new[1]]);
                let error = relative_error(&scaled.into_data().try_to_vec::<f32>().unwrap(), &expected);
                println!("parity | {upsampler} {old:?} to {new:?} on {device_name} | {error:.1e}");
                assert!(error <= TOLERANCE, "{upsampler} {old:?} to {new:?} on {device_name}: {error:e}");
            }
        }
    }
}
