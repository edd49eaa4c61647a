//! Unsuccessful ends of a command, their messages and exit codes.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::train::FailedElsewhere;

/// An unsuccessful end of a command.
#[derive(Debug)]
pub enum Failure {
    /// An invalid command line.
    Usage(String),
    /// An error at run time.
    Error(anyhow::Error),
    /// A clean stop by a signal, given by its number.
    Signal(i32),
    /// An end whose message is printed already, by its exit code.
    Reported(u8),
}

/// A failed write to standard output.
#[derive(Debug)]
pub struct StdoutError(pub io::Error);

impl fmt::Display for StdoutError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "cannot write to standard output: {}", self.0)
    }
}

impl std::error::Error for StdoutError {}

impl Failure {
    /// Prints the message to stderr and returns the exit code.
    pub fn report(self) -> ExitCode {
        ExitCode::from(self.print())
    }

    /// Prints the message to stderr and returns the number of the exit code.
    pub fn print(&self) -> u8 {
        if let Some(message) = self.message() {
            let _ = writeln!(io::stderr(), "microgpt: error: {message}");
        }
        match self {
            Failure::Usage(_) => 2,
            Failure::Error(error) if is_broken_pipe(error) => 0,
            Failure::Error(_) => 1,
            Failure::Signal(number) => 128 + *number as u8,
            Failure::Reported(code) => *code,
        }
    }

    /// Returns the message on one line, or `None` if the command ends silently.
    pub fn message(&self) -> Option<String> {
        match self {
            Failure::Usage(message) => Some(one_line(message)),
            // A reader that stops early, as in `microgpt generate | head -3`, is a success.
            Failure::Error(error) if is_broken_pipe(error) => None,
            Failure::Error(error) if error.is::<FailedElsewhere>() => None,
            Failure::Error(error) => Some(one_line(&error_chain(error))),
            Failure::Signal(_) | Failure::Reported(_) => None,
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Error(error.into())
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<StdoutError>()
        .is_some_and(|error| error.0.kind() == io::ErrorKind::BrokenPipe)
}

/// Joins an error and its causes, outermost first, without the backtraces of candle's errors.
fn error_chain(error: &anyhow::Error) -> String {
    let causes = error
        .chain()
        .map(|cause| match cause.downcast_ref::<candle_core::Error>() {
            Some(candle_core::Error::WithBacktrace { inner, .. }) => inner.to_string(),
            _ => cause.to_string(),
        });
    causes.collect::<Vec<_>>().join(": ")
}

/// Joins the lines of a message, and escapes control characters, which may come from a file.
fn one_line(message: &str) -> String {
    let lines = message.split(['\n', '\r']).map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let mut text = String::new();
    for c in lines.join(" ").chars() {
        match c.is_control() {
            true => text.extend(c.escape_default()),
            false => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_one_line_without_control_characters() {
        let message = |text: &str| Failure::Usage(text.to_string()).message().unwrap();
        assert_eq!(message("a\r\n  b\n\nc\n"), "a b c");
        assert_eq!(message("é\u{1b}[2J\tx\0"), "é\\u{1b}[2J\\tx\\u{0}");
    }
}
