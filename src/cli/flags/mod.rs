//! The definitions of commands and options.
//!
//! An option is defined once: its names, its help, and the field of the typed arguments that it sets,
//! whose default help shows. The parser, the help, the man page and the shell completions follow the
//! definitions.

mod args;
mod command;
mod commands;
mod flag;
mod generate;
mod model;
mod shared;
mod train;
mod value;

pub use args::{
    ChatArgs, ColorChoice, DeviceKind, ExportArgs, ExportFormat, GenerateArgs, InfoArgs, ScoreArgs,
    ServeArgs, Shell, TrainArgs,
};
pub use command::{Command, ParsedCommand};
pub use commands::{COMMANDS, find_command};
pub use flag::{Flag, RawArgs, Takes};
pub use shared::DEFAULT_MODEL_DIR;
pub use train::override_hyperparameters;
pub use value::{Choice, join};

/// The program in one line.
pub const SUMMARY: &str = "train, run and serve small GPT language models";

/// The program in a few sentences.
pub const DESCRIPTION: &str = "microgpt trains character-level GPT language models on text (one \
    document per line, or one continuous text) or on conversations, generates text with them, and \
    serves them over HTTP. Results go to standard output and everything else to standard error, \
    so that it works in pipelines. A model is a directory.";

/// Environment variables.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    ("MODEL_DIR", "Default of --model-dir."),
    ("PORT", "Default of --port."),
    (
        "NO_COLOR",
        "Disables colour on a terminal if set to anything.",
    ),
];

pub const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Success."),
    ("1", "An error at run time."),
    ("2", "An invalid command line."),
    (
        "130",
        "Stopped by Ctrl-C, after train has completed and saved its step. 143 after SIGTERM.",
    ),
];

/// The files of a model directory.
pub const FILES: &[(&str, &str)] = &[
    (
        "weights.safetensors",
        "The weights: f32, or f16 after `export --half`.",
    ),
    ("meta.json", "The model's size and characters."),
    (
        "tokenizer.json",
        "The vocabulary of a model of byte-level BPE, in the format of Hugging Face's tokenizers.",
    ),
    (
        "train_state.json",
        "The number of training steps and the hyperparameters.",
    ),
    (
        "optimizer_m.safetensors, optimizer_v.safetensors",
        "Adam's moments.",
    ),
    (
        "best",
        "The best model so far while training with --validation-fraction, a model directory too.",
    ),
    (
        "train.lock",
        "The process that writes to the directory. A stale lock does not block other runs.",
    ),
];
