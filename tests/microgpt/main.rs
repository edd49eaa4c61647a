//! Integration tests of the binary and numerical tests of the library, in one test binary.
//!
//! Reference numbers and real data are read from `../shared`; a test whose files are missing prints
//! that it is skipped, or fails if `MICROGPT_REQUIRE_SHARED` is set, as `.ci/run` does.

mod byte_level_bpe;
mod chat;
mod cli_errors;
mod continuous_text;
mod crash_safety;
mod docs;
mod generate;
mod hostile_http;
mod http_access;
mod http_timeouts;
mod huggingface;
mod init_from;
mod input_formats;
mod input_limits;
mod openai_api;
mod program;
mod reference;
mod score;
mod serve;
mod signals;
mod source_tree;
mod store;
mod terminal;
mod train;
mod untrusted_model;
mod validation;
