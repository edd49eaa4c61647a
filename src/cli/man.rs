//! The man page, in roff, from the flags.

use super::flags::{
    COMMANDS, Command, DEFAULT_MODEL_DIR, DESCRIPTION, ENVIRONMENT, EXIT_STATUS, FILES, Opt,
    SUMMARY,
};
use super::help::{description, wrap};
use super::{Failure, Words, console};

/// When the page changed last, as its foot says.
const DATE: &str = "2026-11-25";

/// How long its lines are, in roff.
const WIDTH: usize = 78;

/// `microgpt man`.
pub fn run(_: &Words) -> Result<(), Failure> {
    console::print(&page())
}

/// The page: all commands with their options, then what they have in common.
fn page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        ".TH MICROGPT 1 \"{DATE}\" \"microgpt {version}\" \"User Commands\"\n\
        .nh\n.ad l\n\
        .SH NAME\nmicrogpt \\- {}\n\
        .SH SYNOPSIS\n.B microgpt\n.I command\n.RI [ options ]\n\
        .SH DESCRIPTION\n{}\n\
        .SH COMMANDS\n",
        escape(SUMMARY),
        paragraph(DESCRIPTION)
    );
    text += &COMMANDS.iter().map(command).collect::<String>();
    text += ".SH EXAMPLES\n";
    for (line, what) in COMMANDS.iter().flat_map(|command| command.examples) {
        text += &tagged(&format!("\\fB{}\\fR", escape(line)), what);
    }
    text += &format!(
        ".SH FILES\nA model is a directory, {} unless told otherwise, with these files:\n",
        escape(DEFAULT_MODEL_DIR)
    );
    for (heading, entries) in [
        ("", FILES),
        (".SH ENVIRONMENT\n", ENVIRONMENT),
        (".SH EXIT STATUS\n", EXIT_STATUS),
    ] {
        text += heading;
        for (name, what) in entries {
            text += &tagged(&format!("\\fB{}\\fR", escape(name)), what);
        }
    }
    text
}

fn command(command: &Command) -> String {
    let mut text = format!(
        ".SS {}\n{}.\n",
        escape(&command.synopsis()),
        escape(command.summary)
    );
    if !command.details.is_empty() {
        text += &format!(".PP\n{}\n", paragraph(command.details));
    }
    if let Some(operand) = &command.operand
        && let Some(choices) = operand.takes.choices()
    {
        text += &format!(
            ".PP\n.I {}\n{}\n",
            escape(operand.name),
            paragraph(&format!("is one of {}.", choices.join(", ")))
        );
    }
    for (heading, options) in command.groups {
        if !heading.is_empty() {
            text += &format!(".PP\n{}:\n", escape(heading));
        }
        for option in *options {
            text += &tagged(&label(option), &description(option));
        }
    }
    text
}

/// An option as it is typed, what is literal in bold and what stands for something in italics.
fn label(option: &Opt) -> String {
    let short = option
        .short
        .map_or(String::new(), |short| format!("\\fB\\-{short}\\fR, "));
    let value = option.takes.placeholder().map_or(String::new(), |value| {
        format!(" \\fI{}\\fR", escape(&value))
    });
    format!("{short}\\fB\\-\\-{}\\fR{value}", escape(option.name))
}

/// A paragraph with a tag that hangs in its margin.
fn tagged(tag: &str, text: &str) -> String {
    format!(".TP\n{tag}\n{}\n", paragraph(text))
}

/// Running text, with what stands between backquotes in bold, and each sentence on lines of its own.
fn paragraph(text: &str) -> String {
    let mut bold = false;
    let mut out = String::new();
    for (i, piece) in text.split('`').enumerate() {
        if i > 0 {
            bold = !bold;
            out += if bold { "\\fB" } else { "\\fR" };
        }
        out += &escape(piece);
    }
    let sentences = out.split_inclusive(". ").flat_map(|s| wrap(s, WIDTH));
    sentences.collect::<Vec<_>>().join("\n")
}

/// Text as roff prints it: hyphens that can be copied, backslashes, no word that is a request where
/// it begins a line.
fn escape(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let escaped = escaped.replace('\'', "\\(aq").replace('…', "\\&...");
    let escaped = escaped.replace(" .", " \\&.");
    if escaped.starts_with('.') {
        return format!("\\&{escaped}");
    }
    escaped
}
