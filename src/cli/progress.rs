//! The progress of a training run on stderr: a bar on a terminal, and lines at intervals.

use std::time::{Duration, Instant};

use super::console;
use super::progress_bar::ProgressBar;
use crate::train::{StepReport, nats_to_bits};

/// The maximum time between two lines.
const MAX_LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The minimum time between two updates of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// The decay of the bar's loss per step: an average over about 50 steps.
const DECAY: f64 = 0.98;

/// The step counter of a run, and its output.
pub struct ProgressMeter {
    quiet: bool,
    bar: Option<ProgressBar>,
    total_steps: u64,
    last_step: u64,
    /// Steps between two lines, unless they take longer than [`MAX_LINE_INTERVAL`].
    line_interval: u64,
    start: Instant,
    steps: u64,
    tokens: u64,
    last_line: Instant,
    /// The sum and the number of losses since the last line.
    loss_sum: f64,
    loss_count: u64,
    last_bar_update: Instant,
    bar_loss: MovingAverage,
}

/// An exponential moving average without a bias towards 0.
#[derive(Default)]
struct MovingAverage {
    sum: f64,
    weight: f64,
}

impl MovingAverage {
    fn add(&mut self, value: f64) {
        self.sum = DECAY * self.sum + (1.0 - DECAY) * value;
        self.weight = DECAY * self.weight + (1.0 - DECAY);
    }

    fn mean(&self) -> f64 {
        self.sum / self.weight
    }
}

impl ProgressMeter {
    /// Starts the clock of a run of `steps` steps, the last of which has the number `last_step`.
    pub fn new(steps: u64, last_step: u64, quiet: bool) -> Self {
        let now = Instant::now();
        Self {
            quiet,
            bar: (!quiet && console::is_terminal()).then(ProgressBar::default),
            total_steps: steps,
            last_step,
            line_interval: (steps / 10).max(1),
            start: now,
            steps: 0,
            tokens: 0,
            last_line: now,
            loss_sum: 0.0,
            loss_count: 0,
            last_bar_update: now,
            bar_loss: MovingAverage::default(),
        }
    }

    /// Predicted tokens since the start.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn tokens_per_second(&self) -> u64 {
        (self.tokens as f64 / self.seconds()) as u64
    }

    /// Counts a step, and updates the output if it is due.
    pub fn record(&mut self, report: &StepReport) {
        self.steps += 1;
        self.tokens += report.tokens as u64;
        self.loss_sum += report.loss;
        self.loss_count += 1;
        self.bar_loss.add(report.loss);
        let is_line_due = report.step.is_multiple_of(self.line_interval)
            || report.step == self.last_step
            || self.last_line.elapsed() > MAX_LINE_INTERVAL;
        let is_bar_due = is_line_due || self.last_bar_update.elapsed() > BAR_INTERVAL;
        if let Some(mut bar) = self.bar.take_if(|_| is_bar_due) {
            let line = self.line(report.step, self.bar_loss.mean());
            bar.update(self.steps as f64 / self.total_steps as f64, &line);
            self.bar = Some(bar);
            self.last_bar_update = Instant::now();
        }
        if is_line_due {
            let loss = self.loss_sum / self.loss_count as f64;
            self.println(&self.line(report.step, loss));
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

    /// Prints a validation loss in nats per token.
    pub fn print_validation(&self, loss: f64, is_best: bool) {
        let best = if is_best { ", the best so far" } else { "" };
        self.println(&format!(
            "        validation loss {loss:.4} nats, {:.4} bits per token{best}",
            nats_to_bits(loss)
        ));
    }

    /// Prints a line above the bar, unless the run is quiet.
    pub fn println(&self, line: &str) {
        if !self.quiet {
            self.warn(line);
        }
    }

    /// Prints a line above the bar, even if the run is quiet.
    pub fn warn(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => console::eprintln(format_args!("{line}")),
        }
    }

    /// Removes the bar.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.clear();
        }
    }

    /// Prints the totals of the run.
    pub fn print_summary(&self) {
        self.println(&format!(
            "{}, {} in {:.2} seconds, {} tokens/s",
            console::pluralize(self.steps, "step"),
            console::pluralize(self.tokens, "token"),
            self.seconds(),
            console::group_thousands(self.tokens_per_second()),
        ));
    }
}

/// Formats a duration in its two largest units.
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
    fn durations_have_two_units() {
        assert_eq!(
            [0.2, 59.5, 61.0, 3725.0].map(duration),
            ["1s", "1m 00s", "1m 01s", "1h 02m"]
        );
    }

    #[test]
    fn moving_average_starts_at_the_first_value() {
        let mut average = MovingAverage::default();
        average.add(3.0);
        assert!((average.mean() - 3.0).abs() < 1e-12);
        (0..500).for_each(|_| average.add(1.0));
        assert!((average.mean() - 1.0).abs() < 1e-3);
    }
}
