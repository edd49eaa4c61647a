//! Attention to documents of any length, sixteen queries at a time.
//!
//! What belongs to a key and a query lies in the key's row and the query's column of a panel, so that a
//! softmax does the same to all columns. The probabilities are computed again for the gradient, from
//! the logarithms of their sums.

use std::f32::consts::LOG2_E;

use super::head::{Attended, Head, K, Q, V};
use crate::kernels::cpu::dispatch;
use crate::kernels::math_f32::{dot, exp2, larger};
use crate::kernels::matmul_f32::MatrixView;
use crate::kernels::microkernel::{COLUMNS, F32x16, Panels, matmul, matmul_add, matrix};

/// Where the numbers of a head are put together. `T` is the length of the longest document.
pub struct Room {
    /// Scores, and what they become, `[T, 16]`.
    p: Vec<F32x16>,
    /// The gradient of the scores, `[T, 16]`.
    ds: Vec<F32x16>,
    /// The queries of a block, `[16, D]`.
    queries: Panels,
    /// What they attend to, or their gradient, `[16, D]`.
    out: Panels,
    /// The gradient of what they attend to, `[16, D]`.
    dout: Panels,
    /// One of these with rows and columns exchanged, `[D, 16]`.
    columns: Vec<F32x16>,
    /// Keys or values, `[T, D]`.
    keys: Panels,
    dkeys: Panels,
    dvalues: Panels,
}

impl Room {
    /// For documents of up to so many tokens.
    pub fn new(tokens: usize, head_dim: usize) -> Self {
        Self {
            p: vec![F32x16::ZERO; tokens],
            ds: vec![F32x16::ZERO; tokens],
            queries: Panels::new(COLUMNS, head_dim),
            out: Panels::new(COLUMNS, head_dim),
            dout: Panels::new(COLUMNS, head_dim),
            columns: vec![F32x16::ZERO; head_dim],
            keys: Panels::new(tokens, head_dim),
            dkeys: Panels::new(tokens, head_dim),
            dvalues: Panels::new(tokens, head_dim),
        }
    }
}

impl Head {
    /// Tokens `0..count` of a third, `[count, D]`.
    fn third<'a>(&self, qkv: &'a [f32], third: usize, count: usize) -> MatrixView<'a> {
        let data = &qkv[self.at(third, 0)..];
        MatrixView::new(data, count, self.head_dim, 3 * self.n_embd)
    }

    /// The blocks of queries: where each begins, and how many they are. Those of the first see the
    /// fewest keys, so that it is the one to have columns without a query.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let first = self.tokens % COLUMNS;
        let others = (first..self.tokens).step_by(COLUMNS);
        let first = (first > 0).then_some((0, first));
        first.into_iter().chain(others.map(|from| (from, COLUMNS)))
    }

    /// Writes what the tokens attend to, and the logarithms of the sums of their probabilities.
    pub fn blocks_forward(&self, qkv: &[f32], room: &mut Room, attended: &mut Attended) {
        let stride = 3 * self.n_embd;
        let scale = self.scale() * LOG2_E;
        let values = &mut room.keys;
        values.read(self.tokens, &qkv[self.at(V, 0)..], stride);
        for (from, count) in self.blocks() {
            let seen = from + count;
            let p = &mut room.p[..seen];
            room.queries.read(count, &qkv[self.at(Q, from)..], stride);
            room.queries.transpose(scale, &mut room.columns);
            matmul(p, self.third(qkv, K, seen), &room.columns);
            mask(&mut p[from..], f32::NEG_INFINITY);
            let (max, sums) = softmax(p);
            for (out, values) in room.out.iter_mut(COLUMNS).zip(values.iter(seen)) {
                matmul(out, matrix(p).t(), values);
            }
            let out = &mut attended.out[self.out_at(from)..];
            room.out.write(count, |i| 1.0 / sums[i], out, self.n_embd);
            for i in 0..count {
                attended.log_sums[self.query_at(from + i)] = max[i] + sums[i].log2();
            }
        }
    }

    /// With `P = softmax(S)`, `S = scale·Q·Kᵀ`, `O = P·V`: `dV = Pᵀ·dO`, `dP = dO·Vᵀ`, `dS = P∘(dP −
    /// rowsum(dO∘O))`, `dQ = scale·dS·K`, `dK = scale·dSᵀ·Q`. Writes `dQ`, `dK` and `dV` into `dqkv`.
    pub fn blocks_backward(
        &self,
        qkv: &[f32],
        attended: &Attended,
        dout: &[f32],
        room: &mut Room,
        dqkv: &mut [f32],
    ) {
        let (stride, scale) = (3 * self.n_embd, self.scale());
        let tokens = self.tokens;
        room.keys.read(tokens, &qkv[self.at(K, 0)..], stride);
        for gradient in [&mut room.dkeys, &mut room.dvalues] {
            gradient
                .iter_mut(tokens)
                .for_each(|panel| panel.fill(F32x16::ZERO));
        }
        for (from, count) in self.blocks() {
            let seen = from + count;
            let (p, ds) = (&mut room.p[..seen], &mut room.ds[..seen]);
            room.queries.read(count, &qkv[self.at(Q, from)..], stride);
            room.queries.transpose(scale * LOG2_E, &mut room.columns);
            matmul(p, self.third(qkv, K, seen), &room.columns);
            room.dout
                .read(count, &dout[self.out_at(from)..], self.n_embd);
            room.dout.transpose(1.0, &mut room.columns);
            matmul(ds, self.third(qkv, V, seen), &room.columns);
            self.score_gradients(p, ds, attended, dout, (from, count));
            for (dqueries, keys) in room.out.iter_mut(COLUMNS).zip(room.keys.iter(seen)) {
                matmul(dqueries, matrix(ds).t(), keys);
            }
            let dqueries = &mut dqkv[self.at(Q, from)..];
            room.out.write(count, |_| scale, dqueries, stride);
            let queries = room.queries.iter(COLUMNS).zip(room.dkeys.iter_mut(seen));
            queries.for_each(|(queries, dkeys)| matmul_add(dkeys, matrix(ds), queries));
            let douts = room.dout.iter(COLUMNS).zip(room.dvalues.iter_mut(seen));
            douts.for_each(|(dout, dvalues)| matmul_add(dvalues, matrix(p), dout));
        }
        room.dkeys
            .write(tokens, |_| scale, &mut dqkv[self.at(K, 0)..], stride);
        room.dvalues
            .write(tokens, |_| 1.0, &mut dqkv[self.at(V, 0)..], stride);
    }

    /// Turns the scores of a block into probabilities, and `dP` into `dS`.
    fn score_gradients(
        &self,
        p: &mut [F32x16],
        ds: &mut [F32x16],
        attended: &Attended,
        dout: &[f32],
        (from, count): (usize, usize),
    ) {
        dispatch(
            #[inline(always)]
            || {
                let mut log_sums = [0f32; COLUMNS];
                let mut sums = [0f32; COLUMNS];
                for i in 0..count {
                    let at = self.out_at(from + i);
                    let columns = at..at + self.head_dim;
                    sums[i] = dot(&attended.out[columns.clone()], &dout[columns]);
                    log_sums[i] = attended.log_sums[self.query_at(from + i)];
                }
                for (F32x16(p), F32x16(ds)) in p.iter_mut().zip(ds.iter_mut()) {
                    for i in 0..COLUMNS {
                        p[i] = exp2(p[i] - log_sums[i]);
                        ds[i] = p[i] * (ds[i] - sums[i]);
                    }
                }
            },
        );
        mask(&mut p[from..], 0.0);
        mask(&mut ds[from..], 0.0);
    }
}

/// Gives a value to the keys that come later than a query. The rows are those of the block's own keys.
fn mask(rows: &mut [F32x16], value: f32) {
    for (key, row) in rows.iter_mut().enumerate() {
        row.0[..key].fill(value);
    }
}

/// Turns the scores of each column into `2^(score − max)`; gives the largest scores, and the sums.
fn softmax(scores: &mut [F32x16]) -> ([f32; COLUMNS], [f32; COLUMNS]) {
    dispatch(
        #[inline(always)]
        || {
            let mut max = [f32::NEG_INFINITY; COLUMNS];
            for row in &*scores {
                for (max, &score) in max.iter_mut().zip(&row.0) {
                    *max = larger(*max, score);
                }
            }
            let mut sums = [0f32; COLUMNS];
            for row in scores {
                for i in 0..COLUMNS {
                    row.0[i] = exp2(row.0[i] - max[i]);
                    sums[i] += row.0[i];
                }
            }
            (max, sums)
        },
    )
}
