//! From text to tokens: messages, corpora, the tokenizer, and the batches of training.

mod built_in;
mod chat_prompt;
mod corpus;
mod corpus_kind;
mod dataset;
mod message;
mod text_reader;
mod tokenizer;

pub use built_in::{BUILT_IN_NAMES, built_in_conversations};
pub use chat_prompt::{ChatPrompt, chat_prompt};
pub use corpus::{Corpus, parse_conversations};
pub use corpus_kind::CorpusKind;
pub use dataset::{Batch, Dataset, ValidationSet, partition};
pub use message::{Message, Role, parse_conversation};
pub use text_reader::{TextReader, decode_utf8};
pub use tokenizer::{
    ChatTokens, SPECIAL_TOKENS, SPECIAL_TOKENS_WITH_SYSTEM, TextDecoder, Tokenizer, TokenizerJson,
    quote_chars,
};
