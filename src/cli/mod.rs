//! The command line: flags, one file per command, and output on the terminal.
//!
//! Results go to stdout, everything else to stderr. `parse` turns the arguments into a
//! `ParsedCommand` according to `flags`; `run` dispatches it.

pub mod allocator;
mod chat;
mod completions;
mod console;
mod export;
mod failure;
pub(crate) mod flags;
mod generate;
pub(crate) mod help;
mod info;
mod input_file;
mod man;
mod model_dir;
pub(crate) mod parse;
mod pid_1;
mod progress;
mod progress_bar;
mod prompts;
mod score;
mod serve;
mod suggest;
mod train;

use std::ffi::OsString;

pub use failure::Failure;
use flags::ParsedCommand;
#[cfg(any(test, fuzzing))]
pub(crate) use score::score_on_this_thread;

/// Runs the program with the arguments after its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let command = parse::parse(arguments)?;
    pid_1::exit_on_signals(&command)?;
    match command {
        ParsedCommand::Train(args, raw) => train::run(args, &raw),
        ParsedCommand::Generate(args) => generate::run(args),
        ParsedCommand::Chat(args) => chat::run(args),
        ParsedCommand::Score(args) => score::run(args),
        ParsedCommand::Info(args) => info::run(args),
        ParsedCommand::Export(args) => export::run(args),
        ParsedCommand::Serve(args) => serve::run(args),
        ParsedCommand::Help(command) => console::print(&help::full(command)),
        ParsedCommand::Man => console::print(&man::page()),
        ParsedCommand::Completions(shell) => console::print(&completions::script(shell)),
        ParsedCommand::Summary(command) => console::print(&help::summary(command)),
        ParsedCommand::Version => {
            console::print(&format!("microgpt {}\n", env!("CARGO_PKG_VERSION")))
        }
    }
}
