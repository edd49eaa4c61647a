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
        match self {
            Failure::Usage(message) => {
                console::note(format_args!("microgpt: error: {}", one_line(&message)));
                ExitCode::from(2)
            }
            // Whoever read our output has seen enough: `microgpt generate | head -3` is no error.
            Failure::Error(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
            Failure::Error(error) => {
                console::note(format_args!(
                    "microgpt: error: {}",
                    one_line(&describe(&error))
                ));
                ExitCode::FAILURE
            }
            Failure::Signal(number) => ExitCode::from(128 + number as u8),
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

fn one_line(message: &str) -> String {
    message
        .split(['\n', '\r'])
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}
