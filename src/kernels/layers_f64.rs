//! RMSNorm, ReLU and residual addition of inference, in f64.

use super::math_f64::{max, pad};
use super::simd::{Simd, reduce_sum};

/// The epsilon of RMS normalization, added to the mean square. Training uses it, too.
pub const RMS_NORM_EPS: f64 = 1e-5;

/// Divides every column of `x` `[columns, elements]` by its root mean square.
#[inline(always)]
pub fn rms_norm<S: Simd>(simd: S, elements: usize, x: &[f64], out: &mut [f64]) {
    let columns = x.chunks_exact(elements);
    for (x, out) in columns.zip(out.chunks_exact_mut(elements)) {
        let (vectors, rest) = x.as_chunks();
        let mut sums = simd.splat(0.0);
        for vector in vectors.iter().chain([&pad(rest)]) {
            let vector = simd.load(vector);
            sums = simd.mul_add(vector, vector, sums);
        }
        let mean = reduce_sum(simd.store(sums)) / elements as f64;
        let scale = 1.0 / (mean + RMS_NORM_EPS).sqrt();
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * scale;
        }
    }
}

/// Replaces negative elements by 0.
#[inline(always)]
pub fn relu<S: Simd>(simd: S, x: &mut [f64]) {
    let (vectors, rest) = x.as_chunks_mut();
    for vector in vectors {
        *vector = simd.store(simd.max(simd.load(vector), simd.splat(0.0)));
    }
    for x in rest {
        *x = max(*x, 0.0);
    }
}

/// Adds `other` to `x`, element by element.
#[inline(always)]
pub fn add_assign(x: &mut [f64], other: &[f64]) {
    for (x, other) in x.iter_mut().zip(other) {
        *x += other;
    }
}

#[cfg(test)]
mod tests {
    use super::super::cpu::test_override::for_each_cpu;
    use super::super::simd::{self, Kernel};
    use super::*;

    struct NormAndRelu<'a> {
        elements: usize,
        x: &'a [f64],
    }

    impl Kernel for NormAndRelu<'_> {
        type Output = (Vec<f64>, Vec<f64>);

        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let mut normed = vec![0.0; self.x.len()];
            rms_norm(simd, self.elements, self.x, &mut normed);
            let mut rectified = self.x.to_vec();
            relu(simd, &mut rectified);
            (normed, rectified)
        }
    }

    fn reference(elements: usize, x: &[f64]) -> Vec<f64> {
        let norm = |column: &[f64]| {
            let mean = column.iter().map(|x| x * x).sum::<f64>() / elements as f64;
            let rms = (mean + RMS_NORM_EPS).sqrt();
            column.iter().map(|x| x / rms).collect::<Vec<_>>()
        };
        x.chunks_exact(elements).flat_map(norm).collect()
    }

    #[test]
    fn rms_norm_and_relu_match_the_reference_with_the_same_bits_on_every_cpu() {
        let mut rng = fastrand::Rng::with_seed(2);
        for elements in 1..40 {
            let x: Vec<f64> = (0..3 * elements).map(|_| rng.f64() * 4.0 - 2.0).collect();
            let mut results = Vec::new();
            for_each_cpu(|_| {
                let (normed, rectified) = simd::run(NormAndRelu { elements, x: &x });
                for (normed, expected) in normed.iter().zip(reference(elements, &x)) {
                    assert!((normed - expected).abs() < 1e-14);
                }
                assert!(
                    rectified
                        .iter()
                        .eq(x.iter().map(|x| x.max(0.0)).collect::<Vec<_>>().iter())
                );
                results.push((normed, rectified));
            });
            assert!(results.windows(2).all(|r| r[0] == r[1]), "{elements}");
        }
    }
}
