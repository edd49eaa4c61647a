//! The model, twice over one set of numbers: [`TensorGpt`] trains, on candle's tensors;
//! [`InferenceGpt`] is plain data that computes in f64 and is shared between threads. Around them,
//! what a model is (its size and vocabulary) and what is done with it (sampling, generating).

mod beginnings;
mod chat;
mod config;
mod continuation;
mod generate;
mod inference;
mod meta;
mod sampling;
mod score;
mod tensor_gpt;

pub use beginnings::Prefix;
pub use chat::{Chat, Reply, ReplyInMaking, chat_tokens};
pub use config::ModelConfig;
pub use continuation::{Batch, CONTINUOUS_TOKENS, Continuation, Finish};
pub use generate::{GenerateOptions, Generator, Sample, list_chars, read_conversation};
pub use inference::{InferenceGpt, MOST_TOGETHER, Room, Run, Stream, Team};
pub use meta::ModelMeta;
pub use sampling::{Sampler, SamplingOptions};
pub use score::{Score, Scorer};
pub use tensor_gpt::{TensorGpt, initial_weights, stack, to_named_tensor, unstack};
