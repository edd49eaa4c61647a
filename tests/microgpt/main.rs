//! The tests of the built program and of the model's numbers, all in one binary.
//!
//! Those that need the reference numbers or the real data look for them in `../shared`, and say so
//! where they are missing. `.ci/run` sets `MICROGPT_REQUIRE_SHARED`, with which a missing file is a
//! failure.

mod attack;
mod bad_input;
mod chat;
mod docs;
mod errors;
mod faults;
mod generate;
mod program;
mod reference;
mod score;
mod serve;
mod signals;
mod slow;
mod store;
mod strangers;
mod terminal;
mod text;
mod train;
mod validation;
