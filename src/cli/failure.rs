//! The ways in which a command can end other than well.

use std::io;
use std::process::ExitCode;

use super::console;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub enum Failure {
    /// The command line was wrong.
    Usage(String),
    /// Something went wrong while it ran.
    Error(anyhow::Error),
    /// A signal stopped it in good order; its number.
    Signal(i32),
}

impl Failure {
    /// Says what is to be said, in one line, and gives the exit code.
    pub fn report(self) -> ExitCode {
        if let Some(message) = self.message() {
            console::eprintln(format_args!("microgpt: error: {message}"));
        }
        match self {
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Error(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
            Failure::Error(_) => ExitCode::FAILURE,
            Failure::Signal(number) => ExitCode::from(128 + number as u8),
        }
    }

    /// What is to be said, in one line; none where there is nothing to say.
    pub fn message(&self) -> Option<String> {
        match self {
            Failure::Usage(message) => Some(one_line(message)),
            // Whoever read our output has seen enough: `microgpt generate | head -3` is no error.
            Failure::Error(error) if is_broken_pipe(error) => None,
            Failure::Error(error) => Some(one_line(&describe(error))),
            Failure::Signal(_) => None,
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
        .downcast_ref::<console::StdoutError>()
        .is_some_and(|error| error.0.kind() == io::ErrorKind::BrokenPipe)
}

/// The error and its causes, from the outermost in. Candle's errors carry backtraces, which are not
/// for users.
fn describe(error: &anyhow::Error) -> String {
    let causes = error
        .chain()
        .map(|cause| match cause.downcast_ref::<candle_core::Error>() {
            Some(candle_core::Error::WithBacktrace { inner, .. }) => inner.to_string(),
            _ => cause.to_string(),
        });
    causes.collect::<Vec<_>>().join(": ")
}

/// A message on a single line. What else a terminal would obey, which may come from a file, is
/// shown as an escape.
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
    fn a_message_is_one_line_that_moves_no_cursor() {
        let message = |text: &str| Failure::Usage(text.to_string()).message().unwrap();
        assert_eq!(message("a\r\n  b\n\nc\n"), "a b c");
        assert_eq!(message("é\u{1b}[2J\tx\0"), "é\\u{1b}[2J\\tx\\u{0}");
    }
}
