//! The product of a weight matrix `[rows, cols]` with columns `[columns, cols]`, in f64.
//!
//! A vector holds eight consecutive elements of a row of weights or of a column, so that both are
//! read in their own layout. Every result is summed in one order, whatever the tile it is in: the
//! elements `i` with the same `i mod 8` in one lane, with fused multiply-add, then [`reduce_sum`].

use super::math_f64::pad;
use super::simd::{self, Kernel, LANES, Simd, Weight, reduce_sum};

/// Columns multiplied with all rows before the next ones are: few enough to stay in the L1 cache.
const COLUMN_TILE: usize = 8;

/// Weights multiplied with all of these columns before the next ones are.
const WEIGHT_TILE: usize = 2048;

/// Computes `out[c, r] = Σ weights[r, i]·x[c, i]` for `weights` `[rows, cols]`, `x` `[columns,
/// cols]` and `out` `[columns, rows]`.
pub fn matmul<T: Weight>(weights: &[T], cols: usize, x: &[f64], out: &mut [f64]) {
    simd::run(Matmul {
        weights,
        cols,
        x,
        out,
    });
}

struct Matmul<'a, T> {
    weights: &'a [T],
    cols: usize,
    x: &'a [f64],
    out: &'a mut [f64],
}

impl<T: Weight> Kernel for Matmul<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self {
            weights,
            cols,
            x,
            out,
        } = self;
        if x.len() == cols {
            return single_column(simd, weights, x, out);
        }
        let rows = weights.len() / cols;
        let x = x.chunks(COLUMN_TILE * cols);
        for (x, out) in x.zip(out.chunks_mut(COLUMN_TILE * rows)) {
            if S::ACCUMULATORS >= 4 * 4 {
                column_tile::<S, T, 4, 4>(simd, weights, cols, x, out);
            } else {
                column_tile::<S, T, 2, 3>(simd, weights, cols, x, out);
            }
        }
    }
}

/// One column, row by row: in this order the CPU prefetches weights from memory.
#[inline(always)]
fn single_column<S: Simd, T: Weight>(simd: S, weights: &[T], x: &[f64], out: &mut [f64]) {
    let (x_vectors, x_rest) = x.as_chunks::<LANES>();
    let x_rest = pad(x_rest);
    for (out, row) in out.iter_mut().zip(weights.chunks_exact(x.len())) {
        let (vectors, rest) = row.as_chunks::<LANES>();
        let mut sums = simd.splat(0.0);
        for (weights, x) in vectors.iter().zip(x_vectors) {
            sums = simd.mul_add(T::load(simd, weights), simd.load(x), sums);
        }
        if !rest.is_empty() {
            let weights = T::load(simd, &pad(rest));
            sums = simd.mul_add(weights, simd.load(&x_rest), sums);
        }
        *out = reduce_sum(simd.store(sums));
    }
}

/// All rows with up to [`COLUMN_TILE`] columns, in tiles of `R` rows and `C` columns.
#[inline(always)]
fn column_tile<S: Simd, T: Weight, const R: usize, const C: usize>(
    simd: S,
    weights: &[T],
    cols: usize,
    x: &[f64],
    out: &mut [f64],
) {
    let (rows, vectors) = (weights.len() / cols, cols.div_ceil(LANES));
    let tile_rows = (WEIGHT_TILE / cols).next_multiple_of(R).max(R);
    let (mut x_scratch, mut scratch, mut f32_scratch) = (Vec::new(), Vec::new(), Vec::new());
    let x = as_vectors(x, cols, &mut x_scratch);
    let columns = x.len() / vectors;
    for (tile, weights) in weights.chunks(tile_rows * cols).enumerate() {
        let weights = as_vectors(weights, cols, &mut scratch);
        let weights = T::to_f32s(simd, weights, &mut f32_scratch);
        let mut column = 0;
        while column < columns {
            let x = &x[column * vectors..];
            let out = &mut out[column * rows + tile * tile_rows..];
            column += match columns - column {
                left if left >= C => weight_tile::<S, R, C>(simd, weights, vectors, x, out, rows),
                1 => weight_tile::<S, R, 1>(simd, weights, vectors, x, out, rows),
                _ => weight_tile::<S, R, 2>(simd, weights, vectors, x, out, rows),
            };
        }
    }
}

/// Returns rows of `cols` elements as vectors: in place where `cols` is a multiple of eight, else
/// copied into `scratch`, each padded with zeros.
#[inline(always)]
fn as_vectors<'a, N: Copy + Default>(
    rows: &'a [N],
    cols: usize,
    scratch: &'a mut Vec<[N; LANES]>,
) -> &'a [[N; LANES]] {
    if cols.is_multiple_of(LANES) {
        return rows.as_chunks().0;
    }
    scratch.clear();
    for row in rows.chunks_exact(cols) {
        scratch.extend(row.chunks(LANES).map(pad));
    }
    scratch
}

/// All rows of `weights` with `C` columns, `R` rows at a time. The results of a column begin
/// `stride` after those of the one before. Returns `C`.
#[inline(always)]
fn weight_tile<S: Simd, const R: usize, const C: usize>(
    simd: S,
    weights: &[[f32; LANES]],
    vectors: usize,
    x: &[[f64; LANES]],
    out: &mut [f64],
    stride: usize,
) -> usize {
    let x: [_; C] = std::array::from_fn(|c| &x[c * vectors..][..vectors]);
    let tiles = weights.chunks_exact(R * vectors);
    let rest = tiles.remainder();
    let mut row = 0;
    for weights in tiles {
        register_tile::<S, R, C>(simd, weights, x, &mut out[row..], stride);
        row += R;
    }
    for weights in rest.chunks_exact(vectors) {
        register_tile::<S, 1, C>(simd, weights, x, &mut out[row..], stride);
        row += 1;
    }
    C
}

/// `R` rows with `C` columns, whose `R·C` sums stay in registers.
#[inline(always)]
fn register_tile<S: Simd, const R: usize, const C: usize>(
    simd: S,
    weights: &[[f32; LANES]],
    x: [&[[f64; LANES]]; C],
    out: &mut [f64],
    stride: usize,
) {
    let vectors = x[0].len();
    let weights: [_; R] = std::array::from_fn(|r| &weights[r * vectors..][..vectors]);
    let x: [_; C] = std::array::from_fn(|c| &x[c][..vectors]);
    let mut sums = [[simd.splat(0.0); R]; C];
    for i in 0..vectors {
        let weights = std::array::from_fn(|r| &weights[r][i]);
        let x = std::array::from_fn(|c| &x[c][i]);
        sums = simd.mul_add_tile(weights, x, sums);
    }
    for (sums, out) in sums.into_iter().zip(out.chunks_mut(stride)) {
        let mut quad = [simd.splat(0.0); 4];
        quad[..R].copy_from_slice(&sums);
        out[..R].copy_from_slice(&simd.reduce_sums(quad)[..R]);
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::super::simd::Scalar;
    use super::*;
    use crate::kernels::cpu::test_override::for_each_cpu;

    /// The product in the order of the kernel, element by element.
    fn reference<T: Weight>(weights: &[T], cols: usize, x: &[f64]) -> Vec<f64> {
        let mut out = Vec::new();
        for x in x.chunks_exact(cols) {
            for row in weights.chunks_exact(cols) {
                let mut lanes = [0.0; LANES];
                for (i, (weight, x)) in row.iter().zip(x).enumerate() {
                    let sum = &mut lanes[i % LANES];
                    *sum = f64::from(weight.to_f32()).mul_add(*x, *sum);
                }
                out.push(reduce_sum(lanes));
            }
        }
        out
    }

    /// Tiles of every kind of CPU run on every other one, too.
    #[test]
    fn matmul_has_the_bits_of_the_reference_on_every_cpu() {
        let mut rng = fastrand::Rng::with_seed(5);
        for cols in [1, 8, 13, 48] {
            for rows in [1, 2, 3, 4, 7, WEIGHT_TILE / cols + 6] {
                let weights: Vec<f32> = (0..rows * cols).map(|_| rng.f32() - 0.5).collect();
                let halves: Vec<f16> = weights.iter().map(|&w| f16::from_f32(w)).collect();
                for columns in 1..=COLUMN_TILE + 1 {
                    let x: Vec<f64> = (0..columns * cols).map(|_| rng.f64() - 0.5).collect();
                    let expected = reference(&weights, cols, &x);
                    let expected_halves = reference(&halves, cols, &x);
                    let mut out = vec![0.0; columns * rows];
                    for_each_cpu(|cpu| {
                        matmul(&weights, cols, &x, &mut out);
                        assert_eq!(out, expected, "[{rows}, {cols}], {columns}, {cpu:?}");
                        matmul(&halves, cols, &x, &mut out);
                        assert_eq!(out, expected_halves, "[{rows}, {cols}], {columns}, {cpu:?}");
                    });
                    column_tile::<_, _, 4, 4>(Scalar, &weights, cols, &x, &mut out);
                    assert_eq!(out, expected, "[{rows}, {cols}], {columns}, 4×4");
                }
            }
        }
    }
}
