//! The pass of some tokens through the model.

use super::kv_cache::HeadShard;
use super::thread_group::{Barrier, Rank};
use super::weights::Matrix;
use super::{InferenceGpt, Layer};
use crate::kernels::RMS_NORM_EPS;
use crate::kernels::math_f64::{max, pad};
use crate::kernels::simd::{Kernel, Simd, reduce_sum};

/// A pass of some columns through the model, as one member of a team makes it.
pub struct Forward<'a> {
    pub model: &'a InferenceGpt,
    pub member: Rank<'a>,
    pub space: &'a mut Scratch,
    pub runs: Vec<HeadShard<'a>>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        self.embed(simd);
        for (index, layer) in self.model.layers.iter().enumerate() {
            self.attention_block(simd, index, layer);
            self.mlp_block(simd, layer);
        }
        self.logits();
    }
}

impl Forward<'_> {
    /// `x = rms_norm(wte[token] + wpe[position])`.
    #[inline(always)]
    fn embed<S: Simd>(&mut self, simd: S) {
        let Self {
            model, space, runs, ..
        } = self;
        space.normed.fill(0.0);
        let n_embd = model.meta.config.n_embd;
        let mut columns = space.normed.chunks_exact_mut(n_embd);
        for run in runs.iter() {
            let positions = run.positions();
            let fit = positions.end <= model.meta.config.block_size;
            assert!(fit, "the context is full");
            for ((position, &token), column) in positions.zip(run.tokens).zip(&mut columns) {
                model.wte.add_row(token as usize, column);
                model.wpe.add_row(position, column);
            }
        }
        rms_norm(simd, n_embd, &space.normed, &mut space.x);
    }

    /// `x += wo · attention(rms_norm(x))`.
    #[inline(always)]
    fn attention_block<S: Simd>(&mut self, simd: S, index: usize, layer: &Layer) {
        let config = self.model.meta.config;
        let heads = self.member.share(config.n_head);
        let own = heads.start * config.head_dim()..heads.end * config.head_dim();
        let space = &mut *self.space;
        rms_norm(simd, config.n_embd, &space.x, &mut space.normed);
        for (matrix, out) in [
            (&layer.attn_wq, &mut space.query),
            (&layer.attn_wk, &mut space.key),
            (&layer.attn_wv, &mut space.value),
        ] {
            matrix.matmul(own.clone(), &space.normed, out);
        }
        self.attend(simd, index, heads.len());
        let Scratch {
            x,
            normed,
            attended,
            part,
            ..
        } = &mut *self.space;
        let shape = [x.len() / config.n_embd, config.n_embd];
        self.member.all_gather(part, own, shape, attended);
        product(&mut self.member, &layer.attn_wo, attended, part, normed);
        add(x, normed);
    }

    /// Remembers the keys and values of all columns, and lets the queries attend to them, which makes
    /// `part`.
    #[inline(always)]
    fn attend<S: Simd>(&mut self, simd: S, layer: usize, heads: usize) {
        let head_dim = self.model.meta.config.head_dim();
        let Scratch {
            query,
            key,
            value,
            part,
            scores,
            ..
        } = &mut *self.space;
        part.resize(query.len(), 0.0);
        // All keys and values are stored before any is read: a processor waits for what it has just
        // stored.
        let mut from = 0;
        for run in &mut self.runs {
            for position in run.positions() {
                for head in 0..heads {
                    let (key, value) = (&key[from..][..head_dim], &value[from..][..head_dim]);
                    run.cache(head, layer).write(position, key, value);
                    from += head_dim;
                }
            }
        }
        let step = heads * head_dim;
        let mut from = 0;
        for run in &mut self.runs {
            let positions = run.positions();
            for head in 0..heads {
                let from = from + head * head_dim;
                let (queries, out) = (&query[from..], &mut part[from..]);
                let cache = run.cache(head, layer);
                cache.attention(simd, positions.clone(), step, queries, out, scores);
            }
            from += positions.len() * step;
        }
    }

    /// `x += fc2 · relu(fc1 · rms_norm(x))`.
    #[inline(always)]
    fn mlp_block<S: Simd>(&mut self, simd: S, layer: &Layer) {
        let Scratch {
            x,
            normed,
            hidden,
            part,
            ..
        } = &mut *self.space;
        rms_norm(simd, self.model.meta.config.n_embd, x, normed);
        product(&mut self.member, &layer.mlp_fc1, normed, part, hidden);
        relu(simd, hidden);
        product(&mut self.member, &layer.mlp_fc2, hidden, part, normed);
        add(x, normed);
    }

    /// `lm_head · x`, where logits were asked for.
    #[inline(always)]
    fn logits(&mut self) {
        let Scratch {
            x,
            normed,
            part,
            logits,
            ..
        } = &mut *self.space;
        let head = &self.model.lm_head;
        normed.clear();
        let mut from = 0;
        for run in &self.runs {
            let end = from + run.tokens.len();
            normed.extend_from_slice(&x[(from + run.logits_from) * head.cols..end * head.cols]);
            from = end;
        }
        product(&mut self.member, head, normed, part, logits);
    }
}

/// `out = W·x`, of which each member of a team computes some rows, in `part`.
#[inline(always)]
fn product(member: &mut Rank, matrix: &Matrix, x: &[f64], part: &mut Vec<f64>, out: &mut Vec<f64>) {
    let (columns, rows) = (x.len() / matrix.cols, member.share(matrix.rows));
    part.resize(columns * rows.len(), 0.0);
    matrix.matmul(rows.clone(), x, part);
    member.all_gather(part, rows, [columns, matrix.rows], out);
}

/// Workspace to compute in, and the logits.
#[derive(Debug, Default)]
pub struct Workspace {
    exchange: Barrier,
    /// One for each member of a team.
    spaces: Vec<Scratch>,
    vocab_size: usize,
}

impl Workspace {
    /// The logits `[V]` with this number, counted over all runs.
    pub fn logits(&self, index: usize) -> &[f64] {
        &self.spaces[0].logits[index * self.vocab_size..][..self.vocab_size]
    }

    /// All the logits, in their order.
    pub fn all_logits(&mut self) -> impl Iterator<Item = &mut [f64]> {
        self.spaces[0].logits.chunks_exact_mut(self.vocab_size)
    }

    /// Begins a pass of so many columns. Says how many members take part.
    pub fn begin(&mut self, model: &InferenceGpt, columns: usize) -> usize {
        let config = model.meta.config;
        self.vocab_size = model.lm_head.rows;
        let widest = (4 * config.n_embd).max(self.vocab_size);
        let members = self.exchange.begin(columns * widest);
        self.spaces.resize_with(members, Scratch::default);
        for (member, space) in self.members() {
            let own = member.share(config.n_head).len() * config.head_dim();
            space.prepare(columns, config.n_embd, own);
        }
        members
    }

    /// The members of the team, and what each computes in.
    pub fn members(&mut self) -> impl Iterator<Item = (Rank<'_>, &mut Scratch)> {
        let members = self.exchange.members();
        members.zip(&mut self.spaces)
    }
}

/// The buffers of one rank.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The residual stream, and below it what a block makes of it: `[columns, E]` each.
    x: Vec<f64>,
    normed: Vec<f64>,
    /// Of the member's heads alone: `[columns, own]` each.
    query: Vec<f64>,
    key: Vec<f64>,
    value: Vec<f64>,
    /// `[columns, E]`.
    attended: Vec<f64>,
    /// `[columns, 4E]`.
    hidden: Vec<f64>,
    /// `[columns, own]`, of what is made for all members.
    part: Vec<f64>,
    /// `[wanted, V]`.
    logits: Vec<f64>,
    /// For attention.
    scores: Vec<f64>,
}

impl Scratch {
    fn prepare(&mut self, columns: usize, n_embd: usize, own: usize) {
        for buffer in [&mut self.x, &mut self.normed] {
            buffer.resize(columns * n_embd, 0.0);
        }
        for buffer in [&mut self.query, &mut self.key, &mut self.value] {
            buffer.resize(columns * own, 0.0);
        }
    }
}

/// Every column of `x`, `[columns, elements]`, over its root mean square.
#[inline(always)]
fn rms_norm<S: Simd>(simd: S, elements: usize, x: &[f64], out: &mut [f64]) {
    let columns = x.chunks_exact(elements);
    for (x, out) in columns.zip(out.chunks_exact_mut(elements)) {
        let (eights, rest) = x.as_chunks();
        let mut sums = simd.splat(0.0);
        for x in eights.iter().chain([&pad(rest)]) {
            let x = simd.load(x);
            sums = simd.mul_add(x, x, sums);
        }
        let mean = reduce_sum(simd.store(sums)) / elements as f64;
        let scale = 1.0 / (mean + RMS_NORM_EPS).sqrt();
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * scale;
        }
    }
}

#[inline(always)]
fn relu<S: Simd>(simd: S, x: &mut [f64]) {
    let (eights, rest) = x.as_chunks_mut();
    for x in eights {
        *x = simd.store(simd.max(simd.load(x), simd.splat(0.0)));
    }
    for x in rest {
        *x = max(*x, 0.0);
    }
}

#[inline(always)]
fn add(x: &mut [f64], added: &[f64]) {
    for (x, added) in x.iter_mut().zip(added) {
        *x += added;
    }
}
