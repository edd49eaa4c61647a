//! How a training run shows where it is: a line now and then.

use std::time::{Duration, Instant};

use super::console;
use crate::train::StepReport;

/// The longest that a run stays silent.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

/// Counts what a run does, and says so.
pub struct ProgressMeter {
    quiet: bool,
    last_step: u64,
    /// How many steps are between two lines, unless they take too long.
    interval: u64,
    start: Instant,
    steps: u64,
    tokens: u64,
    /// Since the last line: when it was, and the losses.
    last_line: Instant,
    loss_sum: f64,
    loss_count: u64,
}

impl ProgressMeter {
    /// The progress of `steps` steps, which end with number `last_step`.
    pub fn new(steps: u64, last_step: u64, quiet: bool) -> Self {
        let now = Instant::now();
        Self {
            quiet,
            last_step,
            interval: (steps / 10).max(1),
            start: now,
            steps: 0,
            tokens: 0,
            last_line: now,
            loss_sum: 0.0,
            loss_count: 0,
        }
    }

    /// How many tokens were predicted since the start.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// How many seconds have passed since the start.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn tokens_per_second(&self) -> u64 {
        (self.tokens as f64 / self.seconds()) as u64
    }

    /// Counts a step, and says where the run is if it is time to.
    pub fn count(&mut self, report: &StepReport) {
        self.steps += 1;
        self.tokens += report.tokens as u64;
        self.loss_sum += report.loss;
        self.loss_count += 1;
        let done = report.step == self.last_step;
        if report.step.is_multiple_of(self.interval)
            || done
            || self.last_line.elapsed() > LONGEST_SILENCE
        {
            self.line(report);
            (self.last_line, self.loss_sum, self.loss_count) = (Instant::now(), 0.0, 0);
        }
    }

    fn line(&self, report: &StepReport) {
        if self.quiet {
            return;
        }
        let left = self.seconds() / self.steps as f64 * (self.last_step - report.step) as f64;
        console::note(format_args!(
            "step {:>width$}/{}  loss {:.4}  {} tokens/s  {} left",
            report.step,
            self.last_step,
            self.loss_sum / self.loss_count as f64,
            console::thousands(self.tokens_per_second()),
            duration(left),
            width = self.last_step.to_string().len(),
        ));
    }

    /// The last line of a run.
    pub fn summary(&self) {
        if !self.quiet {
            console::note(format_args!(
                "{} steps, {} tokens in {:.2} seconds, {} tokens/s",
                console::thousands(self.steps),
                console::thousands(self.tokens),
                self.seconds(),
                console::thousands(self.tokens_per_second()),
            ));
        }
    }
}

/// A time as a person would say it.
fn duration(seconds: f64) -> String {
    let seconds = seconds.ceil() as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_fitting_units() {
        assert_eq!(
            [0.2, 59.5, 61.0, 3725.0].map(duration),
            ["1s", "1m 00s", "1m 01s", "1h 02m"]
        );
    }
}
