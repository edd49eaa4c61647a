//! The trained model, shared between threads.

use anyhow::Result;

use super::forward::Forward;
use super::kv_cache::{Chunk, SequenceCache};
use super::thread_group::{ThreadGroup, run_ranks};
use super::weights::Weights;
use super::workspace::Workspace;
use crate::kernels::cpu::cores;
use crate::model::ModelMeta;
use crate::store::{Precision, TensorFile, Tensors, encode_tensors};

/// The minimum decode batch: fewer sequences share too little of each read of the weights.
const MIN_BATCH: usize = 8;

/// The maximum decode batch: more sequences gain nothing.
pub const MAX_BATCH: usize = 64;

/// Bytes of the largest matrix per thread: a thread that reads fewer costs more to wait for than it
/// saves.
const MIN_SHARD_BYTES: usize = 128 << 10;

/// A trained model. `Send + Sync`, to be shared behind an `Arc`.
#[derive(Debug)]
pub struct InferenceGpt {
    meta: ModelMeta,
    weights: Weights,
}

impl InferenceGpt {
    /// Panics unless `weights` holds the tensors that `meta` lists, as
    /// [`ModelMeta::load`] guarantees.
    pub fn new(meta: ModelMeta, weights: TensorFile) -> Self {
        let weights = Weights::new(weights, meta.config.n_layer);
        Self { meta, weights }
    }

    /// A model with its weights in main memory. Panics unless they are those that `meta` lists.
    pub fn from_tensors(meta: ModelMeta, weights: &Tensors) -> Self {
        let file = encode_tensors(weights, Precision::F32)
            .and_then(|bytes| TensorFile::new(bytes.into(), meta.tensors(), false));
        Self::new(meta, file.expect("the weights are this model's"))
    }

    /// The weights by name, in the form that [`encode_tensors`] takes.
    pub fn to_tensors(&self) -> Tensors {
        self.weights.to_tensors()
    }

    /// The model's size and vocabulary.
    pub fn meta(&self) -> &ModelMeta {
        &self.meta
    }

    /// An empty KV cache.
    pub fn new_cache(&self) -> SequenceCache {
        SequenceCache::new(self.meta.config)
    }

    /// The number of sequences to decode at once: as many as share the reads of the weights, but no
    /// more than those whose KV caches stay in the CPU's caches.
    pub fn decode_batch_size(&self) -> usize {
        const CPU_CACHE_BYTES: usize = 8 << 20;
        (CPU_CACHE_BYTES / SequenceCache::bytes(self.meta.config)).clamp(MIN_BATCH, MAX_BATCH)
    }

    /// Up to `threads` threads to decode a single sequence with: no more than there are cores, and
    /// only as many as a model of this size is worth. Errors if they cannot be started.
    pub fn thread_group(&self, threads: usize) -> Result<ThreadGroup> {
        let max = self.weights.max_bytes().div_ceil(MIN_SHARD_BYTES);
        ThreadGroup::start(threads.min(max).min(cores()))
    }

    /// Appends each chunk's tokens to its KV cache. Afterwards `workspace` has the logits `[V]` that
    /// the chunks ask for, in their order.
    ///
    /// Within [`ThreadGroup::run`], all threads of the group share the pass. Panics if a chunk
    /// exceeds the context, or has a token that is not in the vocabulary.
    pub fn forward(&self, workspace: &mut Workspace, chunks: &mut [Chunk]) {
        let columns: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        let config = self.meta.config;
        let ranks = workspace.begin(config, self.weights.lm_head.rows, columns);
        let mut shards: Vec<_> = chunks.iter_mut().map(|chunk| chunk.shards(ranks)).collect();
        run_ranks(workspace.ranks().map(|(rank, scratch)| Forward {
            config,
            weights: &self.weights,
            rank,
            scratch,
            shards: shards.iter_mut().filter_map(Iterator::next).collect(),
        }));
        drop(shards);
        for chunk in chunks {
            chunk.cache.extend_length(chunk.tokens.len());
        }
    }
}
