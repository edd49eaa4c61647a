//! The tests of the built program and of the model's numbers, all in one binary.
//!
//! Those that need the reference numbers or the real data look for them in `../shared`, and say so
//! where they are missing. `.ci/run` sets `MICROGPT_REQUIRE_SHARED`, with which a missing file is a
//! failure.

mod chat;
mod cli_errors;
mod continuous_text;
mod crash_safety;
mod docs;
mod generate;
mod hostile_http;
mod http_timeouts;
mod input_limits;
mod program;
mod reference;
mod score;
mod serve;
mod signals;
mod store;
mod terminal;
mod train;
mod untrusted_model;
mod validation;
