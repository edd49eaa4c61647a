//! The man page in roff, from the definitions of commands and options.

use super::flags::{
    COMMANDS, Command, DEFAULT_MODEL_DIR, DESCRIPTION, ENVIRONMENT, EXIT_STATUS, FILES, Flag,
    SUMMARY,
};
use super::help::{description, wrap};

/// The date of the last change, in the footer.
const DATE: &str = "2026-11-27";

/// The maximum length of a line in roff.
const WIDTH: usize = 78;

/// The man page.
pub fn page() -> String {
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
    for command in COMMANDS {
        text += &command_section(command);
    }
    text += ".SH EXAMPLES\n";
    let examples = COMMANDS.iter().flat_map(|command| command.examples);
    for (line, description) in examples {
        text += &tagged(&bold(line), description);
    }
    text += &format!(
        ".SH FILES\nA model is a directory, {} by default, with these files:\n",
        escape(DEFAULT_MODEL_DIR)
    );
    for (heading, entries) in [
        ("", FILES),
        (".SH ENVIRONMENT\n", ENVIRONMENT),
        (".SH EXIT STATUS\n", EXIT_STATUS),
    ] {
        text += heading;
        for (name, description) in entries {
            text += &tagged(&bold(name), description);
        }
    }
    text
}

fn command_section(command: &Command) -> String {
    let mut text = format!(
        ".SS {}\n{}.\n",
        escape(&command.synopsis()),
        escape(command.summary)
    );
    if !command.details.is_empty() {
        text += &format!(".PP\n{}\n", paragraph(command.details));
    }
    if let Some(operand) = &command.operand
        && let Some(choices) = command.choices()
    {
        text += &format!(
            ".PP\n.I {}\n{}\n",
            escape(operand.name),
            paragraph(&format!("is one of {}.", choices.join(", ")))
        );
    }
    for (heading, flags) in command.groups() {
        if !heading.is_empty() {
            text += &format!(".PP\n{}:\n", escape(heading));
        }
        for flag in flags {
            text += &tagged(&label(flag), &description(flag));
        }
    }
    text
}

/// An option as typed, with literal text in bold and the placeholder in italics.
fn label(flag: &Flag) -> String {
    let short = flag
        .short
        .map_or(String::new(), |short| format!("\\fB\\-{short}\\fR, "));
    let value = flag.placeholder().map_or(String::new(), |value| {
        format!(" \\fI{}\\fR", escape(&value))
    });
    format!("{short}\\fB\\-\\-{}\\fR{value}", escape(flag.name))
}

/// Literal text in bold.
fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escape(text))
}

/// A paragraph with a hanging tag.
fn tagged(tag: &str, text: &str) -> String {
    format!(".TP\n{tag}\n{}\n", paragraph(text))
}

/// Running text with backquoted parts in bold. Each sentence starts a line, as roff expects.
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

/// Escapes text for roff: hyphens that can be copied, backslashes, and dots that would start a
/// request at the beginning of a line.
fn escape(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let escaped = escaped.replace('\'', "\\(aq").replace('…', "\\&...");
    let escaped = escaped.replace(" .", " \\&.");
    if escaped.starts_with('.') {
        return format!("\\&{escaped}");
    }
    escaped
}
