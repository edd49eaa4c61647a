//! microgpt: a complete GPT, from a text file to a trained model to new text.
//!
//! A module imports only from modules further down:
//!
//! | module | content | imports from |
//! |---|---|---|
//! | [`cli`] | commands, flags, terminal output | all below |
//! | [`serve`] | the HTTP server | [`engine`] and below |
//! | [`train`] | trainer, optimizer, checkpoints | [`model`], [`ops`], [`kernels`], [`data`], [`store`] |
//! | [`engine`] | generation, chat, scoring | [`infer`], [`model`], [`kernels`], [`data`] |
//! | [`infer`] | inference: weights, forward pass, KV cache | [`model`], [`kernels`], [`data`], [`store`] |
//! | [`model`] | size, vocabulary, the trainable GPT | [`ops`], [`data`], [`store`] |
//! | [`ops`] | candle operations with gradients | [`kernels`] |
//! | [`kernels`] | SIMD loops: matmul, attention, softmax | |
//! | [`data`] | text to tokens and batches | |
//! | [`store`] | the model directory | |

pub mod cli;
pub mod data;
pub mod engine;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod infer;
pub mod kernels;
pub mod model;
pub mod ops;
pub mod serve;
pub mod store;
pub mod train;
