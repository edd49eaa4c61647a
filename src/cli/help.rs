//! Help, from the flags: a summary for `-h`, everything for `--help`.

use super::flags::{COMMANDS, Command, ENVIRONMENT, EXIT_STATUS, Opt, SUMMARY};
use super::{Failure, Words, console};

/// How wide help is.
const WIDTH: usize = 80;

/// `microgpt help [COMMAND]`.
pub fn run(words: &Words) -> Result<(), Failure> {
    let Some(name) = words.operand()? else {
        return console::print(&long_overview());
    };
    let command = COMMANDS.iter().find(|command| command.name == name);
    console::print(&page(command.expect("the flags lists it")))
}

/// The program's own help on a screen: what it is, and its commands.
pub fn overview() -> String {
    let mut text =
        format!("microgpt: {SUMMARY}\n\nUsage: microgpt <command> [options]\n\nCommands:\n");
    for command in COMMANDS {
        text += &entry(command.name, command.summary, 15);
    }
    text += "\nOptions:\n";
    text += &entry("-h, --help", "Show help: -h a summary, --help more", 17);
    text += &entry("-V, --version", "Show the version", 17);
    text += "\nBegin with: microgpt train, then microgpt generate\n\
        More: microgpt help; all about a command: microgpt help COMMAND\n";
    text
}

/// That, and what all commands have in common.
pub fn long_overview() -> String {
    let mut text = overview() + "\nEnvironment:\n";
    for (name, what) in ENVIRONMENT {
        text += &entry(name, what, 13);
    }
    text += "\nExit status:\n";
    for (code, what) in EXIT_STATUS {
        text += &entry(code, what, 7);
    }
    text
}

/// What fits a screen: a line for each of the usual options, and the names of the others.
pub fn summary(command: &Command) -> String {
    let (rare, usual): (Vec<&Opt>, Vec<&Opt>) = command.options().partition(|option| option.rare);
    let column = usual.iter().map(|option| label(option).chars().count());
    let column = column.max().unwrap_or(0) + 4;
    let mut text = format!("{}\n\nUsage: {}\n\n", command.summary, command.synopsis());
    for option in usual {
        let default = match option.default {
            "" => String::new(),
            default => format!(" [{default}]"),
        };
        text += &entry(&label(option), &format!("{}{default}", option.help), column);
    }
    if !rare.is_empty() {
        let names: Vec<String> = rare.iter().map(|o| format!("--{}", o.name)).collect();
        for line in wrap(&format!("Also {}", names.join(", ")), WIDTH - 2) {
            text += &format!("  {line}\n");
        }
    }
    text += &format!("\nMore: microgpt help {}\n", command.name);
    text
}

/// Everything there is to know about a command.
pub fn page(command: &Command) -> String {
    let mut text = format!("{}\n\nUsage: {}\n", command.summary, command.synopsis());
    if !command.details.is_empty() {
        text += &format!("\n{}\n", wrap(command.details, WIDTH).join("\n"));
    }
    if let Some(operand) = &command.operand
        && let Some(choices) = operand.takes.choices()
    {
        text += &format!("\n{} is one of {}.\n", operand.name, choices.join(", "));
    }
    for (heading, options) in command.groups {
        let heading = if heading.is_empty() {
            "Options"
        } else {
            heading
        };
        text += &format!("\n{heading}:\n");
        for option in *options {
            text += &format!("  {}\n", label(option));
            for line in wrap(&description(option), WIDTH - 10) {
                text += &format!("{:10}{line}\n", "");
            }
        }
    }
    if !command.examples.is_empty() {
        text += "\nExamples:\n";
        for (line, what) in command.examples {
            text += &format!("  {line}\n      {what}\n");
        }
    }
    text
}

/// All that is said of an option: help, details, default.
pub fn description(option: &Opt) -> String {
    let mut text = format!("{}.", option.help);
    if !option.details.is_empty() {
        text += &format!(" {}", option.details);
    }
    if !option.default.is_empty() {
        text += &format!(" [default: {}]", option.default);
    }
    text
}

/// An option as it is typed: `-o, --output DIR`.
fn label(option: &Opt) -> String {
    let short = option
        .short
        .map_or("    ".to_string(), |short| format!("-{short}, "));
    let value = option
        .takes
        .placeholder()
        .map_or(String::new(), |value| format!(" {value}"));
    format!("{short}--{}{value}", option.name)
}

/// A label and its text beside it, from the given column on.
fn entry(label: &str, text: &str, column: usize) -> String {
    let mut lines = wrap(text, WIDTH - column).into_iter();
    let first = lines.next().unwrap_or_default();
    let mut entry = format!("  {label:<width$}{first}\n", width = column - 2);
    for line in lines {
        entry += &format!("{:column$}{line}\n", "");
    }
    entry
}

/// Text in lines of at most `width` characters, as far as its words allow.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            *line = word.to_string();
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_string());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_fits_a_screen_and_names_every_option() {
        for command in COMMANDS {
            let summary = summary(command);
            assert!(summary.lines().count() <= 24, "{summary}");
            assert!(
                summary.lines().all(|line| line.chars().count() <= WIDTH),
                "{summary}"
            );
            for option in command.options() {
                assert!(summary.contains(&format!("--{}", option.name)));
            }
        }
    }

    #[test]
    fn the_page_names_every_option_with_its_default() {
        for command in COMMANDS {
            let page = page(command);
            for option in command.options() {
                assert!(page.contains(&format!("--{}", option.name)), "{page}");
            }
            assert!(overview().contains(command.summary));
        }
    }
}
