//! Requests to a run between two steps.

use super::signals::Signals;
use crate::train::Ranks;

/// The requests that reached any rank, so that all do the same after the same step.
#[derive(Clone, Copy, Default)]
pub struct Requests {
    /// The number of the signal that requests a stop.
    pub signal: Option<i32>,
    /// SIGUSR1 requests a checkpoint.
    pub save: bool,
    /// The log cannot be written.
    log_failed: bool,
}

impl Requests {
    /// Exchanges the requests of all ranks.
    pub fn of_all(ranks: &Ranks, signals: &Signals, log_failed: bool) -> Self {
        let signal = signals.received().unwrap_or(0) as u64;
        let save = signals.take_save_request();
        let [signal, save, log_failed] = ranks.max([signal, save.into(), log_failed.into()]);
        Self {
            signal: (signal > 0).then_some(signal as i32),
            save: save > 0,
            log_failed: log_failed > 0,
        }
    }

    /// Returns whether the run stops.
    pub fn stop(self) -> bool {
        self.signal.is_some() || self.log_failed
    }
}
