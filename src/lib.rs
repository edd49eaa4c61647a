//! microgpt: a complete GPT, from a text file to a trained model to new text.
//!
//! Text flows through the house in one direction, and a room uses only the rooms below it:
//!
//! - [`cli`]: what the shell sees.
//! - [`serve`]: the same over HTTP.
//! - [`train`]: the loop, Adam, the learning rate; what a run goes on from.
//! - [`model`]: the GPT that trains and the GPT that speaks, sampling, generating.
//! - [`store`]: the model directory. [`data`]: text to tokens. [`ops`]: the operations of the
//!   model, each with its gradient. `processor`: what they are compiled for.

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
