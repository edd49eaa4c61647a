//! The model, twice over one set of numbers: [`TensorGpt`] trains, on candle's tensors;
//! [`InferenceGpt`] is plain data that computes in f64 and is shared between threads. Around them,
//! what a model is (its size and vocabulary) and what is done with it (sampling, generating).

mod config;
mod invalid_value;
mod meta;
mod tensor_gpt;

pub use config::ModelConfig;
pub use invalid_value::InvalidValue;
pub use meta::ModelMeta;
pub use tensor_gpt::{TensorGpt, initial_weights, stack, to_named_tensor, unstack};
