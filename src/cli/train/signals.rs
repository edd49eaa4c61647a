//! Ctrl-C and SIGTERM during a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The first signal asks to stop; a second one ends the program at once.
pub struct Signals {
    /// The number of the signal that asked; 0 while none did.
    asked: Arc<AtomicUsize>,
    /// Whether the next one ends the program.
    impatient: Arc<AtomicBool>,
}

impl Signals {
    /// Starts watching. Errors where the system does not allow it.
    pub fn watch() -> Result<Self> {
        let signals = Self {
            asked: Arc::default(),
            impatient: Arc::default(),
        };
        for number in [SIGINT, SIGTERM] {
            let (asked, impatient) = (&signals.asked, &signals.impatient);
            flag::register_conditional_shutdown(number, 128 + number, Arc::clone(impatient))
                .and_then(|_| flag::register(number, Arc::clone(impatient)))
                .and_then(|_| flag::register_usize(number, Arc::clone(asked), number as usize))
                .context("cannot watch for signals")?;
        }
        Ok(signals)
    }

    /// The number of the signal that asked to stop.
    pub fn asked(&self) -> Option<i32> {
        match self.asked.load(Ordering::Relaxed) {
            0 => None,
            number => Some(number as i32),
        }
    }

    /// From now on, already the first one ends the program: there is nothing left to save.
    pub fn be_impatient(&self) {
        self.impatient.store(true, Ordering::Relaxed);
    }
}
