//! Signals during a run.
//!
//! SIGINT and SIGTERM stop it, SIGHUP (a closed terminal) too, and SIGUSR1 (the warning of Slurm and
//! of cloud machines before they stop a job) only saves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

/// The signal handlers of a run, and the signals that arrived.
pub struct Signals {
    /// The number of the signal that requested a stop; 0 before it.
    received: Arc<AtomicUsize>,
    save: Arc<AtomicBool>,
    /// Nothing is left to save, so that a signal exits at once.
    idle: Arc<AtomicBool>,
    /// [`Self::idle`], or a stop was requested: another SIGINT or SIGTERM exits at once.
    exit_on_next: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers. Signals exit at once until [`Self::begin`].
    pub fn install() -> Result<Self> {
        let signals = Self {
            received: Arc::default(),
            save: Arc::default(),
            idle: Arc::new(AtomicBool::new(true)),
            exit_on_next: Arc::new(AtomicBool::new(true)),
        };
        signals
            .register()
            .context("cannot install signal handlers")?;
        Ok(signals)
    }

    fn register(&self) -> std::io::Result<()> {
        for number in [SIGINT, SIGTERM] {
            let exit_on_next = &self.exit_on_next;
            flag::register_conditional_shutdown(number, 128 + number, Arc::clone(exit_on_next))?;
            flag::register(number, Arc::clone(exit_on_next))?;
            flag::register_usize(number, Arc::clone(&self.received), number as usize)?;
        }
        // The shell and the terminal may each send one, so that a second one does not exit.
        if !is_ignored(SIGHUP) {
            flag::register_conditional_shutdown(SIGHUP, 128 + SIGHUP, Arc::clone(&self.idle))?;
            flag::register_usize(SIGHUP, Arc::clone(&self.received), SIGHUP as usize)?;
        }
        flag::register(SIGUSR1, Arc::clone(&self.save))?;
        Ok(())
    }

    /// Makes signals stop the run after its current step.
    pub fn begin(&self) {
        self.exit_on_next.store(false, Ordering::Relaxed);
        self.idle.store(false, Ordering::Relaxed);
    }

    /// The number of the signal that requested a stop.
    pub fn received(&self) -> Option<i32> {
        match self.received.load(Ordering::Relaxed) {
            0 => None,
            number => Some(number as i32),
        }
    }

    /// Returns whether SIGUSR1 arrived since the last call.
    pub fn take_save_request(&self) -> bool {
        self.save.swap(false, Ordering::Relaxed)
    }

    /// Makes the next signal exit at once, for when nothing is left to save.
    pub fn exit_on_next_signal(&self) {
        self.idle.store(true, Ordering::Relaxed);
        self.exit_on_next.store(true, Ordering::Relaxed);
    }
}

/// Returns whether the process was started with a signal ignored, as `nohup` does with SIGHUP.
fn is_ignored(number: i32) -> bool {
    // SAFETY: without a new action, sigaction only writes the current one to `action`, for which all
    // zeros is a valid value.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(number, std::ptr::null(), &mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}
