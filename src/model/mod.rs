//! The model, twice over one set of numbers: [`TensorGpt`] trains, on candle's tensors;
//! [`InferenceGpt`] is plain data that computes in f64 and is shared between threads. Around them,
//! what a model is (its size and vocabulary) and what is done with it (sampling, generating).

mod chat;
mod config;
mod generate;
mod inference_gpt;
mod meta;
mod sampling;
mod tensor_gpt;

pub use chat::{Chat, Reply};
pub use config::ModelConfig;
pub use generate::{
    CONTINUOUS_TOKENS, Finish, GenerateOptions, Generated, Generator, Sample, list_chars,
};
pub use inference_gpt::{Decoder, InferenceGpt};
pub use meta::ModelMeta;
pub use sampling::{Sampler, SamplingOptions};
pub use tensor_gpt::{TensorGpt, initial_weights, stack, to_named_tensor, unstack};
