//! The completions of shells, from the flags.

mod bash;
mod fish;
mod zsh;

use super::{Failure, Words, console};

/// The shells whose completions there are.
pub const SHELLS: &[&str] = &["bash", "zsh", "fish"];

/// `microgpt completions SHELL`.
pub fn run(words: &Words) -> Result<(), Failure> {
    let script = match words.operand()? {
        Some("bash") => bash::script(),
        Some("zsh") => zsh::script(),
        Some("fish") => fish::script(),
        other => unreachable!("the flags has checked {other:?}"),
    };
    console::print(&script)
}

/// Text within single quotes of a shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
