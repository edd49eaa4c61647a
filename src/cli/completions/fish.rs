//! Completions for fish: a `complete` line for each command, option and operand.

use super::super::flags::{COMMANDS, Command, Opt, Takes};
use super::quote;

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
        script += &words(command);
    }
    script
}

/// The options and operands of a command.
fn words(command: &Command) -> String {
    let condition = format!("-n '__fish_seen_subcommand_from {}'", command.name);
    let mut lines: String = command
        .options()
        .map(|option| format!("complete -c microgpt {condition} {}\n", words_of(option)))
        .collect();
    if let Some(operand) = &command.operand {
        lines += &match operand.takes.choices() {
            Some(choices) => {
                let choices = quote(&choices.join(" "));
                format!("complete -c microgpt {condition} -a {choices}\n")
            }
            None => format!("complete -c microgpt {condition} -F\n"),
        };
    }
    lines
}

/// An option as `complete` takes it.
fn words_of(option: &Opt) -> String {
    let short = option
        .short
        .map_or(String::new(), |short| format!("-s {short} "));
    let value = match option.takes {
        Takes::Nothing => String::new(),
        Takes::Value(_) => " -x".to_string(),
        Takes::File => " -r -F".to_string(),
        Takes::Dir => " -x -a '(__fish_complete_directories)'".to_string(),
        Takes::OneOf(choices) => format!(" -x -a {}", quote(&choices.join(" "))),
    };
    let help = quote(option.help);
    format!("{short}-l {}{value} -d {help}", option.name)
}
