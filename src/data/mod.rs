//! From text to tokens: documents and conversations, the tokenizer, and the batches that training
//! takes.

mod conversation;
mod corpus;
mod dataset;
mod tokenizer;

pub use conversation::{FittedPrompt, Message, Role, fit_prompt, parse_conversation};
pub use corpus::{BUILT_IN_CONVERSATIONS, BUILT_IN_NAMES, Corpus, decode_utf8};
pub use dataset::{Batch, Dataset};
pub use tokenizer::{ChatTokens, SPECIAL_TOKENS, Tokenizer};
