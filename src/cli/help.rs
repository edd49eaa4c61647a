//! Help: the summaries of `-h`, and the full text of `--help`.

use super::flags::{COMMANDS, Command, ENVIRONMENT, EXIT_STATUS, Flag, SUMMARY};

/// The width of a screen.
const WIDTH: usize = 80;

/// The text of `--help`: all about a command or about the program.
pub fn full(command: Option<&Command>) -> String {
    command.map_or_else(long_overview, page)
}

/// The text of `-h`: a summary of a command or of the program that fits a screen.
pub fn summary(command: Option<&Command>) -> String {
    command.map_or_else(overview, command_summary)
}

fn overview() -> String {
    let mut text =
        format!("microgpt: {SUMMARY}\n\nUsage: microgpt <command> [options]\n\nCommands:\n");
    for command in COMMANDS {
        let Command { name, summary, .. } = command;
        text += &entry(name, summary, 15);
    }
    text += "\nOptions:\n";
    text += &entry("-h, --help", "Show help: -h a summary, --help more", 17);
    text += &entry("-V, --version", "Show the version", 17);
    text += "\nStart with: microgpt train, then microgpt generate\n\
        More: microgpt help; all about a command: microgpt help COMMAND\n";
    text
}

/// The overview, and what applies to all commands.
fn long_overview() -> String {
    let mut text = overview();
    for (heading, entries, column) in [
        ("Environment", ENVIRONMENT, 13),
        ("Exit status", EXIT_STATUS, 7),
    ] {
        text += &format!("\n{heading}:\n");
        for (label, description) in entries {
            text += &entry(label, description, column);
        }
    }
    text
}

/// One line per common option, and the names of the rare ones.
fn command_summary(command: &Command) -> String {
    let flags = command.flags();
    let (rare, common): (Vec<&Flag>, Vec<&Flag>) = flags.partition(|flag| flag.is_rare);
    let widths = common.iter().map(|flag| label(flag).chars().count());
    let column = widths.max().unwrap_or(0) + 4;
    let Command { name, summary, .. } = command;
    let mut text = format!("{summary}\n\nUsage: {}\n\n", command.synopsis());
    for flag in common {
        let default = flag.default();
        let default = default.map_or(String::new(), |default| format!(" [{default}]"));
        text += &entry(&label(flag), &format!("{}{default}", flag.help), column);
    }
    if !rare.is_empty() {
        let names: Vec<String> = rare.iter().map(|flag| format!("--{}", flag.name)).collect();
        for line in wrap(&format!("Also {}", names.join(", ")), WIDTH - 2) {
            text += &format!("  {line}\n");
        }
    }
    text += &format!("\nMore: microgpt help {name}\n");
    text
}

/// The full help of a command.
fn page(command: &Command) -> String {
    let mut text = format!("{}\n\nUsage: {}\n", command.summary, command.synopsis());
    if !command.details.is_empty() {
        text += &format!("\n{}\n", wrap(command.details, WIDTH).join("\n"));
    }
    if let Some(operand) = &command.operand
        && let Some(choices) = command.choices()
    {
        text += &format!("\n{} is one of {}.\n", operand.name, choices.join(", "));
    }
    for (heading, flags) in command.groups() {
        let heading = match heading {
            "" => "Options",
            heading => heading,
        };
        text += &format!("\n{heading}:\n");
        for flag in flags {
            text += &format!("  {}\n", label(flag));
            for line in wrap(&description(flag), WIDTH - 10) {
                text += &format!("{:10}{line}\n", "");
            }
        }
    }
    text += "\nExamples:\n";
    for (line, description) in command.examples {
        text += &format!("  {line}\n      {description}\n");
    }
    text
}

/// Describes an option in full: help, details and default.
pub fn description(flag: &Flag) -> String {
    let mut text = format!("{}.", flag.help);
    if !flag.details.is_empty() {
        text += &format!(" {}", flag.details);
    }
    if let Some(default) = flag.default() {
        text += &format!(" [default: {default}]");
    }
    text
}

/// An option as typed: `-o, --output DIR`.
fn label(flag: &Flag) -> String {
    let short = match flag.short {
        Some(short) => format!("-{short}, "),
        None => "    ".to_string(),
    };
    let value = flag.placeholder();
    let value = value.map_or(String::new(), |value| format!(" {value}"));
    format!("{short}--{}{value}", flag.name)
}

/// A label, and a text from the given column on.
fn entry(label: &str, text: &str, column: usize) -> String {
    let indent = format!("\n{:column$}", "");
    let text = wrap(text, WIDTH - column).join(&indent);
    format!("  {label:<width$}{text}\n", width = column - 2)
}

/// Breaks text into lines of at most `width` characters; a longer word has a line of its own.
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
    use super::super::flags::find_command;
    use super::*;

    #[test]
    fn summary_fits_a_screen_and_lists_every_option() {
        for command in COMMANDS {
            let summary = summary(Some(command));
            assert!(summary.lines().count() <= 24, "{summary}");
            assert!(
                summary.lines().all(|line| line.chars().count() <= WIDTH),
                "{summary}"
            );
            for flag in command.flags() {
                assert!(summary.contains(&format!("--{}", flag.name)));
            }
        }
    }

    #[test]
    fn page_lists_every_option_with_its_default() {
        for command in COMMANDS {
            let page = page(command);
            for flag in command.flags() {
                assert!(page.contains(&format!("--{}", flag.name)), "{page}");
                if let Some(default) = flag.default() {
                    let words = page.split_whitespace().collect::<Vec<_>>().join(" ");
                    assert!(words.contains(&format!("[default: {default}]")), "{page}");
                }
            }
            assert!(overview().contains(command.summary));
        }
    }

    #[test]
    fn defaults_show_the_values_of_the_arguments() {
        let default = |command: &str, flag: &str| {
            let command = find_command(command.as_ref()).unwrap();
            let mut flags = command.flags();
            flags.find(|known| known.name == flag).unwrap().default()
        };
        for (command, flag, expected) in [
            ("train", "steps", Some("1000")),
            ("train", "lr", Some("auto")),
            ("train", "schedule", Some("linear")),
            ("train", "grad-clip", None),
            ("generate", "temperature", Some("0.5")),
            ("generate", "threads", Some("all cores")),
            ("serve", "threads", Some("64")),
            ("serve", "port", Some("$PORT, or 8080")),
            ("info", "model-dir", Some("$MODEL_DIR, or microgpt-model")),
            ("info", "help", None),
        ] {
            assert_eq!(
                default(command, flag).as_deref(),
                expected,
                "{command} {flag}"
            );
        }
    }
}
