//! Help, from the table.

use super::table::{COMMANDS, Command, Opt};

/// How wide help is.
const WIDTH: usize = 80;

/// The program's own help: what it is, and its commands.
pub fn overview() -> String {
    let mut text = String::from(
        "microgpt: small language models of your own, from a text file to new text\n\n\
         Usage: microgpt <command> [options]\n\nCommands:\n",
    );
    for command in COMMANDS {
        text += &entry(command.name, command.summary, 12);
    }
    text += &entry("help", "Show the help of a command", 12);
    text += "\nOptions:\n";
    text += &entry("-h, --help", "Show this help", 17);
    text += &entry("-V, --version", "Show the version", 17);
    text += "\nBegin with:\n  microgpt train\n  microgpt generate\n";
    text
}

/// The help of a command.
pub fn page(command: &Command) -> String {
    let mut text = format!(
        "{}\n\nUsage: microgpt {} [options]\n",
        command.summary, command.name
    );
    if !command.details.is_empty() {
        text += &format!("\n{}\n", wrap(command.details, WIDTH).join("\n"));
    }
    text += "\nOptions:\n";
    for option in command.options {
        let mut help = option.help.to_string();
        if !option.default.is_empty() {
            help += &format!(" [default: {}]", option.default);
        }
        text += &entry(&label(option), &help, 28);
    }
    if !command.examples.is_empty() {
        text += "\nExamples:\n";
        for (line, what) in command.examples {
            text += &format!("  {line}\n      {what}\n");
        }
    }
    text
}

/// An option as it is typed: `-o, --output DIR`.
fn label(option: &Opt) -> String {
    let short = option
        .short
        .map_or("    ".to_string(), |short| format!("-{short}, "));
    let value = option
        .value
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
fn wrap(text: &str, width: usize) -> Vec<String> {
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
    fn help_fits_the_screen_and_names_every_option() {
        for command in COMMANDS {
            let page = page(command);
            assert!(
                page.lines().all(|line| line.chars().count() <= WIDTH + 10),
                "{page}"
            );
            for option in command.options {
                assert!(page.contains(&format!("--{}", option.name)));
            }
            assert!(overview().contains(command.summary));
        }
    }
}
