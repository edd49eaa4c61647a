//! All commands, and the definitions of those that only print.

use std::ffi::OsStr;

use super::args::Shell;
use super::command::{Command, Operand, ParsedCommand};
use super::generate::{CHAT, GENERATE};
use super::model::{EXPORT, INFO, SCORE, SERVE};
use super::train::TRAIN;
use super::value::names;

/// All commands, in the order of help.
pub static COMMANDS: &[Command] = &[
    TRAIN,
    GENERATE,
    CHAT,
    SCORE,
    INFO,
    EXPORT,
    SERVE,
    HELP,
    MAN,
    COMPLETIONS,
];

/// Returns the command of this name.
pub fn find_command(name: &OsStr) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

const HELP: Command = Command {
    name: "help",
    summary: "Show the full help of a command",
    details: "The same as the command's --help; its -h is a summary.",
    operand: Some(Operand {
        name: "COMMAND",
        is_required: false,
        choices: Some(|| COMMANDS.iter().map(|command| command.name).collect()),
        field: |args| &mut args.help_command,
    }),
    groups: &[],
    examples: &[("microgpt help train", "Show all options of train.")],
    finish: |args, _| {
        let command = find_command(args.help_command.as_ref());
        Ok(ParsedCommand::Help(command))
    },
};

const MAN: Command = Command {
    name: "man",
    summary: "Print the man page",
    details: "The format is roff, the input of `man`.",
    operand: None,
    groups: &[],
    examples: &[("microgpt man | man -l -", "Read the man page.")],
    finish: |_, _| Ok(ParsedCommand::Man),
};

const COMPLETIONS: Command = Command {
    name: "completions",
    summary: "Print the completion script of a shell",
    details: "",
    operand: Some(Operand {
        name: "SHELL",
        is_required: true,
        choices: Some(names::<Shell>),
        field: |args| &mut args.shell,
    }),
    groups: &[],
    examples: &[
        (
            "eval \"$(microgpt completions bash)\"",
            "Enable completions in the current bash.",
        ),
        (
            "microgpt completions fish > ~/.config/fish/completions/microgpt.fish",
            "Enable completions in every fish.",
        ),
    ],
    finish: |args, _| Ok(ParsedCommand::Completions(args.shell)),
};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::value::Choice;
    use super::*;
    use crate::cli::parse::tests::{error, parse_line};

    #[test]
    fn help_and_completions_take_an_operand() {
        let help = |line| match parse_line(line).unwrap() {
            ParsedCommand::Help(command) => command.map(|command| command.name),
            _ => panic!("{line} is help"),
        };
        assert_eq!((help("help"), help("help train")), (None, Some("train")));
        for (name, shell) in Shell::NAMED {
            let line = format!("completions {name}");
            let parsed = parse_line(&line).unwrap();
            assert!(matches!(parsed, ParsedCommand::Completions(parsed) if parsed == *shell));
        }
        assert_eq!(
            error("completions"),
            "completions needs a shell: bash, zsh or fish"
        );
    }

    #[test]
    fn options_of_a_command_have_distinct_names() {
        for command in COMMANDS {
            let name = command.name;
            let mut names = HashSet::new();
            for flag in command.flags() {
                assert!(names.insert(flag.name.to_string()), "{name}: {}", flag.name);
                for alias in flag.aliases {
                    assert!(names.insert(alias.to_string()), "{name}: {alias}");
                    assert_eq!(alias.to_lowercase().replace('_', "-"), **alias);
                }
                if let Some(short) = flag.short {
                    assert!(names.insert(short.to_string()), "{name}: {short}");
                }
                for (other, _) in flag.excludes.into_iter().flatten() {
                    let is_known = command.flags().any(|flag| flag.name == other);
                    assert!(is_known, "{name}: {other}");
                }
            }
        }
    }
}
