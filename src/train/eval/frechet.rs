//! The Frechet distance between two sets of pictures, each taken as a Gaussian in some encoder's features.
//!
//! It is never called FID here: that name belongs to the features of one Inception network. Whoever reports a number says
//! whose features it was measured in, and from how many pictures: small sets are biased upward, so only distances between
//! sets of the same size may be compared.

use crate::{Error, Result};

/// A Gaussian of some dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct Gaussian {
    mean: Vec<f64>,
    covariance: Matrix,
}

impl Gaussian {
    /// The Gaussian with the mean and the unbiased covariance of `features`, one vector a picture.
    ///
    /// # Errors
    /// [`Error::Invalid`] for fewer than two vectors, or vectors of several lengths.
    pub fn of(features: &[Vec<f32>]) -> Result<Self> {
        let invalid = |why: &str| Err(Error::Invalid { parameter: "features", why: why.into() });
        let (count, size) = (features.len(), features.first().map_or(0, Vec::len));
        if count < 2 || size == 0 {
            return invalid("a covariance needs two pictures or more");
        }
        if features.iter().any(|feature| feature.len() != size) {
            return invalid("have several lengths");
        }
        let mut mean = vec![0.0; size];
        for feature in features {
            mean.iter_mut().zip(feature).for_each(|(mean, value)| *mean += f64::from(*value) / count as f64);
        }
        let mut covariance = Matrix::zeros(size);
        for feature in features {
            let centred: Vec<f64> = feature.iter().zip(&mean).map(|(value, mean)| f64::from(*value) - mean).collect();
            for (row, a) in covariance.values.chunks_exact_mut(size).zip(&centred) {
                row.iter_mut().zip(&centred).for_each(|(sum, b)| *sum += a * b / (count - 1) as f64);
            }
        }
        Ok(Self { mean, covariance })
    }

    /// The squared Frechet (2-Wasserstein) distance, which is what the FID is in its own features (Dowson and Landau 1982):
    ///
    /// `|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1^(1/2) C2 C1^(1/2))^(1/2))`
    ///
    /// # Errors
    /// [`Error::Invalid`] if the dimensions differ: the features are of two encoders.
    pub fn distance(&self, other: &Self) -> Result<f64> {
        if self.mean.len() != other.mean.len() {
            return Err(Error::Invalid { parameter: "features", why: "have different lengths".into() });
        }
        let root = self.covariance.square_root();
        let (cross, _) = root.times(&other.covariance).times(&root).eigen();
        let cross: f64 = cross.iter().map(|value| value.max(0.0).sqrt()).sum();
        let means: f64 = self.mean.iter().zip(&other.mean).map(|(a, b)| (a - b).powi(2)).sum();
        Ok((means + self.covariance.trace() + other.covariance.trace() - 2.0 * cross).max(0.0))
    }
}

/// The squared Frechet distance between two sets of features.
///
/// # Errors
/// As [`Gaussian::of`] and [`Gaussian::distance`].
pub fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> Result<f64> {
    Gaussian::of(a)?.distance(&Gaussian::of(b)?)
}

/// A square matrix, row by row.
#[derive(Debug, Clone, PartialEq)]
struct Matrix {
    size: usize,
    values: Vec<f64>,
}

/// Rounds of rotations after which [`Matrix::eigen`] stops; a dozen suffice for a hundred dimensions.
const SWEEPS: usize = 60;

impl Matrix {
    fn zeros(size: usize) -> Self {
        Self { size, values: vec![0.0; size * size] }
    }

    fn identity(size: usize) -> Self {
        let mut matrix = Self::zeros(size);
        matrix.values.iter_mut().step_by(size + 1).for_each(|value| *value = 1.0);
        matrix
    }

    fn trace(&self) -> f64 {
        self.values.iter().step_by(self.size + 1).sum()
    }

    fn times(&self, other: &Self) -> Self {
        let mut product = Self::zeros(self.size);
        for (sums, row) in product.values.chunks_exact_mut(self.size).zip(self.values.chunks_exact(self.size)) {
            for (factor, other) in row.iter().zip(other.values.chunks_exact(self.size)) {
                sums.iter_mut().zip(other).for_each(|(sum, value)| *sum += factor * value);
            }
        }
        product
    }

    /// Eigenvalues and eigenvectors, one a row, of a symmetric matrix, by cyclic Jacobi rotations (Golub and Van Loan,
    /// "Matrix Computations", 8.5): slow for large matrices, and exact to rounding.
    fn eigen(&self) -> (Vec<f64>, Self) {
        let size = self.size;
        let (mut a, mut vectors) = (self.clone(), Self::identity(size));
        let total: f64 = a.values.iter().map(|value| value * value).sum();
        for _ in 0..SWEEPS {
            let off = |(at, value): (usize, &f64)| if at % (size + 1) == 0 { 0.0 } else { value * value };
            if a.values.iter().enumerate().map(off).sum::<f64>() <= total * 1e-28 {
                break;
            }
            for p in 0..size {
                for q in p + 1..size {
                    let (app, aqq, apq) = (a.values[p * size + p], a.values[q * size + q], a.values[p * size + q]);
                    if apq == 0.0 {
                        continue;
                    }
                    let tau = (aqq - app) / (2.0 * apq);
                    let t = tau.signum() / (tau.abs() + (1.0 + tau * tau).sqrt());
                    let c = 1.0 / (1.0 + t * t).sqrt();
                    let s = t * c;
                    a.rotate_rows(p, q, c, s);
                    for row in a.values.chunks_exact_mut(size) {
                        (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                    }
                    vectors.rotate_rows(p, q, c, s);
                }
            }
        }
        (a.values.into_iter().step_by(size + 1).collect(), vectors)
    }

    fn rotate_rows(&mut self, p: usize, q: usize, c: f64, s: f64) {
        let (before, after) = self.values.split_at_mut(q * self.size);
        for (x, y) in before[p * self.size..][..self.size].iter_mut().zip(after) {
            (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
        }
    }

    /// The symmetric square root of a positive semidefinite matrix.
    fn square_root(&self) -> Self {
        let (values, vectors) = self.eigen();
        let mut scaled = vectors.clone();
        for (row, value) in scaled.values.chunks_exact_mut(self.size).zip(values) {
            // Rounding may leave an eigenvalue a little below 0.
            row.iter_mut().for_each(|v| *v *= value.max(0.0).sqrt());
        }
        vectors.transposed().times(&scaled)
    }

    fn transposed(&self) -> Self {
        let at = |i: usize| self.values[i % self.size * self.size + i / self.size];
        Self { size: self.size, values: (0..self.values.len()).map(at).collect() }
    }
}
