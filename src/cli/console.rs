//! Output on stdout and stderr, and the formatting of messages.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use ::console::Term;

use super::failure::{Failure, StdoutError};

/// Buffered standard output. Dropping it discards write errors: call [`Output::flush`] first.
pub struct Output(io::BufWriter<io::StdoutLock<'static>>);

impl Output {
    pub fn new() -> Self {
        Self(io::BufWriter::with_capacity(1 << 16, io::stdout().lock()))
    }

    pub fn write(&mut self, text: impl AsRef<[u8]>) -> Result<(), Failure> {
        self.0.write_all(text.as_ref()).map_err(StdoutError)?;
        Ok(())
    }

    /// Writes the buffer out.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(StdoutError)?;
        Ok(())
    }
}

/// Prints a result to stdout.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut output = Output::new();
    output.write(text)?;
    output.flush()
}

/// Prints a line to stderr. Ignores errors, which have no other place to be reported.
pub fn eprintln(line: fmt::Arguments) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Returns whether stderr is a terminal that can move its cursor.
pub fn is_terminal() -> bool {
    io::stderr().is_terminal() && !is_dumb_terminal()
}

/// Returns whether colours on stdout are seen: it is a terminal that shows them, and `NO_COLOR` permits.
pub fn stdout_has_colour() -> bool {
    wants_colour() && io::stdout().is_terminal() && !is_dumb_terminal()
}

fn is_dumb_terminal() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// The width of the terminal in columns.
pub fn width() -> usize {
    usize::from(Term::stderr().size().1)
}

/// Returns whether `NO_COLOR` permits colour: <https://no-color.org>.
pub fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns whether the locale's encoding is UTF-8.
pub fn can_show_unicode() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty());
    let locale = locale.unwrap_or_default().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Formats a number with thousands separators: `12,345`.
pub fn group_thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number and a noun: `1 step`, `1,000 steps`.
pub fn pluralize(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", group_thousands(number))
}

/// Escapes line breaks as `\n` and `\r`.
pub fn single_line(text: &str) -> String {
    if !text.contains(['\n', '\r']) {
        return text.to_string();
    }
    text.replace('\n', "\\n").replace('\r', "\\r")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_thousands_separators() {
        let numbers = [0, 999, 1000, 1234567];
        assert_eq!(
            numbers.map(group_thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
        let steps = [1, 2, 1000].map(|number| pluralize(number, "step"));
        assert_eq!(steps, ["1 step", "2 steps", "1,000 steps"]);
    }
}
