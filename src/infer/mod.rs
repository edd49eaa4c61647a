//! Inference: the GPT in f64, on weights as they lie in their file.
//!
//! - `gpt`: [`InferenceGpt`], the model that threads share.
//! - `forward`: the forward pass, beside its formula.
//! - `weights`: the matrices, mapped from the file as f32 or f16.
//! - `kv_cache`: the [cache of a sequence](SequenceCache) and the [tokens](Chunk) to append.
//! - `workspace`: the buffers of a pass.
//! - `thread_group`: the threads that share a pass, and their barrier.
//!
//! A pass takes any number of sequences, each with any number of next tokens: a prompt, one token of
//! each of many samples, or both. All these tokens are the columns of one matrix, one after the
//! other in memory, so that each weight is read once for all of them. A token's logits have the same
//! bits whatever the other columns are, and on every machine; see [`kernels`](crate::kernels).

mod forward;
mod gpt;
mod kv_cache;
#[cfg(test)]
mod tests;
mod thread_group;
mod weights;
mod workspace;

pub use gpt::{InferenceGpt, MAX_BATCH};
pub use kv_cache::{Chunk, SequenceCache};
pub use thread_group::ThreadGroup;
pub use workspace::Workspace;
