//! Products of a weight matrix with many columns.
//!
//! Columns lie in groups of eight, `[elements, 8]` each, so that a vector holds one element of
//! eight columns; those that fill no group lie alone, `[elements]` each, and then a vector holds
//! eight elements of a column. Both ways add the same products in the same order.

use std::array::from_mut;

use super::arithmetic::{padded, total, total_of, total_of_four};
use super::lanes::{LANES, Lanes, Weight, Work};
use super::share::{Share, share};
use super::weights::{Matrix, Values};

/// How many columns a group has.
pub const GROUP: usize = 8;

/// The fewest columns for which a group, filled up with zeros, is faster than each alone.
const LEAST_IN_GROUP: usize = 4;

/// How many rows are computed together for a group.
const ROWS: usize = 3;

/// How many numbers are widened to f64 before they meet the groups: few enough to stay near the
/// processor with a group's columns beside them.
const WIDENED: usize = 1536;

/// How columns are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Columns {
    pub groups: usize,
    pub singles: usize,
}

impl Columns {
    /// The layout of `count` columns.
    pub fn new(count: usize) -> Self {
        let (groups, rest) = (count / GROUP, count % GROUP);
        if rest < LEAST_IN_GROUP {
            Self {
                groups,
                singles: rest,
            }
        } else {
            Self {
                groups: groups + 1,
                singles: 0,
            }
        }
    }

    /// How many numbers there are for each element of a column, those that fill up included.
    pub fn width(self) -> usize {
        self.groups * GROUP + self.singles
    }

    /// Where the elements of column `column` are, of `elements`: at the first number, plus so many
    /// for each element.
    pub fn place(self, column: usize, elements: usize) -> (usize, usize) {
        let group = column / GROUP;
        if group < self.groups {
            (group * GROUP * elements + column % GROUP, GROUP)
        } else {
            (
                self.groups * GROUP * elements + (column - self.groups * GROUP) * elements,
                1,
            )
        }
    }

    /// Copies column `column` of `from` to `to`, `[elements]`.
    pub fn read(self, column: usize, from: &[f64], to: &mut [f64]) {
        let (start, step) = self.place(column, to.len());
        for (to, from) in to.iter_mut().zip(from[start..].iter().step_by(step)) {
            *to = *from;
        }
    }

    /// Copies `from`, `[elements]`, to column `column` of `to`.
    pub fn write(self, column: usize, from: &[f64], to: &mut [f64]) {
        let (start, step) = self.place(column, from.len());
        for (to, from) in to[start..].iter_mut().step_by(step).zip(from) {
            *to = *from;
        }
    }
}

/// `out = W·x` for all columns, and each of some matrices with its `out`; by several threads if
/// `shared`. `wide` is room to compute in.
#[inline(always)]
pub fn multiply<L: Lanes, const N: usize>(
    lanes: L,
    shared: bool,
    columns: Columns,
    x: &[f64],
    mut products: [(&Matrix, &mut [f64]); N],
    wide: &mut Vec<f64>,
) {
    if shared {
        return multiply_shared(columns, x, &mut products);
    }
    for (matrix, out) in products {
        multiply_columns(lanes, matrix, columns, x, out, wide);
    }
}

/// `out = W·x` for all columns.
#[inline(always)]
fn multiply_columns<L: Lanes>(
    lanes: L,
    matrix: &Matrix,
    columns: Columns,
    x: &[f64],
    out: &mut [f64],
    wide: &mut Vec<f64>,
) {
    let (rows, cols) = (matrix.rows, matrix.cols);
    let (x_groups, x_singles) = x.split_at(columns.groups * GROUP * cols);
    let (out_groups, out_singles) = out.split_at_mut(columns.groups * GROUP * rows);
    if columns.groups > 0 {
        wide.resize(widened_rows(cols) * cols, 0.0);
        match matrix.values() {
            Values::F32(values) => multiply_groups(lanes, values, cols, x_groups, out_groups, wide),
            Values::F16(values) => multiply_groups(lanes, values, cols, x_groups, out_groups, wide),
        }
    }
    let singles = x_singles
        .chunks_exact(cols)
        .zip(out_singles.chunks_exact_mut(rows));
    for (x, out) in singles {
        match matrix.values() {
            Values::F32(values) => multiply_single(lanes, values, x, out),
            Values::F16(values) => multiply_single(lanes, values, x, out),
        }
    }
}

/// Products of some matrices with the same columns, shared between threads.
fn multiply_shared(columns: Columns, x: &[f64], products: &mut [(&Matrix, &mut [f64])]) {
    match products {
        [] => {}
        [(matrix, out)] => match matrix.values() {
            Values::F32(values) => share_columns(values, matrix.cols, columns, x, out),
            Values::F16(values) => share_columns(values, matrix.cols, columns, x, out),
        },
        _ => {
            let (some, others) = products.split_at_mut(products.len() / 2);
            rayon::join(
                || multiply_shared(columns, x, some),
                || multiply_shared(columns, x, others),
            );
        }
    }
}

fn share_columns<T: Weight + Default + Send + Sync>(
    values: &[T],
    cols: usize,
    columns: Columns,
    x: &[f64],
    out: &mut [f64],
) {
    let rows = values.len() / cols;
    let (x_groups, x_singles) = x.split_at(columns.groups * GROUP * cols);
    let (out_groups, out_singles) = out.split_at_mut(columns.groups * GROUP * rows);
    if columns.groups > 0 {
        share(Groups {
            values,
            cols,
            x: x_groups,
            out: out_groups,
            least: columns.groups.div_ceil(2 * rayon::current_num_threads()),
        });
    }
    let singles = x_singles.chunks_exact(cols);
    for (x, out) in singles.zip(out_singles.chunks_exact_mut(rows)) {
        share(Single { values, x, out });
    }
}

/// A product with some groups, still to be made.
struct Groups<'a, T> {
    values: &'a [T],
    cols: usize,
    x: &'a [f64],
    out: &'a mut [f64],
    /// So many groups are not cut in two: each piece widens all weights.
    least: usize,
}

impl<T: Weight> Work for Groups<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let mut wide = vec![0.0; widened_rows(self.cols) * self.cols];
        multiply_groups(lanes, self.values, self.cols, self.x, self.out, &mut wide);
    }
}

impl<T: Weight + Send + Sync> Share for Groups<'_, T> {
    fn bytes(&self) -> usize {
        size_of_val(self.values) * (self.x.len() / (GROUP * self.cols))
    }

    fn halves(self) -> Result<(Self, Self), Self> {
        let groups = self.x.len() / (GROUP * self.cols);
        if groups <= self.least {
            return Err(self);
        }
        let (x, more_x) = self.x.split_at(groups / 2 * GROUP * self.cols);
        let (out, more_out) = self
            .out
            .split_at_mut(self.out.len() / groups * (groups / 2));
        let upper = Self {
            x: more_x,
            out: more_out,
            ..self
        };
        let lower = Self { x, out, ..self };
        Ok((lower, upper))
    }
}

/// A product with one column, still to be made.
struct Single<'a, T> {
    values: &'a [T],
    x: &'a [f64],
    out: &'a mut [f64],
}

impl<T: Weight + Default> Work for Single<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        multiply_single(lanes, self.values, self.x, self.out);
    }
}

impl<T: Weight + Default + Send + Sync> Share for Single<'_, T> {
    fn bytes(&self) -> usize {
        size_of_val(self.values)
    }

    fn halves(self) -> Result<(Self, Self), Self> {
        if self.out.len() == 1 {
            return Err(self);
        }
        let (x, half) = (self.x, self.out.len() / 2);
        let (values, more_values) = self.values.split_at(half * x.len());
        let (out, more_out) = self.out.split_at_mut(half);
        let upper = Self {
            values: more_values,
            x,
            out: more_out,
        };
        Ok((Self { values, x, out }, upper))
    }
}

/// One column: `out[r] = Σ W[r, i]·x[i]`. Row by row: where weights come from memory, it is the next
/// ones in their order that a processor fetches ahead.
#[inline(always)]
fn multiply_single<L: Lanes, T: Weight + Default>(
    lanes: L,
    values: &[T],
    x: &[f64],
    out: &mut [f64],
) {
    let (x_eights, x_rest) = x.as_chunks::<LANES>();
    let x_rest = padded(x_rest);
    for (out, row) in out.iter_mut().zip(values.chunks_exact(x.len())) {
        let (eights, rest) = row.as_chunks::<LANES>();
        let mut sums = lanes.splat(0.0);
        for (weights, x) in eights.iter().zip(x_eights) {
            sums = lanes.mul_add(T::load(lanes, weights), lanes.load(x), sums);
        }
        if !rest.is_empty() {
            let weights = T::load(lanes, &padded(rest));
            sums = lanes.mul_add(weights, lanes.load(&x_rest), sums);
        }
        *out = total_of(lanes.store(sums));
    }
}

/// All groups: `out[g][r][c] = Σ W[r, i]·x[g][i][c]`.
#[inline(always)]
fn multiply_groups<L: Lanes, T: Weight>(
    lanes: L,
    values: &[T],
    cols: usize,
    x: &[f64],
    out: &mut [f64],
    wide: &mut [f64],
) {
    let rows = values.len() / cols;
    let widened = widened_rows(cols);
    let mut room = [[lanes.splat(0.0); LANES / 2]; ROWS];
    for (panel, values) in values.chunks(widened * cols).enumerate() {
        let wide = &mut wide[..values.len()];
        let (values, rest) = values.as_chunks();
        let (eights, wide_rest) = wide.as_chunks_mut();
        for (wide, values) in eights.iter_mut().zip(values) {
            *wide = lanes.store(T::load(lanes, values));
        }
        for (wide, value) in wide_rest.iter_mut().zip(rest) {
            *wide = f64::from(value.to_f32());
        }
        let groups = x
            .chunks_exact(GROUP * cols)
            .zip(out.chunks_exact_mut(GROUP * rows));
        for (x, out) in groups {
            let (x, _) = x.as_chunks::<GROUP>();
            let (out, _) = out.as_chunks_mut::<GROUP>();
            let out = &mut out[panel * widened..][..wide.len() / cols];
            multiply_panel(lanes, wide, x, &mut room, out);
        }
    }
}

/// How many rows are widened at once.
fn widened_rows(cols: usize) -> usize {
    (WIDENED / cols).next_multiple_of(ROWS).max(ROWS)
}

/// Some rows with one group.
#[inline(always)]
fn multiply_panel<L: Lanes>(
    lanes: L,
    wide: &[f64],
    x: &[[f64; GROUP]],
    room: &mut [[L::V; LANES / 2]; ROWS],
    out: &mut [[f64; GROUP]],
) {
    let (tiles, rest) = out.as_chunks_mut::<ROWS>();
    let (of_tiles, of_rest) = wide.split_at(tiles.len() * ROWS * x.len());
    for (out, rows) in tiles.iter_mut().zip(of_tiles.chunks_exact(ROWS * x.len())) {
        group_dots(lanes, rows, x, room, out);
    }
    let [room, ..] = room;
    for (out, row) in rest.iter_mut().zip(of_rest.chunks_exact(x.len())) {
        group_dots(lanes, row, x, from_mut(room), from_mut(out));
    }
}

/// The dot products of some rows with each column of a group. `room` is for sums that do not fit into
/// registers.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn group_dots<L: Lanes, const ROWS: usize>(
    lanes: L,
    rows: &[f64],
    x: &[[f64; GROUP]],
    room: &mut [[L::V; LANES / 2]; ROWS],
    out: &mut [[f64; GROUP]; ROWS],
) {
    let rows: [&[f64]; ROWS] = std::array::from_fn(|r| &rows[r * x.len()..][..x.len()]);
    if L::SUMS >= ROWS * LANES {
        let sums = some_sums::<L, ROWS, LANES>(lanes, rows, x, 0);
        for r in 0..ROWS {
            out[r] = lanes.store(total(lanes, sums[r]));
        }
    } else {
        // Those sums together that are added first. As a loop: written out, LLVM keeps what becomes of
        // one pair in registers while it adds up the next one in memory.
        for first in 0..LANES / 2 {
            let pairs = some_sums::<L, ROWS, 2>(lanes, rows, x, first);
            for r in 0..ROWS {
                room[r][first] = lanes.add(pairs[r][0], pairs[r][1]);
            }
        }
        for r in 0..ROWS {
            out[r] = lanes.store(total_of_four(lanes, room[r]));
        }
    }
}

/// `N` of the eight sums that each row has: number `first`, and those at equal steps from there.
// By numbers, so that all loops are unrolled and the sums stay in registers.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn some_sums<L: Lanes, const ROWS: usize, const N: usize>(
    lanes: L,
    rows: [&[f64]; ROWS],
    x: &[[f64; GROUP]],
    first: usize,
) -> [[L::V; N]; ROWS] {
    let step = LANES / N;
    let (x_eights, x_rest) = x.as_chunks::<LANES>();
    let eights: [&[[f64; LANES]]; ROWS] =
        std::array::from_fn(|r| &rows[r].as_chunks::<LANES>().0[..x_eights.len()]);
    let mut sums = [[lanes.splat(0.0); N]; ROWS];
    for (k, x) in x_eights.iter().enumerate() {
        for n in 0..N {
            // Of eight, as a constant would be.
            let l = (first + n * step) % LANES;
            let x = lanes.load(&x[l]);
            for r in 0..ROWS {
                sums[r][n] = lanes.mul_add(lanes.splat(eights[r][k][l]), x, sums[r][n]);
            }
        }
    }
    if !x_rest.is_empty() {
        for r in 0..ROWS {
            let rest = rows[r].as_chunks::<LANES>().1;
            // By constant numbers, so that the sums can stay in registers.
            for n in 0..N {
                let l = first + n * step;
                if l < rest.len() {
                    let x = lanes.load(&x_rest[l]);
                    sums[r][n] = lanes.mul_add(lanes.splat(rest[l]), x, sums[r][n]);
                }
            }
        }
    }
    sums
}
