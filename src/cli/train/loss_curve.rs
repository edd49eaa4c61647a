//! The loss of a run by step, in bounded memory, for plots.

use crate::train::StepReport;

/// The maximum number of points, beyond the resolution of a plot.
const MAX_POINTS: usize = 2048;

/// The training and the validation loss by step.
pub struct LossCurve {
    /// Means over `stride` steps each; the last may have fewer.
    means: Vec<Mean>,
    stride: u64,
    /// The first and the last step.
    pub steps: (u64, u64),
    pub validation: Vec<Point>,
}

/// A loss at a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub step: f64,
    pub loss: f64,
}

#[derive(Clone, Copy)]
struct Mean {
    count: u64,
    steps: f64,
    losses: f64,
}

impl LossCurve {
    pub fn new() -> Self {
        Self {
            means: Vec::new(),
            stride: 1,
            steps: (0, 0),
            validation: Vec::new(),
        }
    }

    /// Adds a step. Merges pairs of points when there are [`MAX_POINTS`].
    pub fn add(&mut self, report: &StepReport) {
        if self.means.is_empty() {
            self.steps.0 = report.step;
        }
        self.steps.1 = report.step;
        match self.means.last_mut() {
            Some(last) if last.count < self.stride => last.add(report),
            _ => {
                if self.means.len() == MAX_POINTS {
                    self.means = self.means.chunks(2).map(Mean::merge).collect();
                    self.stride *= 2;
                }
                let mut mean = Mean::merge(&[]);
                mean.add(report);
                self.means.push(mean);
            }
        }
    }

    /// Returns the training loss: means over equal numbers of steps.
    pub fn training(&self) -> Vec<Point> {
        self.training_in(usize::MAX)
    }

    /// Returns the training loss in at most `max_points` points.
    pub fn training_in(&self, max_points: usize) -> Vec<Point> {
        let size = self.means.len().div_ceil(max_points.max(1)).max(1);
        let chunks = self.means.chunks(size);
        chunks.map(|chunk| Mean::merge(chunk).point()).collect()
    }
}

impl Mean {
    fn merge(means: &[Mean]) -> Self {
        Self {
            count: means.iter().map(|mean| mean.count).sum(),
            steps: means.iter().map(|mean| mean.steps).sum(),
            losses: means.iter().map(|mean| mean.losses).sum(),
        }
    }

    fn add(&mut self, report: &StepReport) {
        self.count += 1;
        self.steps += report.step as f64;
        self.losses += report.loss;
    }

    fn point(&self) -> Point {
        Point {
            step: self.steps / self.count as f64,
            loss: self.losses / self.count as f64,
        }
    }
}

/// Returns the minimum and the maximum.
pub fn range(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), number| {
        (low.min(number), high.max(number))
    })
}

/// A test curve with the losses 1, 1/2, 1/3, …
#[cfg(test)]
pub fn harmonic(steps: u64) -> LossCurve {
    let mut curve = LossCurve::new();
    for step in 1..=steps {
        curve.add(&StepReport {
            step,
            loss: 1.0 / step as f64,
            lr: 0.0,
            tokens: 1,
        });
    }
    curve
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curve_is_exact_in_bounded_memory() {
        let curve = harmonic(100_000);
        let points = curve.training();
        assert!((MAX_POINTS / 2..=MAX_POINTS).contains(&points.len()));
        assert!(points.windows(2).all(|pair| pair[0].step < pair[1].step));
        assert!(points.iter().all(|p| (p.loss * p.step - 1.0).abs() < 4.0));
        let weighted: f64 = curve.means.iter().map(|mean| mean.losses).sum();
        let expected: f64 = (1..=100_000).map(|step| 1.0 / f64::from(step)).sum();
        assert!((weighted - expected).abs() < 1e-9);
    }

    #[test]
    fn short_curve_has_every_step() {
        let points = harmonic(3).training();
        assert_eq!(points.len(), 3);
        assert_eq!((points[1].step, points[1].loss), (2.0, 0.5));
        assert_eq!(harmonic(10).training_in(5).len(), 5);
        assert!(LossCurve::new().training().is_empty());
    }
}
