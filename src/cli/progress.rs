//! How a training run shows where it is: a bar on a terminal, and a line now and then that stays.

use std::time::{Duration, Instant};

use super::bar::Bar;
use super::console;
use crate::train::{StepReport, nats_to_bits};

/// The longest that a run stays silent.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

/// How often the bar changes.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// How much of the bar's loss comes from the step before: it shows the mean of some 50 steps.
const SMOOTHING: f64 = 0.98;

/// Counts what a run does, and says so.
pub struct ProgressMeter {
    quiet: bool,
    bar: Option<Bar>,
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
    /// When the bar was changed last.
    last_change: Instant,
    smoothed: Smoothed,
}

/// A mean in which older numbers count less and less.
#[derive(Default)]
struct Smoothed {
    sum: f64,
    weight: f64,
}

impl Smoothed {
    fn add(&mut self, number: f64) {
        self.sum = SMOOTHING * self.sum + (1.0 - SMOOTHING) * number;
        self.weight = SMOOTHING * self.weight + (1.0 - SMOOTHING);
    }

    fn mean(&self) -> f64 {
        self.sum / self.weight
    }
}

impl ProgressMeter {
    /// The progress of `steps` steps, which end with number `last_step`.
    pub fn new(steps: u64, last_step: u64, quiet: bool) -> Self {
        let now = Instant::now();
        Self {
            quiet,
            bar: (!quiet && console::is_terminal()).then(|| Bar::new(steps)),
            last_step,
            interval: (steps / 10).max(1),
            start: now,
            steps: 0,
            tokens: 0,
            last_line: now,
            loss_sum: 0.0,
            loss_count: 0,
            last_change: now,
            smoothed: Smoothed::default(),
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
        self.smoothed.add(report.loss);
        let done = report.step == self.last_step;
        let is_time_for_line = report.step.is_multiple_of(self.interval)
            || done
            || self.last_line.elapsed() > LONGEST_SILENCE;
        if let Some(bar) = &self.bar
            && (is_time_for_line || self.last_change.elapsed() > BAR_INTERVAL)
        {
            bar.show(self.steps, self.line(report.step, self.smoothed.mean()));
            self.last_change = Instant::now();
        }
        if is_time_for_line {
            let loss = self.loss_sum / self.loss_count as f64;
            self.note(&self.line(report.step, loss));
            (self.last_line, self.loss_sum, self.loss_count) = (Instant::now(), 0.0, 0);
        }
    }

    fn line(&self, step: u64, loss: f64) -> String {
        let left = self.seconds() / self.steps as f64 * (self.last_step - step) as f64;
        format!(
            "step {step:>width$}/{}  loss {loss:.4}  {} tokens/s  {} left",
            self.last_step,
            console::group_thousands(self.tokens_per_second()),
            duration(left),
            width = self.last_step.to_string().len(),
        )
    }

    /// Says what a test gave.
    pub fn validated(&self, loss: f64, is_best: bool) {
        let best = if is_best { ", the best so far" } else { "" };
        self.note(&format!(
            "        validation loss {loss:.4} nats, {:.4} bits a token{best}",
            nats_to_bits(loss)
        ));
    }

    /// Says something, above the bar.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            self.warn(line);
        }
    }

    /// Says something even where the run is to be quiet.
    pub fn warn(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.above(|| console::eprintln(format_args!("{line}"))),
            None => console::eprintln(format_args!("{line}")),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }

    /// The last line of a run.
    pub fn summary(&self) {
        self.note(&format!(
            "{}, {} tokens in {:.2} seconds, {} tokens/s",
            console::pluralize(self.steps, "step"),
            console::group_thousands(self.tokens),
            self.seconds(),
            console::group_thousands(self.tokens_per_second()),
        ));
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

    #[test]
    fn a_smoothed_mean_begins_with_the_first_number() {
        let mut smoothed = Smoothed::default();
        smoothed.add(3.0);
        assert!((smoothed.mean() - 3.0).abs() < 1e-12);
        (0..500).for_each(|_| smoothed.add(1.0));
        assert!((smoothed.mean() - 1.0).abs() < 1e-3);
    }
}
