//! Ctrl-C and SIGTERM during a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Handlers of SIGINT and SIGTERM: the first signal requests a stop, the second exits at once.
pub struct Signals {
    /// The number of the first signal; 0 before it.
    received: Arc<AtomicUsize>,
    exit_on_next: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers.
    pub fn install() -> Result<Self> {
        let signals = Self {
            received: Arc::default(),
            exit_on_next: Arc::default(),
        };
        for number in [SIGINT, SIGTERM] {
            let (received, exit_on_next) = (&signals.received, &signals.exit_on_next);
            flag::register_conditional_shutdown(number, 128 + number, Arc::clone(exit_on_next))
                .and_then(|_| flag::register(number, Arc::clone(exit_on_next)))
                .and_then(|_| flag::register_usize(number, Arc::clone(received), number as usize))
                .context("cannot install signal handlers")?;
        }
        Ok(signals)
    }

    /// The number of the signal that requested a stop.
    pub fn received(&self) -> Option<i32> {
        match self.received.load(Ordering::Relaxed) {
            0 => None,
            number => Some(number as i32),
        }
    }

    /// Makes the next signal exit at once, for when nothing is left to save.
    pub fn exit_on_next_signal(&self) {
        self.exit_on_next.store(true, Ordering::Relaxed);
    }
}
