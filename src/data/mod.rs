//! From text to tokens: messages, corpora, the tokenizer, and the batches of training.

mod batch;
mod built_in;
mod byte_store;
mod char_table;
mod chat_prompt;
mod corpus;
mod corpus_kind;
mod dataset;
mod fingerprint;
mod message;
mod text_blocks;
mod text_reader;
mod token_store;
mod tokenizer;
mod visiting_order;

pub use batch::{Batch, partition};
pub use built_in::{BUILT_IN_NAMES, built_in_conversations};
pub use byte_store::{ByteStore, ByteStoreWriter, SpillOptions};
pub use chat_prompt::{ChatPrompt, chat_prompt};
pub use corpus::Corpus;
pub use corpus_kind::CorpusKind;
pub use dataset::{Dataset, DatasetOptions, ValidationSet};
pub use fingerprint::Fingerprint;
pub use message::{Message, Role, parse_conversation};
pub use text_reader::{TextReader, decode_utf8};
pub use tokenizer::{
    ChatTokens, SPECIAL_TOKENS, SPECIAL_TOKENS_WITH_SYSTEM, TextDecoder, Tokenizer, TokenizerJson,
    quote_chars,
};
