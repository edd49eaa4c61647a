//! How a model is trained: everything that shapes the result beside the model and the text.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Schedule;
use crate::store::JsonObject;

/// More documents a step than this are a mistake.
pub const MAX_BATCH_SIZE: u64 = 1_000_000;

/// The settings of a run, which one that goes on from it takes over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyperparameters {
    /// The seed of the initial weights, of the documents' order, and of what is held out.
    pub seed: u64,
    /// How many documents a step takes.
    pub batch_size: usize,
    /// The peak learning rate.
    pub lr: f64,
    pub schedule: Schedule,
    /// How many steps it takes to reach the peak.
    pub warmup_steps: u64,
    /// How much of a weight each step takes away, as a multiple of the learning rate.
    pub weight_decay: f64,
    /// The longest that the gradient of all weights together may be; a longer one is scaled.
    pub grad_clip: Option<f64>,
    /// Adam's decay rates of the mean gradient and of the mean squared gradient.
    pub beta1: f64,
    pub beta2: f64,
    /// The share of the text that is held out for validation.
    pub validation_fraction: f64,
}

impl Default for Hyperparameters {
    fn default() -> Self {
        Self {
            seed: 42,
            batch_size: 32,
            lr: 0.01,
            schedule: Schedule::Linear,
            warmup_steps: 0,
            weight_decay: 0.0,
            grad_clip: None,
            beta1: 0.85,
            beta2: 0.99,
            validation_fraction: 0.0,
        }
    }
}

impl Hyperparameters {
    /// The learning rate of step `step` (from 0) of `steps`: up to the peak in a straight line
    /// while it warms up, then as the schedule has it over the steps that are left.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        match step.checked_sub(self.warmup_steps) {
            None => self.lr * (step + 1) as f64 / self.warmup_steps as f64,
            Some(done) => {
                self.schedule
                    .rate(self.lr, done, steps.saturating_sub(self.warmup_steps))
            }
        }
    }

    /// The keys of train_state.json.
    pub fn to_json(self) -> Value {
        let Self {
            seed,
            batch_size,
            lr,
            schedule,
            warmup_steps,
            weight_decay,
            grad_clip,
            beta1,
            beta2,
            validation_fraction,
        } = self;
        json!({
            "seed": seed,
            "batch_size": batch_size,
            "lr": lr,
            "schedule": schedule.name(),
            "warmup_steps": warmup_steps,
            "weight_decay": weight_decay,
            "grad_clip": grad_clip,
            "beta1": beta1,
            "beta2": beta2,
            "validation_fraction": validation_fraction,
        })
    }

    /// Reads these keys; those that are missing have their default. Errors where one is out of
    /// range.
    pub fn from_json(state: &JsonObject) -> Result<Self> {
        let default = Self::default();
        let number = |key, default, fits: fn(f64) -> bool| {
            let number = state.get_number(key)?.unwrap_or(default);
            ensure!(fits(number), "\"{key}\" is out of range: {number}");
            Ok(number)
        };
        let schedule = match state.get_string("schedule")? {
            None => default.schedule,
            Some(name) => name
                .parse()
                .with_context(|| format!("\"schedule\" is {name:?}"))?,
        };
        let batch_size = state.get_whole("batch_size")?;
        let batch_size = batch_size.unwrap_or(default.batch_size as u64);
        ensure!(
            (1..=MAX_BATCH_SIZE).contains(&batch_size),
            "\"batch_size\" is out of range: {batch_size}"
        );
        let grad_clip = state.get_number("grad_clip")?;
        ensure!(
            grad_clip.is_none_or(|clip| clip > 0.0),
            "\"grad_clip\" has to be > 0"
        );
        Ok(Self {
            seed: state.get_whole("seed")?.unwrap_or(default.seed),
            batch_size: batch_size as usize,
            lr: number("lr", default.lr, |lr| lr > 0.0)?,
            schedule,
            warmup_steps: state.get_whole("warmup_steps")?.unwrap_or(0),
            weight_decay: number("weight_decay", 0.0, |decay| decay >= 0.0)?,
            grad_clip,
            beta1: number("beta1", default.beta1, is_share)?,
            beta2: number("beta2", default.beta2, is_share)?,
            validation_fraction: number("validation_fraction", 0.0, is_share)?,
        })
    }
}

/// Whether a number is at least 0 and less than 1.
pub fn is_share(number: f64) -> bool {
    (0.0..1.0).contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let hyperparameters = Hyperparameters {
            seed: 7,
            batch_size: 3,
            lr: 0.25,
            schedule: Schedule::Cosine,
            warmup_steps: 5,
            weight_decay: 0.5,
            grad_clip: Some(1.5),
            beta1: 0.5,
            beta2: 0.75,
            validation_fraction: 0.125,
        };
        let read = |json: Value| {
            Hyperparameters::from_json(&JsonObject::parse(json.to_string().as_bytes()).unwrap())
        };
        assert_eq!(read(hyperparameters.to_json()).unwrap(), hyperparameters);
        assert_eq!(read(json!({})).unwrap(), Hyperparameters::default());
        for key in ["batch_size", "lr", "grad_clip"] {
            assert!(read(json!({ key: 0 })).is_err(), "{key}");
        }
        assert!(read(json!({ "batch_size": 1_000_001 })).is_err());
        for key in ["beta1", "beta2", "validation_fraction"] {
            assert!(read(json!({ key: 1 })).is_err(), "{key}");
        }
    }

    #[test]
    fn any_rate_is_read_to_its_last_bit() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..1000 {
            let hyperparameters = Hyperparameters {
                lr: rng.f64() * 10f64.powi(rng.i32(-300..300)),
                ..Default::default()
            };
            let json = hyperparameters.to_json().to_string();
            let read = Hyperparameters::from_json(&JsonObject::parse(json.as_bytes()).unwrap());
            assert_eq!(read.unwrap(), hyperparameters);
        }
    }

    #[test]
    fn the_rate_rises_before_it_falls() {
        let hyperparameters = Hyperparameters {
            lr: 1.0,
            warmup_steps: 4,
            ..Default::default()
        };
        let rates: Vec<f64> = (0..8).map(|step| hyperparameters.rate(step, 8)).collect();
        assert_eq!(rates, [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(
            hyperparameters.rate(1, 3),
            0.5,
            "all of a short run is a warm-up"
        );
    }
}
