//! Products with matrices of sixteen columns, for attention to long documents. Its products are so
//! small that a general gemm spends as long on planning and packing as on multiplying.

use super::matmul_f32::MatrixView;
use super::simd::{self, F32_LANES, F32x16, Kernel, Simd};

/// The view of a panel `[rows, 16]`.
pub fn panel_view(panel: &[F32x16]) -> MatrixView<'_> {
    MatrixView::dense(bytemuck::cast_slice(panel), panel.len(), F32_LANES)
}

/// A matrix as panels of sixteen columns, one after the other, the last one padded with zeros.
pub struct PanelMatrix {
    /// `[cols / 16, rows, 16]`.
    panels: Vec<F32x16>,
    rows: usize,
    cols: usize,
}

impl PanelMatrix {
    /// The zero matrix.
    pub fn new(rows: usize, cols: usize) -> Self {
        Self {
            panels: vec![F32x16::ZERO; rows * cols.div_ceil(F32_LANES)],
            rows,
            cols,
        }
    }

    /// Iterates over the first `rows` rows of each panel.
    pub fn iter(&self, rows: usize) -> impl Iterator<Item = &[F32x16]> {
        let panels = self.panels.chunks_exact(self.rows.max(1));
        panels.map(move |panel| &panel[..rows])
    }

    /// Iterates over the first `rows` rows of each panel.
    pub fn iter_mut(&mut self, rows: usize) -> impl Iterator<Item = &mut [F32x16]> {
        let panels = self.panels.chunks_exact_mut(self.rows.max(1));
        panels.map(move |panel| &mut panel[..rows])
    }

    /// Copies the first `rows` rows from `source`, where they begin `stride` apart, and zeroes the
    /// rows after them up to a multiple of sixteen.
    pub fn read(&mut self, rows: usize, source: &[f32], stride: usize) {
        let padded_rows = rows.next_multiple_of(F32_LANES).min(self.rows);
        let cols = self.cols;
        for (c, panel) in self.iter_mut(padded_rows).enumerate() {
            let (used, unused) = panel.split_at_mut(rows);
            unused.fill(F32x16::ZERO);
            for (i, row) in used.iter_mut().enumerate() {
                let source = &source[i * stride..][..cols][c * F32_LANES..];
                match source.first_chunk() {
                    Some(sixteen) => row.0 = *sixteen,
                    None => row.0[..source.len()].copy_from_slice(source),
                }
            }
        }
    }

    /// Writes the first `rows` rows, row `i` times `factor(i)`, to `out`, where they begin `stride`
    /// apart.
    pub fn write(
        &self,
        rows: usize,
        factor: impl Fn(usize) -> f32,
        out: &mut [f32],
        stride: usize,
    ) {
        for (c, panel) in self.iter(rows).enumerate() {
            for (i, row) in panel.iter().enumerate() {
                let factor = factor(i);
                let scaled = row.0.map(|value| factor * value);
                let out = &mut out[i * stride..][..self.cols][c * F32_LANES..];
                match out.first_chunk_mut() {
                    Some(sixteen) => *sixteen = scaled,
                    None => out.copy_from_slice(&scaled[..out.len()]),
                }
            }
        }
    }

    /// Writes the transpose of the first sixteen rows, times `factor`, to `out` `[cols, 16]`.
    pub fn transpose(&self, factor: f32, out: &mut [F32x16]) {
        for (panel, out) in self.iter(F32_LANES).zip(out.chunks_mut(F32_LANES)) {
            for (d, out) in out.iter_mut().enumerate() {
                for (out, row) in out.0.iter_mut().zip(panel) {
                    *out = factor * row.0[d];
                }
            }
        }
    }
}

/// Writes `a·b` to `out`, for `a` `[rows, inner]`, `b` `[inner, 16]` and `out` `[rows, 16]`. Panics
/// if the shapes differ.
pub fn matmul(out: &mut [F32x16], a: MatrixView, b: &[F32x16]) {
    simd::run(PanelMatmul::new(out, a, b, false));
}

/// Adds `a·b` to `out`. Shapes are those of [`matmul`].
pub fn matmul_add(out: &mut [F32x16], a: MatrixView, b: &[F32x16]) {
    simd::run(PanelMatmul::new(out, a, b, true));
}

struct PanelMatmul<'a> {
    out: &'a mut [F32x16],
    a: MatrixView<'a>,
    b: &'a [F32x16],
    add: bool,
}

impl<'a> PanelMatmul<'a> {
    fn new(out: &'a mut [F32x16], a: MatrixView<'a>, b: &'a [F32x16], add: bool) -> Self {
        assert_eq!((out.len(), b.len()), (a.rows(), a.cols()), "shapes");
        Self { out, a, b, add }
    }

    /// Rows `first..first + R`, each with its sums in one vector.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(&mut self, simd: S, first: usize) {
        let out = &mut self.out[first..first + R];
        let mut sums = [simd.load_f32(&F32x16::ZERO); R];
        for (k, b) in self.b.iter().enumerate() {
            let b = simd.load_f32(b);
            for (r, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `new` has checked that `a` has the rows of `out`, of which the slice
                // above holds these, and as many columns as `b` has rows.
                let a = unsafe { self.a.get_unchecked(first + r, k) };
                *sum = simd.mul_add_f32(a, b, *sum);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = simd.store_f32(if self.add {
                simd.add_f32(simd.load_f32(out), sum)
            } else {
                sum
            });
        }
    }
}

impl Kernel for PanelMatmul<'_> {
    type Output = ();

    /// Tiles of nearly equal height: a short one would wait for the latency of its additions.
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let rows = self.out.len();
        let tiles = rows.div_ceil(S::F32_ACCUMULATORS);
        let mut first = 0;
        for tile in 0..tiles {
            let height = rows / tiles + usize::from(tile < rows % tiles);
            macro_rules! tile_of_height {
                ($($height:literal)*) => {
                    match height {
                        $($height => self.tile::<S, $height>(simd, first),)*
                        _ => unreachable!("at most F32_ACCUMULATORS rows"),
                    }
                };
            }
            tile_of_height!(1 2 3 4 5 6 7 8 9 10 11 12);
            first += height;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::test_override::for_each_cpu;

    /// `a·b`, in f64.
    fn reference(a: MatrixView, b: &[F32x16]) -> Vec<[f64; F32_LANES]> {
        let mut out = vec![[0.0; F32_LANES]; a.rows()];
        for (r, out) in out.iter_mut().enumerate() {
            for (k, b) in b.iter().enumerate() {
                // SAFETY: r < rows and k < cols.
                let a = f64::from(unsafe { a.get_unchecked(r, k) });
                for (out, b) in out.iter_mut().zip(b.0) {
                    *out += a * f64::from(b);
                }
            }
        }
        out
    }

    #[test]
    fn matmul_matches_the_reference_on_every_cpu() {
        let mut rng = fastrand::Rng::with_seed(2);
        let mut random = |count: usize| -> Vec<f32> {
            std::iter::repeat_with(|| rng.f32() - 0.5)
                .take(count)
                .collect()
        };
        for_each_cpu(|cpu| {
            for (rows, inner) in (1..40).zip([1, 16, 5, 40].into_iter().cycle()) {
                let (a, b) = (random(rows * inner), random(inner * F32_LANES));
                let b: Vec<F32x16> = b.as_chunks().0.iter().copied().map(F32x16).collect();
                let transposed: Vec<f32> = (0..rows * inner)
                    .map(|i| a[i % rows * inner + i / rows])
                    .collect();
                let a = MatrixView::dense(&a, rows, inner);
                let mut product = vec![F32x16([f32::NAN; F32_LANES]); rows];
                matmul(&mut product, a, &b);
                let mut twice = product.clone();
                matmul_add(
                    &mut twice,
                    MatrixView::dense(&transposed, inner, rows).t(),
                    &b,
                );
                for (r, expected) in reference(a, &b).into_iter().enumerate() {
                    for (c, expected) in expected.into_iter().enumerate() {
                        let found = (f64::from(product[r].0[c]), f64::from(twice[r].0[c]));
                        assert!(
                            (found.0 - expected).abs() < 1e-5
                                && (found.1 - 2.0 * expected).abs() < 2e-5,
                            "{cpu:?}, [{rows}, {inner}], ({r}, {c}): {found:?}, not {expected}"
                        );
                    }
                }
            }
        });
    }
}
