//! Shell completions, from the definitions of commands and options.

mod bash;
mod fish;
mod quote;
mod zsh;

use super::flags::Shell;

/// The completion script of a shell.
pub fn script(shell: Shell) -> String {
    match shell {
        Shell::Bash => bash::script(),
        Shell::Zsh => zsh::script(),
        Shell::Fish => fish::script(),
    }
}
