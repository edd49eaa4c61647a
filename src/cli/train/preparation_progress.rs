//! The progress of reading a large text, on a terminal.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::super::console;
use super::super::progress_bar::ProgressBar;

/// The minimum time between two updates of the bar.
const INTERVAL: Duration = Duration::from_millis(100);

/// A bar that appears if reading takes longer than [`INTERVAL`].
pub struct PreparationProgress {
    is_shown: bool,
    bar: RefCell<ProgressBar>,
}

impl PreparationProgress {
    pub fn new(quiet: bool) -> Self {
        Self {
            is_shown: !quiet && console::is_terminal(),
            bar: RefCell::default(),
        }
    }

    /// Returns the callback of a pass over `total` bytes, 0 if their number is unknown. It takes the
    /// number of bytes so far.
    pub fn pass(&self, verb: &'static str, total: u64) -> impl Fn(u64) + '_ {
        let start = Instant::now();
        let last_update = RefCell::new(start);
        move |bytes| {
            let mut last_update = last_update.borrow_mut();
            if !self.is_shown || last_update.elapsed() < INTERVAL {
                return;
            }
            *last_update = Instant::now();
            let fraction = match total {
                0 => 0.0,
                total => bytes as f64 / total as f64,
            };
            let speed = bytes as f64 / 1e6 / start.elapsed().as_secs_f64();
            let message = format!(
                "{verb} {} MB at {speed:.0} MB/s",
                console::group_thousands(bytes / 1_000_000)
            );
            self.bar.borrow_mut().update(fraction, &message);
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        if self.is_shown {
            self.bar.into_inner().clear();
        }
    }
}
