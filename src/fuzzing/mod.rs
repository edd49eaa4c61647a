//! Fuzz targets of everything that parses external input. Each function takes the bytes of one input
//! and panics if a property is violated. cargo-fuzz calls them with generated inputs (`make fuzz`),
//! `cargo test` with the files of fuzz/corpus and mutations of them.
//!
//! Every error message must be one non-empty line without control characters.

mod command_line;
mod http_body;
pub(crate) mod http_requests;
mod model_files;
mod support;
#[cfg(test)]
mod tests;
mod texts;

pub use command_line::command_line;
pub use http_body::http_body;
pub use http_requests::http_requests;
pub use model_files::{meta, tokenizer, train_state, weights};
pub use texts::{conversations, text};
