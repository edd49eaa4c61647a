//! From a prompt to text: sampling, decoding and scoring with an [`InferenceGpt`](crate::infer::InferenceGpt).

mod chat;
mod decode_pool;
mod generate;
mod pipeline;
mod prefix_cache;
mod sampler;
mod samples;
mod score;
mod sequence;
mod stop;

pub use chat::{Chat, PendingReply, Reply, chat_tokens};
pub use decode_pool::{Completion, CompletionHandle, DecodePool, WorkerPanicked};
pub use generate::{GenerateOptions, Generator, Sample, list_chars, read_conversation};
pub use pipeline::{Jobs, Pipeline};
pub use prefix_cache::Prefix;
pub use sampler::{Sampler, SamplingOptions};
pub use samples::{Samples, start_samples};
pub use score::{Score, Scorer};
pub use sequence::{DEFAULT_CONTINUOUS_TOKENS, DecodeBatch, FinishReason, Sequence};
pub use stop::StopFilter;
