//! Evaluation on what is known beforehand: Gaussians, exact copies, and eight shapes that anyone can tell apart.
#![cfg(feature = "train")]

use pangu_draw::train::{Draw, eval::frechet};

/// Vectors from N(mean, diag(deviation^2)).
fn gaussian(seed: u64, count: usize, mean: &[f32], deviation: &[f32]) -> Vec<Vec<f32>> {
    let mut draw = Draw::new(seed, 0);
    let mut vector = || {
        let normal = draw.normal(mean.len());
        mean.iter().zip(deviation).zip(normal).map(|((mean, deviation), n)| mean + deviation * n).collect()
    };
    (0..count).map(|_| vector()).collect()
}

#[test]
fn the_frechet_distance_of_gaussians_is_the_closed_form() {
    // |m1 - m2|^2 + sum (s1 - s2)^2 for covariances that commute.
    let a = gaussian(1, 50_000, &[0.0, 1.0, -2.0], &[1.0, 2.0, 0.5]);
    let b = gaussian(2, 50_000, &[1.0, 1.0, -1.5], &[1.5, 1.0, 0.5]);
    let expected = 1.0 + 0.25 + 0.25 + 1.0;
    let found = frechet::distance(&a, &b).unwrap();
    assert!((found - expected).abs() < 0.06, "{found}, not {expected}");
    assert!((found - frechet::distance(&b, &a).unwrap()).abs() < 1e-9, "it is symmetric");

    // Covariances [[2, 1], [1, 2]] and [[2, -1], [-1, 2]] do not commute with a diagonal one: three exact pairs of points
    // each, so the closed form holds to rounding. tr sqrt(A B) of these two is 2 sqrt(3).
    let corners = |s: f32| {
        let (wide, narrow) = (3f32.sqrt() * 1.5f32.sqrt(), 1.5f32.sqrt());
        let h = 0.5f32.sqrt();
        vec![
            vec![wide * h, s * wide * h],
            vec![-wide * h, -s * wide * h],
            vec![narrow * h, -s * narrow * h],
            vec![-narrow * h, s * narrow * h],
        ]
    };
    let found = frechet::distance(&corners(1.0), &corners(-1.0)).unwrap();
    assert!((found - (8.0 - 4.0 * 3f64.sqrt())).abs() < 1e-5, "{found}");
}

#[test]
fn a_set_is_at_no_distance_from_itself() {
    // Fewer vectors than dimensions, so that the covariance is singular.
    let few = gaussian(3, 20, &[0.5; 64], &[1.0; 64]);
    assert!(frechet::distance(&few, &few).unwrap() < 1e-6);
    assert!(frechet::distance(&few, &gaussian(4, 20, &[0.5; 64], &[1.0; 64])).unwrap() > 1.0);
    assert!(frechet::distance(&few[..1], &few).is_err());
    assert!(frechet::distance(&few, &gaussian(5, 20, &[0.0; 3], &[1.0; 3])).is_err());
}
