//! The tables of options in the README, from the flags that the parser uses.

use super::flags::{COMMANDS, Command, Opt};
use super::help::description;

/// Stands before the tables of a README, and after them.
const BEGIN: &str = "<!-- The tables of options; `make docs` writes them. -->\n";
const END: &str = "<!-- The end of the tables of options. -->\n";

/// A README with the tables of all commands' options where the marks for them are. None where a
/// mark is missing.
pub fn with_option_tables(readme: &str) -> Option<String> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    let with_options = |command: &&Command| command.options().any(|o| o.name != "help");
    let tables: String = COMMANDS.iter().filter(with_options).map(flags).collect();
    Some(format!("{before}{BEGIN}{tables}\n{END}{after}"))
}

fn flags(command: &Command) -> String {
    let rows: String = command
        .options()
        .filter(|option| option.name != "help")
        .map(row)
        .collect();
    format!(
        "\n**`microgpt {}`**: {}.\n\n| option | default | |\n|---|---|---|\n{rows}",
        command.name, command.summary
    )
}

fn row(option: &Opt) -> String {
    let short = option
        .short
        .map_or(String::new(), |short| format!("`-{short}`, "));
    let value = option
        .takes
        .placeholder()
        .map_or(String::new(), |value| format!(" {value}"));
    let plain = Opt {
        default: "",
        ..*option
    };
    let [value, default, text] =
        [&value, option.default, &description(&plain)].map(|cell| cell.replace('|', "\\|"));
    format!(
        "| {short}`--{}{value}` | {default} | {text} |\n",
        option.name
    )
}
