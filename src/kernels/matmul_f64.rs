//! Products of a weight matrix with columns, `[columns, elements]`.
//!
//! A vector holds eight elements of a row of weights or of a column, so that weights and columns
//! are both read as they lie. Some rows and some columns are multiplied together, which takes fewer
//! loads than products. Every result is the sum of the same products in the same order.

use super::math_f64::pad;
use super::simd::{self, Kernel, LANES, Simd, Weight, reduce_sum};

/// How many columns meet all rows before the next ones do: few enough to stay near the processor.
const NEAR: usize = 8;

/// How many weights meet all of these columns before the next ones do.
const PANEL: usize = 2048;

/// `out = W·x` for all columns: `weights` `[rows, cols]`, `x` `[columns, cols]`, `out` `[columns, rows]`.
pub fn matmul<T: Weight>(weights: &[T], cols: usize, x: &[f64], out: &mut [f64]) {
    simd::run(Product::new(weights, cols, x, out));
}

/// A product, still to be made: `out[c, r] = Σ values[r, i]·x[c, i]`.
struct Product<'a, T> {
    /// `[rows, cols]`.
    values: &'a [T],
    cols: usize,
    /// `[columns, cols]`.
    x: &'a [f64],
    /// `[columns, rows]`.
    out: &'a mut [f64],
}

impl<'a, T: Weight> Product<'a, T> {
    fn new(values: &'a [T], cols: usize, x: &'a [f64], out: &'a mut [f64]) -> Self {
        Self {
            values,
            cols,
            x,
            out,
        }
    }
}

impl<T: Weight> Kernel for Product<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        if self.x.len() == self.cols {
            return self.run_single(simd);
        }
        let Self { values, cols, .. } = self;
        let rows = values.len() / cols;
        let near = self.x.chunks(NEAR * cols);
        for (x, out) in near.zip(self.out.chunks_mut(NEAR * rows)) {
            if S::ACCUMULATORS >= 4 * 4 {
                multiply_near::<S, T, 4, 4>(simd, values, cols, x, out);
            } else {
                multiply_near::<S, T, 2, 3>(simd, values, cols, x, out);
            }
        }
    }
}

impl<T: Weight> Product<'_, T> {
    /// One column. F32x16 by row: where weights come from memory, it is the next ones in their order that
    /// a processor fetches ahead.
    #[inline(always)]
    fn run_single<S: Simd>(self, simd: S) {
        let (x_eights, x_rest) = self.x.as_chunks::<LANES>();
        let x_rest = pad(x_rest);
        for (out, row) in self.out.iter_mut().zip(self.values.chunks_exact(self.cols)) {
            let (eights, rest) = row.as_chunks::<LANES>();
            let mut sums = simd.splat(0.0);
            for (weights, x) in eights.iter().zip(x_eights) {
                sums = simd.mul_add(T::load(simd, weights), simd.load(x), sums);
            }
            if !rest.is_empty() {
                let weights = T::load(simd, &pad(rest));
                sums = simd.mul_add(weights, simd.load(&x_rest), sums);
            }
            *out = reduce_sum(simd.store(sums));
        }
    }
}

/// All rows with some columns, `R` rows and `C` columns at a time.
#[inline(always)]
fn multiply_near<S: Simd, T: Weight, const R: usize, const C: usize>(
    simd: S,
    values: &[T],
    cols: usize,
    x: &[f64],
    out: &mut [f64],
) {
    let (rows, eights) = (values.len() / cols, cols.div_ceil(LANES));
    let panel = (PANEL / cols).next_multiple_of(R).max(R);
    let (mut x_room, mut room, mut f32s) = (Vec::new(), Vec::new(), Vec::new());
    let x = in_eights(x, cols, &mut x_room);
    let columns = x.len() / eights;
    for (index, values) in values.chunks(panel * cols).enumerate() {
        let values = in_eights(values, cols, &mut room);
        let values = T::f32s(simd, values, &mut f32s);
        let mut column = 0;
        while column < columns {
            let x = &x[column * eights..];
            let out = &mut out[column * rows + index * panel..];
            column += match columns - column {
                left if left >= C => multiply_panel::<S, R, C>(simd, values, eights, x, out, rows),
                1 => multiply_panel::<S, R, 1>(simd, values, eights, x, out, rows),
                _ => multiply_panel::<S, R, 2>(simd, values, eights, x, out, rows),
            };
        }
    }
}

/// Rows of `cols` numbers, each in whole eights: as they lie if they can be, or else in `room`, filled
/// up with zeros.
#[inline(always)]
fn in_eights<'a, N: Copy + Default>(
    rows: &'a [N],
    cols: usize,
    room: &'a mut Vec<[N; LANES]>,
) -> &'a [[N; LANES]] {
    if cols.is_multiple_of(LANES) {
        return rows.as_chunks().0;
    }
    room.clear();
    for row in rows.chunks_exact(cols) {
        room.extend(row.chunks(LANES).map(pad));
    }
    room
}

/// Some rows with `C` columns, `R` rows at a time. The results of a column are `step` numbers after those
/// of the one before. Gives `C`.
#[inline(always)]
fn multiply_panel<S: Simd, const R: usize, const C: usize>(
    simd: S,
    values: &[[f32; LANES]],
    eights: usize,
    x: &[[f64; LANES]],
    out: &mut [f64],
    step: usize,
) -> usize {
    let x: [_; C] = std::array::from_fn(|c| &x[c * eights..][..eights]);
    let tiles = values.chunks_exact(R * eights);
    let rest = tiles.remainder();
    let mut row = 0;
    for values in tiles {
        multiply_tile::<S, R, C>(simd, values, x, &mut out[row..], step);
        row += R;
    }
    for values in rest.chunks_exact(eights) {
        multiply_tile::<S, 1, C>(simd, values, x, &mut out[row..], step);
        row += 1;
    }
    C
}

/// `R` rows with `C` columns.
#[inline(always)]
fn multiply_tile<S: Simd, const R: usize, const C: usize>(
    simd: S,
    values: &[[f32; LANES]],
    x: [&[[f64; LANES]]; C],
    out: &mut [f64],
    step: usize,
) {
    let eights = x[0].len();
    let values: [_; R] = std::array::from_fn(|r| &values[r * eights..][..eights]);
    let x: [_; C] = std::array::from_fn(|c| &x[c][..eights]);
    let mut sums = [[simd.splat(0.0); R]; C];
    for i in 0..eights {
        let values = std::array::from_fn(|r| &values[r][i]);
        let x = std::array::from_fn(|c| &x[c][i]);
        sums = simd.mul_add_tile(values, x, sums);
    }
    for (sums, out) in sums.into_iter().zip(out.chunks_mut(step)) {
        let mut four = [simd.splat(0.0); 4];
        four[..R].copy_from_slice(&sums);
        out[..R].copy_from_slice(&simd.reduce_sums(four)[..R]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::Scalar;
    use super::*;

    /// The shapes for other processors than the one at hand, too.
    #[test]
    fn tiles_of_any_shape_give_the_bits_of_single_columns() {
        let mut rng = fastrand::Rng::with_seed(5);
        for cols in [1, 8, 13, 48] {
            for rows in [1, 2, 3, 4, 7, PANEL / cols + 6] {
                let values: Vec<f32> = (0..rows * cols).map(|_| rng.f32() - 0.5).collect();
                for columns in 1..=NEAR {
                    let x: Vec<f64> = (0..columns * cols).map(|_| rng.f64() - 0.5).collect();
                    let size = columns * rows;
                    let [mut single, mut small, mut large] = [(); 3].map(|()| vec![0.0; size]);
                    for (x, out) in x.chunks(cols).zip(single.chunks_mut(rows)) {
                        Product::new(&values, cols, x, out).run_single(Scalar);
                    }
                    let simd = Scalar;
                    multiply_near::<_, _, 2, 3>(simd, &values, cols, &x, &mut small);
                    multiply_near::<_, _, 4, 4>(simd, &values, cols, &x, &mut large);
                    assert_eq!(small, single, "{rows}, {cols}, {columns}");
                    assert_eq!(large, single, "{rows}, {cols}, {columns}");
                }
            }
        }
    }
}
