//! Signals to process 1, as the program is in a container. The kernel discards a signal to it that
//! has no handler, so Ctrl-C and `docker stop` would do nothing.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::flag;

use super::flags::ParsedCommand;

/// Installs handlers that exit, in process 1, for the signals that the command does not handle.
pub fn exit_on_signals(command: &ParsedCommand) -> Result<()> {
    if std::process::id() != 1 {
        return Ok(());
    }
    let handled: &[i32] = match command {
        ParsedCommand::Train(..) => &[SIGINT, SIGTERM, SIGHUP],
        ParsedCommand::Serve(_) => &[SIGINT, SIGTERM],
        ParsedCommand::Chat(_) if io::stdin().is_terminal() => &[SIGINT],
        _ => &[],
    };
    for number in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
        if !handled.contains(&number) {
            let always = Arc::new(AtomicBool::new(true));
            flag::register_conditional_shutdown(number, 128 + number, always)
                .context("cannot install signal handlers")?;
        }
    }
    Ok(())
}
