//! The operations of the model.
//!
//! Each is a candle custom operation: a small struct with a forward pass over slices and its own
//! gradient. On a CPU this saves the copies, transposes and graph nodes of a composition of
//! candle's operations. A layer is two operations, [`attention_block()`] and [`mlp_block()`]. Each
//! public function chooses by the device of its arguments between the custom operation and its
//! [`reference`](mod@reference) implementation, which other devices use and which the tests hold it to.
//!
//! The documents of a batch are packed end to end without padding. In shapes, `N` is the number of
//! tokens in the batch, `E` is `n_embd`, `H` is the hidden width, `V` is `vocab_size`.

mod attention_block;
pub mod choice;
mod cross_entropy;
mod embedding;
mod linear;
mod mlp_block;
pub mod reference;
mod rms_norm;
mod slices;
#[cfg(test)]
mod tests;

pub use attention_block::attention_block;
pub use cross_entropy::cross_entropy;
pub use embedding::embedding;
pub use linear::linear;
pub use mlp_block::mlp_block;
pub use rms_norm::rms_norm;
pub use slices::{with_all_slices, with_slice_mut, with_slices};
