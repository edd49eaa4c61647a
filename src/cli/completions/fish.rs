//! Completions for fish: one `complete` line per command, option and operand.

use super::super::flags::{COMMANDS, Command, Flag, Takes};
use super::quote::quote;

/// The completion script.
pub fn script() -> String {
    let mut script = String::from(
        "# Completions of microgpt for fish.\ncomplete -c microgpt -f\n\
        complete -c microgpt -n __fish_use_subcommand -s h -l help -d 'Show help'\n\
        complete -c microgpt -n __fish_use_subcommand -s V -l version -d 'Show the version'\n",
    );
    for command in COMMANDS {
        script += &format!(
            "complete -c microgpt -n __fish_use_subcommand -a {} -d {}\n",
            command.name,
            quote(command.summary)
        );
    }
    for command in COMMANDS {
        script += &command_lines(command);
    }
    script
}

/// The lines of a command's options and operands.
fn command_lines(command: &Command) -> String {
    let condition = format!("-n '__fish_seen_subcommand_from {}'", command.name);
    let mut lines = String::new();
    for flag in command.flags() {
        lines += &format!("complete -c microgpt {condition} {}\n", arguments(flag));
    }
    if command.operand.is_some() {
        lines += &match command.choices() {
            Some(choices) => {
                let choices = quote(&choices.join(" "));
                format!("complete -c microgpt {condition} -a {choices}\n")
            }
            None => format!("complete -c microgpt {condition} -F\n"),
        };
    }
    lines
}

/// The arguments of `complete` for an option.
fn arguments(flag: &Flag) -> String {
    let short = flag
        .short
        .map_or(String::new(), |short| format!("-s {short} "));
    let value = match flag.takes {
        Takes::Nothing => String::new(),
        Takes::Value(_) => " -x".to_string(),
        Takes::File | Takes::Path => " -r -F".to_string(),
        Takes::Dir => " -x -a '(__fish_complete_directories)'".to_string(),
        Takes::OneOf(choices) => format!(" -x -a {}", quote(&choices().join(" "))),
    };
    let help = quote(flag.help);
    format!("{short}-l {}{value} -d {help}", flag.name)
}
