//! Learning rate schedules.

use std::f64::consts::PI;
use std::str::FromStr;

use anyhow::{Context, Result};
use serde::Serialize;

/// The decay of the learning rate from its peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// To 0, linearly.
    Linear,
    /// To 0, along half a cosine (Loshchilov and Hutter 2017, <https://arxiv.org/abs/1608.03983>).
    Cosine,
    /// No decay.
    Constant,
}

impl Schedule {
    pub const NAMED: [(&str, Self); 3] = [
        ("linear", Schedule::Linear),
        ("cosine", Schedule::Cosine),
        ("constant", Schedule::Constant),
    ];

    /// Returns the learning rate of step `step` (from 0) of `steps`.
    pub fn lr_at(self, peak: f64, step: u64, steps: u64) -> f64 {
        let done = step as f64 / steps as f64;
        match self {
            Schedule::Linear => peak * (1.0 - done),
            Schedule::Cosine => peak * (1.0 + (PI * done).cos()) / 2.0,
            Schedule::Constant => peak,
        }
    }
}

impl FromStr for Schedule {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let named = Self::NAMED.iter().find(|(known, _)| *known == name);
        let (_, schedule) = named.with_context(|| {
            let names = Self::NAMED.map(|(name, _)| name);
            format!("expected one of {}", names.join(", "))
        })?;
        Ok(*schedule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learning_rates_match_their_formulas() {
        let rates = |name: &str| {
            let schedule: Schedule = name.parse().unwrap();
            [0, 25, 50, 100].map(|step| (schedule.lr_at(0.01, step, 100) * 1e6).round() / 1e6)
        };
        assert_eq!(rates("linear"), [0.01, 0.0075, 0.005, 0.0]);
        assert_eq!(rates("cosine"), [0.01, 0.008536, 0.005, 0.0]);
        assert_eq!(rates("constant"), [0.01; 4]);
        assert!("quadratic".parse::<Schedule>().is_err());
    }
}
