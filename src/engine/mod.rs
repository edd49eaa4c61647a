//! From a prompt to text: sampling, decoding and scoring with an
//! [`InferenceGpt`](crate::infer::InferenceGpt).
//!
//! - `sampler`: from logits to a [`Distribution`], and to a token. `pattern`: regular expressions.
//! - `sequence`: a [sequence](Sequence) in progress, its grammar and its end.
//! - `prefix_cache`, `scheduler`: many sequences that share forward passes and common prefixes.
//! - `generate`, `chat`, `score`, `logprobs`, `stop`: samples, replies, scores, log-probabilities and
//!   stop sequences.
//! - `pipeline`, `samples`: threads whose results come in order. `decode_pool`: threads that decode
//!   for the requests of a server.

mod chat;
mod decode_pool;
mod generate;
mod logprobs;
mod pattern;
mod pipeline;
mod prefix_cache;
mod sampler;
mod samples;
mod scheduler;
mod score;
mod sequence;
mod stop;

pub use chat::{Chat, PendingReply, Reply, chat_tokens};
pub use decode_pool::{Completion, CompletionHandle, DecodePool, WorkerPanicked};
pub use generate::{GenerateOptions, Generator, Sample};
pub use logprobs::{TokenLogprob, prompt_logprobs};
pub use pipeline::{Jobs, Pipeline};
pub use sampler::{Distribution, Sampler, SamplingOptions};
pub use samples::{SampleBlock, Samples, start_prompts, start_samples};
pub use scheduler::DecodeBatch;
pub use score::{Score, ScoreOptions, ScoreUnit, Scorer, TokenBits, UnknownCost};
pub use sequence::{DEFAULT_CONTINUOUS_TOKENS, FinishReason, Sequence};
pub use stop::StopFilter;
