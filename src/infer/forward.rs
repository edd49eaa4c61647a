//! The forward pass. With `E` = `n_embd`, `H` = `n_head` heads and `V` tokens, for each column:
//!
//! ```text
//! x      = rms_norm(wte[token] + wpe[position])             [E]
//! in each layer:
//!   q, k, v = (wq, wk, wv) · rms_norm(x)                    [E] each, H heads of E / H
//!   x      += wo · concat over heads of
//!             softmax(q·Kᵀ / √(E / H)) · V                  K, V: this and all earlier positions
//!   x      += fc2 · relu(fc1 · rms_norm(x))                 [E] → [4E] → [E]
//! logits = lm_head · x                                      [V]
//! ```
//!
//! The last layer computes only `k` and `v` of the columns whose logits are not asked for: half of those
//! of a long line to score.
//!
//! Each rank computes a range of the rows of every matrix, and a range of the heads.

use super::kv_cache::HeadShard;
use super::thread_group::Rank;
use super::weights::{LayerWeights, WeightMatrix, Weights};
use super::workspace::Scratch;
use crate::kernels::layers_f64::{add_assign, relu, rms_norm};
use crate::kernels::simd::{Kernel, Simd};
use crate::model::ModelConfig;

/// One rank's part of a pass of `columns` tokens, those of all shards.
pub struct Forward<'a> {
    pub config: ModelConfig,
    pub weights: &'a Weights,
    pub rank: Rank<'a>,
    pub scratch: &'a mut Scratch,
    /// The chunks, with the KV caches of this rank's heads.
    pub shards: Vec<HeadShard<'a>>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        self.embed(simd);
        for (index, layer) in self.weights.layers.iter().enumerate() {
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
        let (n_embd, block_size) = (self.config.n_embd, self.config.block_size);
        let Scratch { x, normed, .. } = &mut *self.scratch;
        normed.fill(0.0);
        let mut columns = normed.chunks_exact_mut(n_embd);
        for shard in &self.shards {
            let positions = shard.positions();
            assert!(positions.end <= block_size, "the context is full");
            for ((position, &token), column) in positions.zip(shard.tokens).zip(&mut columns) {
                self.weights.wte.add_row(token as usize, column);
                self.weights.wpe.add_row(position, column);
            }
        }
        rms_norm(simd, n_embd, normed, x);
    }

    /// `x += wo · attention(rms_norm(x))`.
    #[inline(always)]
    fn attention_block<S: Simd>(&mut self, simd: S, index: usize, layer: &LayerWeights) {
        let n_embd = self.config.n_embd;
        let heads = self.rank.partition(self.config.n_head);
        let head_dim = self.config.head_dim();
        // The rows of this rank's heads.
        let own = heads.start * head_dim..heads.end * head_dim;
        let scratch = &mut *self.scratch;
        rms_norm(simd, n_embd, &scratch.x, &mut scratch.normed);
        // [columns, E] → [columns, own]
        for (matrix, out) in [
            (&layer.attn_wk, &mut scratch.key),
            (&layer.attn_wv, &mut scratch.value),
        ] {
            matrix.matmul(own.clone(), &scratch.normed, out);
        }
        if index + 1 == self.config.n_layer {
            self.drop_columns_without_logits(own.len());
        }
        let scratch = &mut *self.scratch;
        let query = &mut scratch.query;
        layer.attn_wq.matmul(own.clone(), &scratch.normed, query);
        self.attend(simd, index, heads.len());
        let Scratch {
            x,
            normed,
            attended,
            partial,
            ..
        } = &mut *self.scratch;
        // [columns, own] of each rank → [columns, E]
        let shape = [x.len() / n_embd, n_embd];
        self.rank.all_gather(partial, own, shape, attended);
        matmul_all_gather(&mut self.rank, &layer.attn_wo, attended, partial, normed);
        add_assign(x, normed);
    }

    /// Drops the columns whose logits are not asked for.
    fn drop_columns_without_logits(&mut self, own: usize) {
        let n_embd = self.config.n_embd;
        let Scratch {
            x, normed, query, ..
        } = &mut *self.scratch;
        let (mut kept, mut first) = (0, 0);
        for shard in &mut self.shards {
            let end = first + shard.tokens.len();
            let columns = (first + shard.logits_from) * n_embd..end * n_embd;
            x.copy_within(columns.clone(), kept * n_embd);
            normed.copy_within(columns, kept * n_embd);
            shard.queries_from = shard.logits_from;
            kept += end - first - shard.logits_from;
            first = end;
        }
        x.truncate(kept * n_embd);
        normed.truncate(kept * n_embd);
        query.truncate(kept * own);
    }

    /// Stores the keys and values of all columns, then computes `partial`, the attention of this
    /// rank's heads: `[columns, own]`.
    #[inline(always)]
    fn attend<S: Simd>(&mut self, simd: S, layer: usize, heads: usize) {
        let head_dim = self.config.head_dim();
        let Scratch {
            query,
            key,
            value,
            partial,
            scores,
            ..
        } = &mut *self.scratch;
        partial.resize(query.len(), 0.0);
        // All keys and values are stored before any is read: a load that follows a store to the same
        // line waits for it.
        let mut offset = 0;
        for shard in &mut self.shards {
            for position in shard.positions() {
                for head in 0..heads {
                    let (key, value) = (&key[offset..][..head_dim], &value[offset..][..head_dim]);
                    shard.cache(head, layer).write(position, key, value);
                    offset += head_dim;
                }
            }
        }
        let stride = heads * head_dim;
        let mut offset = 0;
        for shard in &mut self.shards {
            let positions = shard.query_positions();
            if positions.is_empty() {
                continue;
            }
            for head in 0..heads {
                let offset = offset + head * head_dim;
                let (queries, out) = (&query[offset..], &mut partial[offset..]);
                let cache = shard.cache(head, layer);
                cache.attention(simd, positions.clone(), stride, queries, out, scores);
            }
            offset += positions.len() * stride;
        }
    }

    /// `x += fc2 · relu(fc1 · rms_norm(x))`.
    #[inline(always)]
    fn mlp_block<S: Simd>(&mut self, simd: S, layer: &LayerWeights) {
        let Scratch {
            x,
            normed,
            hidden,
            partial,
            ..
        } = &mut *self.scratch;
        rms_norm(simd, self.config.n_embd, x, normed);
        // [columns, E] → [columns, 4E] → [columns, E]
        matmul_all_gather(&mut self.rank, &layer.mlp_fc1, normed, partial, hidden);
        relu(simd, hidden);
        matmul_all_gather(&mut self.rank, &layer.mlp_fc2, hidden, partial, normed);
        add_assign(x, normed);
    }

    /// `logits = lm_head · x`.
    #[inline(always)]
    fn logits(&mut self) {
        let Scratch {
            x, partial, logits, ..
        } = &mut *self.scratch;
        matmul_all_gather(&mut self.rank, &self.weights.lm_head, x, partial, logits);
    }
}

/// Computes `out = W·x`, `[columns, rows]`, of which each rank computes some rows in `partial`.
#[inline(always)]
fn matmul_all_gather(
    rank: &mut Rank,
    matrix: &WeightMatrix,
    x: &[f64],
    partial: &mut Vec<f64>,
    out: &mut Vec<f64>,
) {
    let (columns, rows) = (x.len() / matrix.cols, rank.partition(matrix.rows));
    partial.resize(columns * rows.len(), 0.0);
    matrix.matmul(rows.clone(), x, partial);
    rank.all_gather(partial, rows, [columns, matrix.rows], out);
}
