//! The GPT that speaks: arithmetic in f64 on weights as they lie in their file.
//!
//! Any number of texts go through it together, each with any number of its next tokens: a prompt
//! at once, one token of each of many samples, or both. All these tokens are the columns of one
//! matrix, one after the other in memory, so that each weight is read once for all of them. What
//! comes out for a token is the same, bit for bit, whatever goes along with it and on every machine;
//! see [`kernels`](crate::kernels).

mod forward;
mod kv_cache;
#[cfg(test)]
mod tests;
mod thread_group;
mod weights;

use std::sync::Arc;

use anyhow::Result;
use forward::Forward;
pub use forward::Workspace;
pub use kv_cache::{Chunk, SequenceCache};
pub use thread_group::ThreadGroup;
use thread_group::run_ranks;
use weights::Matrix;

use crate::kernels::cpu::cores;
use crate::model::ModelMeta;
use crate::store::{Precision, TensorFile, Tensors, encode_tensors};

/// Fewer texts than these do not share enough.
const MIN_BATCH: usize = 8;

/// More texts than these share nothing more.
pub const MAX_BATCH: usize = 64;

/// Another thread is worth waiting for where it reads so many bytes of the largest matrix.
const LEAST_SHARE: usize = 128 << 10;

/// A trained model, ready to be shared between threads behind an `Arc`.
#[derive(Debug)]
pub struct InferenceGpt {
    meta: ModelMeta,
    wte: Matrix,
    wpe: Matrix,
    lm_head: Matrix,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    attn_wq: Matrix,
    attn_wk: Matrix,
    attn_wv: Matrix,
    attn_wo: Matrix,
    mlp_fc1: Matrix,
    mlp_fc2: Matrix,
}

impl InferenceGpt {
    /// A model of the given weights. Panics unless they are those that `meta` lists, as
    /// [`ModelMeta::load`] makes sure.
    pub fn new(meta: ModelMeta, weights: TensorFile) -> Self {
        let file = Arc::new(weights);
        let layer = |i| {
            let matrix = |name: &str| Matrix::new(&file, &format!("layer{i}.{name}"));
            Layer {
                attn_wq: matrix("attn_wq"),
                attn_wk: matrix("attn_wk"),
                attn_wv: matrix("attn_wv"),
                attn_wo: matrix("attn_wo"),
                mlp_fc1: matrix("mlp_fc1"),
                mlp_fc2: matrix("mlp_fc2"),
            }
        };
        Self {
            wte: Matrix::new(&file, "wte"),
            wpe: Matrix::new(&file, "wpe"),
            lm_head: Matrix::new(&file, "lm_head"),
            layers: (0..meta.config.n_layer).map(layer).collect(),
            meta,
        }
    }

    /// A model of weights in main memory. Panics unless they are those that `meta` lists.
    pub fn from_tensors(meta: ModelMeta, weights: &Tensors) -> Self {
        let file = encode_tensors(weights, Precision::F32)
            .and_then(|bytes| TensorFile::new(bytes.into(), meta.tensors(), false));
        Self::new(meta, file.expect("the weights are this model's"))
    }

    /// The weights by name, as [`encode_tensors`] writes them.
    pub fn to_tensors(&self) -> Tensors {
        let layers = self.layers.iter().enumerate().flat_map(|(i, layer)| {
            [
                ("attn_wq", &layer.attn_wq),
                ("attn_wk", &layer.attn_wk),
                ("attn_wv", &layer.attn_wv),
                ("attn_wo", &layer.attn_wo),
                ("mlp_fc1", &layer.mlp_fc1),
                ("mlp_fc2", &layer.mlp_fc2),
            ]
            .map(|(name, matrix)| (format!("layer{i}.{name}"), matrix))
        });
        let tables = [
            ("wte", &self.wte),
            ("wpe", &self.wpe),
            ("lm_head", &self.lm_head),
        ];
        let tables = tables.map(|(name, matrix)| (name.to_string(), matrix));
        let tensor = |(name, matrix): (String, &Matrix)| (name, matrix.to_tensor());
        tables.into_iter().chain(layers).map(tensor).collect()
    }

    /// The model's size and vocabulary.
    pub fn meta(&self) -> &ModelMeta {
        &self.meta
    }

    /// A text of which the model has seen nothing yet.
    pub fn new_cache(&self) -> SequenceCache {
        SequenceCache::new(self.meta.config)
    }

    /// The number of sequences to decode at once: as many as share the reads of the weights, but no
    /// more than those whose KV caches stay in the CPU's caches.
    pub fn decode_batch_size(&self) -> usize {
        const BYTES: usize = 8 << 20;
        (BYTES / SequenceCache::bytes(self.meta.config)).clamp(MIN_BATCH, MAX_BATCH)
    }

    /// Up to so many threads to make a single text with: no more than there are cores, and one,
    /// where the model is so small that others would come too late. Errors where they can't be
    /// started.
    pub fn thread_group(&self, threads: usize) -> Result<ThreadGroup> {
        let most = self.layers[0].mlp_fc1.bytes().div_ceil(LEAST_SHARE);
        ThreadGroup::start(threads.min(most).min(cores()))
    }

    /// Lets the model see the next tokens of some texts, each text in one run. Afterwards `room`
    /// has the logits `[V]` that were asked for.
    ///
    /// Within a [`ThreadGroup`], all its threads take part. Panics where a context is too
    /// short for its run, and for a token of another model.
    pub fn forward(&self, room: &mut Workspace, runs: &mut [Chunk]) {
        let columns: usize = runs.iter().map(|run| run.tokens.len()).sum();
        let members = room.begin(self, columns);
        let mut parts: Vec<_> = runs.iter_mut().map(|run| run.parts(members)).collect();
        run_ranks(room.members().map(|(member, space)| Forward {
            model: self,
            member,
            space,
            runs: parts.iter_mut().filter_map(Iterator::next).collect(),
        }));
        drop(parts);
        for run in runs {
            run.stream
                .set_length(run.stream.length() + run.tokens.len());
        }
    }
}
