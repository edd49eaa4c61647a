//! The model: its size, vocabulary and weights, and [`TensorGpt`], which trains it on candle's
//! tensors.

mod config;
mod dropout;
pub mod huggingface;
mod invalid_value;
mod meta;
mod tensor_gpt;

pub use config::ModelConfig;
pub use dropout::Dropout;
pub use invalid_value::InvalidValue;
pub use meta::ModelMeta;
pub use tensor_gpt::{TensorGpt, initial_weights, stack, to_named_tensor, unstack};
