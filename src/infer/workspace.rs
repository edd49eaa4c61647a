//! The buffers of a forward pass.

use super::thread_group::{Barrier, Rank};
use crate::model::ModelConfig;

/// The buffers of all ranks of a pass, and its logits. Reused from pass to pass.
#[derive(Debug, Default)]
pub struct Workspace {
    barrier: Barrier,
    /// One per rank.
    scratches: Vec<Scratch>,
    vocab_size: usize,
}

impl Workspace {
    /// The logits `[V]` of the token with this index among those whose logits were asked for.
    pub fn logits(&self, index: usize) -> &[f64] {
        &self.scratches[0].logits[index * self.vocab_size..][..self.vocab_size]
    }

    /// All logits that were asked for, `[V]` each.
    pub fn all_logits(&mut self) -> impl Iterator<Item = &mut [f64]> {
        self.scratches[0].logits.chunks_exact_mut(self.vocab_size)
    }

    /// Begins a pass of `columns` tokens. Returns the number of ranks.
    pub fn begin(&mut self, config: ModelConfig, vocab_size: usize, columns: usize) -> usize {
        self.vocab_size = vocab_size;
        let max_rows = (4 * config.n_embd).max(vocab_size);
        let ranks = self.barrier.begin(columns * max_rows);
        self.scratches.resize_with(ranks, Scratch::default);
        for (rank, scratch) in self.ranks() {
            let own = rank.partition(config.n_head).len() * config.head_dim();
            scratch.resize(columns, config.n_embd, own);
        }
        ranks
    }

    /// The ranks of the pass that has begun, each with its buffers.
    pub fn ranks(&mut self) -> impl Iterator<Item = (Rank<'_>, &mut Scratch)> {
        self.barrier.ranks().zip(&mut self.scratches)
    }
}

/// The buffers of one rank. `own` is the number of elements of its heads.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The residual stream `[columns, E]`.
    pub x: Vec<f64>,
    /// The normalized input of a block, then its output: `[columns, E]`.
    pub normed: Vec<f64>,
    /// `[columns, own]`, as the next two.
    pub query: Vec<f64>,
    pub key: Vec<f64>,
    pub value: Vec<f64>,
    /// The attention of all heads `[columns, E]`.
    pub attended: Vec<f64>,
    /// `[columns, 4E]`.
    pub hidden: Vec<f64>,
    /// This rank's rows of a result, `[columns, rows]`, before all ranks gather it.
    pub partial: Vec<f64>,
    /// `[tokens with logits, V]`.
    pub logits: Vec<f64>,
    /// The scores of one head's attention.
    pub scores: Vec<f64>,
}

impl Scratch {
    fn resize(&mut self, columns: usize, n_embd: usize, own: usize) {
        for buffer in [&mut self.x, &mut self.normed] {
            buffer.resize(columns * n_embd, 0.0);
        }
        for buffer in [&mut self.query, &mut self.key, &mut self.value] {
            buffer.resize(columns * own, 0.0);
        }
    }
}
