//! Products with matrices of sixteen columns, for attention to long documents: its products are too
//! small for a general one, which takes as long to choose how it goes about them, and to copy what it
//! reads to where it wants it.

use super::matmul_f32::MatrixView;
use crate::kernels::cpu::Cpu;
#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};

/// How many columns a panel has.
pub const COLUMNS: usize = 16;

/// A row of a panel: a matrix of sixteen columns, each of whose rows fills a line of the cache.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct F32x16(pub [f32; COLUMNS]);

impl F32x16 {
    pub const ZERO: Self = Self([0.0; COLUMNS]);
}

/// A panel as what may be the first factor of a product.
pub fn matrix(panel: &[F32x16]) -> MatrixView<'_> {
    MatrixView::dense(bytemuck::cast_slice(panel), panel.len(), COLUMNS)
}

/// A matrix as panels side by side, the last of which is filled up with zeros.
pub struct Panels {
    /// Panel after panel.
    panels: Vec<F32x16>,
    rows: usize,
    cols: usize,
}

impl Panels {
    /// Zeros.
    pub fn new(rows: usize, cols: usize) -> Self {
        Self {
            panels: vec![F32x16::ZERO; rows * cols.div_ceil(COLUMNS)],
            rows,
            cols,
        }
    }

    /// Its panels, each with their first rows alone.
    pub fn iter(&self, rows: usize) -> impl Iterator<Item = &[F32x16]> {
        let panels = self.panels.chunks_exact(self.rows.max(1));
        panels.map(move |panel| &panel[..rows])
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self, rows: usize) -> impl Iterator<Item = &mut [F32x16]> {
        let panels = self.panels.chunks_exact_mut(self.rows.max(1));
        panels.map(move |panel| &mut panel[..rows])
    }

    /// Turns the first rows into those that begin `stride` apart in `from`, and the others of their
    /// last sixteen into zeros.
    pub fn read(&mut self, rows: usize, from: &[f32], stride: usize) {
        let (all, cols) = (rows.next_multiple_of(COLUMNS).min(self.rows), self.cols);
        for (c, panel) in self.iter_mut(all).enumerate() {
            let (used, unused) = panel.split_at_mut(rows);
            unused.fill(F32x16::ZERO);
            for (i, row) in used.iter_mut().enumerate() {
                let from = &from[i * stride..][..cols][c * COLUMNS..];
                match from.first_chunk() {
                    Some(sixteen) => row.0 = *sixteen,
                    None => row.0[..from.len()].copy_from_slice(from),
                }
            }
        }
    }

    /// Writes the first rows, each with a factor, to where rows begin `stride` apart in `to`.
    pub fn write(&self, rows: usize, factor: impl Fn(usize) -> f32, to: &mut [f32], stride: usize) {
        for (c, panel) in self.iter(rows).enumerate() {
            for (i, row) in panel.iter().enumerate() {
                let factor = factor(i);
                let scaled = row.0.map(|value| factor * value);
                let to = &mut to[i * stride..][..self.cols][c * COLUMNS..];
                match to.first_chunk_mut() {
                    Some(sixteen) => *sixteen = scaled,
                    None => to.copy_from_slice(&scaled[..to.len()]),
                }
            }
        }
    }

    /// Sixteen rows as a panel of as many columns, each with a factor.
    pub fn transpose(&self, factor: f32, to: &mut [F32x16]) {
        for (panel, to) in self.iter(COLUMNS).zip(to.chunks_mut(COLUMNS)) {
            for (d, to) in to.iter_mut().enumerate() {
                for (to, row) in to.0.iter_mut().zip(panel) {
                    *to = factor * row.0[d];
                }
            }
        }
    }
}

/// `out = a·b`.
pub fn matmul(out: &mut [F32x16], a: MatrixView, b: &[F32x16]) {
    multiply(out, a, b, false);
}

/// `out += a·b`.
pub fn matmul_add(out: &mut [F32x16], a: MatrixView, b: &[F32x16]) {
    multiply(out, a, b, true);
}

fn multiply(out: &mut [F32x16], a: MatrixView, b: &[F32x16], add: bool) {
    assert_eq!((out.len(), b.len()), (a.rows(), a.cols()), "sizes");
    let product = Product { out, a, b, add };
    match Cpu::detect() {
        #[cfg(target_arch = "x86_64")]
        Cpu::Avx512(simd) => pulp::Simd::vectorize(
            simd,
            #[inline(always)]
            || product.run(simd),
        ),
        #[cfg(target_arch = "x86_64")]
        Cpu::Avx2(simd) => pulp::Simd::vectorize(
            simd,
            #[inline(always)]
            || product.run(simd),
        ),
        Cpu::Scalar => product.run(Scalar),
    }
}

/// `out` has as many rows as `a`, and `b` as many as `a` has columns.
struct Product<'a> {
    out: &'a mut [F32x16],
    a: MatrixView<'a>,
    b: &'a [F32x16],
    add: bool,
}

impl Product<'_> {
    /// As many rows at a time as have their sums in registers, and about as many each time: a few that
    /// are left would wait for one another's sums.
    #[inline(always)]
    fn run<S: F32x16Arithmetic>(mut self, simd: S) {
        let rows = self.out.len();
        let tiles = rows.div_ceil(S::ACCUMULATORS);
        let (height, higher) = (rows / tiles, rows % tiles);
        let mut first = 0;
        for tile in 0..tiles {
            let height = height + usize::from(tile < higher);
            match height {
                1 => self.tile::<S, 1>(simd, first),
                2 => self.tile::<S, 2>(simd, first),
                3 => self.tile::<S, 3>(simd, first),
                4 => self.tile::<S, 4>(simd, first),
                5 => self.tile::<S, 5>(simd, first),
                6 => self.tile::<S, 6>(simd, first),
                7 => self.tile::<S, 7>(simd, first),
                8 => self.tile::<S, 8>(simd, first),
                9 => self.tile::<S, 9>(simd, first),
                10 => self.tile::<S, 10>(simd, first),
                11 => self.tile::<S, 11>(simd, first),
                12 => self.tile::<S, 12>(simd, first),
                _ => unreachable!("more rows than there are sums"),
            }
            first += height;
        }
    }

    /// `R` rows from row `first`.
    #[inline(always)]
    fn tile<S: F32x16Arithmetic, const R: usize>(&mut self, simd: S, first: usize) {
        let out = &mut self.out[first..first + R];
        let mut sums = [simd.load(&F32x16::ZERO); R];
        for (k, b) in self.b.iter().enumerate() {
            let b = simd.load(b);
            for (r, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `a` has as many rows as `out`, of which the slice above holds these, and as
                // many columns as `b` has rows.
                let a = unsafe { self.a.get_unchecked(first + r, k) };
                *sum = simd.mul_add(a, b, *sum);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = simd.store(if self.add {
                simd.add(simd.load(out), sum)
            } else {
                sum
            });
        }
    }
}

/// What a kind of processor does with a row.
trait F32x16Arithmetic: Copy {
    /// As many bytes as a row.
    type Vector: bytemuck::Pod;

    /// How many rows can be summed up in registers.
    const ACCUMULATORS: usize;

    #[inline(always)]
    fn load(self, row: &F32x16) -> Self::Vector {
        pulp::cast(*row)
    }
    #[inline(always)]
    fn store(self, v: Self::Vector) -> F32x16 {
        pulp::cast(v)
    }
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a·b + c`, rounded once where the processor can.
    fn mul_add(self, a: f32, b: Self::Vector, c: Self::Vector) -> Self::Vector;
}

/// A processor of which nothing is known.
#[derive(Clone, Copy)]
struct Scalar;

/// Whether every processor of this kind multiplies and adds in one instruction.
const FUSES: bool = cfg!(target_arch = "aarch64");

impl F32x16Arithmetic for Scalar {
    type Vector = [f32; COLUMNS];
    const ACCUMULATORS: usize = if FUSES { 6 } else { 3 };

    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: f32, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| {
            if FUSES {
                a.mul_add(b[i], c[i])
            } else {
                a * b[i] + c[i]
            }
        })
    }
}

#[cfg(target_arch = "x86_64")]
impl F32x16Arithmetic for V4 {
    type Vector = std::arch::x86_64::__m512;
    const ACCUMULATORS: usize = 12;

    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        self.avx512f._mm512_add_ps(a, b)
    }
    #[inline(always)]
    fn mul_add(self, a: f32, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        let a = self.avx512f._mm512_set1_ps(a);
        self.avx512f._mm512_fmadd_ps(a, b, c)
    }
}

#[cfg(target_arch = "x86_64")]
impl F32x16Arithmetic for V3 {
    type Vector = [std::arch::x86_64::__m256; 2];
    const ACCUMULATORS: usize = 6;

    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        let add = self.avx;
        [add._mm256_add_ps(a[0], b[0]), add._mm256_add_ps(a[1], b[1])]
    }
    #[inline(always)]
    fn mul_add(self, a: f32, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        let (a, fma) = (self.avx._mm256_set1_ps(a), self.fma);
        [
            fma._mm256_fmadd_ps(a, b[0], c[0]),
            fma._mm256_fmadd_ps(a, b[1], c[1]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::test_override::CpuOverride;

    #[test]
    fn products_are_those_of_a_plain_loop() {
        let mut rng = fastrand::Rng::with_seed(2);
        let mut numbers = |count: usize| -> Vec<f32> {
            std::iter::repeat_with(|| rng.f32() - 0.5)
                .take(count)
                .collect()
        };
        CpuOverride::for_each(|width| {
            for (rows, inner) in (1..40).zip([1, 16, 5, 40].into_iter().cycle()) {
                let (a, b) = (numbers(rows * inner), numbers(inner * COLUMNS));
                let b: Vec<F32x16> = b.as_chunks().0.iter().copied().map(F32x16).collect();
                let transposed: Vec<f32> = (0..rows * inner)
                    .map(|at| a[at % rows * inner + at / rows])
                    .collect();
                let a = MatrixView::dense(&a, rows, inner);
                let mut once = vec![F32x16([f32::NAN; COLUMNS]); rows];
                matmul(&mut once, a, &b);
                let mut twice = once.clone();
                matmul_add(
                    &mut twice,
                    MatrixView::dense(&transposed, inner, rows).t(),
                    &b,
                );
                for r in 0..rows {
                    for c in 0..COLUMNS {
                        let exact: f64 = (0..inner)
                            // SAFETY: the row and the column are the matrix's.
                            .map(|k| f64::from(unsafe { a.get_unchecked(r, k) } * b[k].0[c]))
                            .sum();
                        let found = (f64::from(once[r].0[c]), f64::from(twice[r].0[c]));
                        assert!(
                            (found.0 - exact).abs() < 1e-5 && (found.1 - 2.0 * exact).abs() < 2e-5,
                            "{width:?}, {rows} by {inner}, ({r}, {c}): {found:?}, not {exact}"
                        );
                    }
                }
            }
        });
    }
}
