//! What the shell sees: the flags of commands and options, a file for each command, and how things
//! are said.
//!
//! Results go to stdout, everything else to stderr. A command line becomes `Words` by the flags,
//! and each command takes from these the values it needs, checked and ready to use.

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
mod man;
pub(crate) mod parse;
mod progress;
mod progress_bar;
pub(crate) mod sampling;
mod score;
mod serve;
mod suggest;
mod train;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use failure::Failure;
use parse::{Request, Words};
#[cfg(any(test, fuzzing))]
pub(crate) use score::score_on_this_thread;
#[cfg(any(test, fuzzing))]
pub(crate) use train::Options as TrainOptions;

use crate::infer::InferenceGpt;
use crate::model::ModelMeta;
use crate::store::Snapshot;

/// Runs the program with the words after its name.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    match Request::parse(arguments.collect())? {
        Request::Overview => console::print(&help::overview()),
        Request::Summary(command) => console::print(&help::summary(command)),
        Request::Page(command) => console::print(&help::page(command)),
        Request::Version => console::print(&format!("microgpt {}\n", env!("CARGO_PKG_VERSION"))),
        Request::Run(words) => (words.command.run)(&words),
    }
}

/// Where the model is that a command works on: `--model-dir`, or `MODEL_DIR`, or the place where
/// `train` puts it.
fn model_dir(words: &Words) -> PathBuf {
    let from_environment = || {
        std::env::var_os("MODEL_DIR")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
    };
    words
        .path("model-dir")
        .or_else(from_environment)
        .unwrap_or_else(|| PathBuf::from(flags::DEFAULT_MODEL_DIR))
}

/// Loads the model that a command works on.
fn load_model(words: &Words) -> Result<Arc<InferenceGpt>, Failure> {
    let snapshot = open_model_dir(words)?;
    let (meta, weights) = ModelMeta::load(&snapshot)?;
    Ok(Arc::new(InferenceGpt::new(meta, weights)))
}

/// Opens the model directory that a command works on.
fn open_model_dir(words: &Words) -> Result<Snapshot, Failure> {
    Ok(open_model(&model_dir(words))?)
}

/// Opens a model directory. Where there is none, says how to make one.
fn open_model(dir: &Path) -> anyhow::Result<Snapshot> {
    anyhow::ensure!(
        dir.exists(),
        "there is no model in {}; make one with `microgpt train --output {0}`",
        dir.display()
    );
    Snapshot::open(dir)
}
