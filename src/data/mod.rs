//! From text to tokens: documents and conversations, the tokenizer, and the batches that training
//! takes.

mod built_in;
mod conversation;
mod corpus;
mod dataset;
mod tokenizer;

pub use built_in::{BUILT_IN_NAMES, built_in_conversations};
pub use conversation::{ChatPrompt, Message, Role, chat_prompt, parse_conversation};
pub use corpus::{Corpus, CorpusKind, decode_utf8};
pub use dataset::{Batch, Dataset, ValidationSet, partition};
pub use tokenizer::{ChatTokens, SPECIAL_TOKENS, Tokenizer};
