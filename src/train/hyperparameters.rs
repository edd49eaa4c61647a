//! Training hyperparameters: their defaults, ranges and JSON.

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::loss_on::LossOn;
use super::schedule::Schedule;
use crate::model::InvalidValue;
use crate::store::JsonObject;

/// The maximum number of documents per step. A larger one is taken for a mistake.
pub const MAX_BATCH_SIZE: usize = 1_000_000;

/// The settings of a run that shape the trained model, besides its size and text. A resumed run
/// inherits them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Hyperparameters {
    /// Seeds the initial weights, the order of documents and the validation split.
    pub seed: u64,
    /// Documents, conversations or windows per step.
    pub batch_size: usize,
    /// The peak learning rate.
    pub lr: f64,
    pub schedule: Schedule,
    /// Steps of linear warm-up to the peak learning rate.
    pub warmup_steps: u64,
    /// Decoupled weight decay (AdamW): each step shrinks the weights by `lr * weight_decay`.
    pub weight_decay: f64,
    /// The maximum global gradient norm; a longer gradient is scaled down to it.
    pub grad_clip: Option<f64>,
    /// Adam's decay rates of the first and the second moments.
    pub beta1: f64,
    pub beta2: f64,
    /// The probability that a value is dropped ([`Dropout`](crate::model::Dropout)).
    #[serde(skip_serializing_if = "is_zero")]
    pub dropout: f64,
    /// The fraction of the data held out for validation.
    pub validation_fraction: f64,
    #[serde(skip_serializing_if = "LossOn::is_all")]
    pub loss_on: LossOn,
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
            dropout: 0.0,
            validation_fraction: 0.0,
            loss_on: LossOn::All,
        }
    }
}

impl Hyperparameters {
    /// Returns the learning rate of step `step` (from 0) of `steps`: linear warm-up, then the
    /// schedule over the remaining steps.
    pub fn lr_at(&self, step: u64, steps: u64) -> f64 {
        match step.checked_sub(self.warmup_steps) {
            None => self.lr * (step + 1) as f64 / self.warmup_steps as f64,
            Some(step) => {
                let steps = steps.saturating_sub(self.warmup_steps);
                self.schedule.lr_at(self.lr, step, steps)
            }
        }
    }

    /// Checks the range of every setting.
    pub fn validate(&self) -> Result<(), InvalidValue> {
        let positive = |field, value: f64| {
            InvalidValue::unless(value > 0.0 && value.is_finite(), field, "> 0", value)
        };
        let fraction = |field, value: f64| {
            InvalidValue::unless((0.0..1.0).contains(&value), field, ">= 0 and < 1", value)
        };
        let range = format!("from 1 to {MAX_BATCH_SIZE}");
        let is_valid = (1..=MAX_BATCH_SIZE).contains(&self.batch_size);
        InvalidValue::unless(is_valid, "batch_size", &range, self.batch_size)?;
        positive("lr", self.lr)?;
        let is_valid = self.weight_decay >= 0.0 && self.weight_decay.is_finite();
        InvalidValue::unless(is_valid, "weight_decay", ">= 0", self.weight_decay)?;
        self.grad_clip
            .map_or(Ok(()), |norm| positive("grad_clip", norm))?;
        fraction("beta1", self.beta1)?;
        fraction("beta2", self.beta2)?;
        fraction("dropout", self.dropout)?;
        fraction("validation_fraction", self.validation_fraction)
    }

    /// Reads the keys of train_state.json; a missing one has its default. Errors name the key.
    pub fn from_json(state: &JsonObject) -> Result<Self> {
        let default = Self::default();
        let schedule = match state.get_string("schedule")? {
            None => default.schedule,
            Some(name) => name
                .parse()
                .with_context(|| format!("\"schedule\" is {name:?}"))?,
        };
        let batch_size = match state.get_integer("batch_size")? {
            None => default.batch_size,
            Some(size) => usize::try_from(size).unwrap_or(usize::MAX),
        };
        let number =
            |key, default: f64| Ok::<f64, anyhow::Error>(state.get_number(key)?.unwrap_or(default));
        let hyperparameters = Self {
            seed: state.get_integer("seed")?.unwrap_or(default.seed),
            batch_size,
            lr: number("lr", default.lr)?,
            schedule,
            warmup_steps: state
                .get_integer("warmup_steps")?
                .unwrap_or(default.warmup_steps),
            weight_decay: number("weight_decay", default.weight_decay)?,
            grad_clip: state.get_number("grad_clip")?,
            beta1: number("beta1", default.beta1)?,
            beta2: number("beta2", default.beta2)?,
            dropout: number("dropout", default.dropout)?,
            validation_fraction: number("validation_fraction", default.validation_fraction)?,
            loss_on: state
                .get_as("loss_on", "\"all\" or \"assistant\"", loss_on)?
                .unwrap_or(default.loss_on),
        };
        hyperparameters.validate()?;
        Ok(hyperparameters)
    }
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

fn loss_on(value: &Value) -> Option<LossOn> {
    let mut named = LossOn::NAMED.into_iter();
    named
        .find(|(name, _)| value == name)
        .map(|(_, loss_on)| loss_on)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_round_trip_and_ranges() {
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
            dropout: 0.375,
            validation_fraction: 0.125,
            loss_on: LossOn::Assistant,
        };
        let read = |json: Value| {
            Hyperparameters::from_json(&JsonObject::parse(json.to_string().as_bytes()).unwrap())
        };
        assert_eq!(read(json!(hyperparameters)).unwrap(), hyperparameters);
        assert_eq!(read(json!({})).unwrap(), Hyperparameters::default());
        for key in ["batch_size", "lr", "grad_clip"] {
            assert!(read(json!({ key: 0 })).is_err(), "{key}");
        }
        assert!(read(json!({ "batch_size": 1_000_001 })).is_err());
        assert!(read(json!({ "loss_on": "user" })).is_err());
        for key in ["beta1", "beta2", "dropout", "validation_fraction"] {
            assert!(read(json!({ key: 1 })).is_err(), "{key}");
        }
    }

    #[test]
    fn learning_rate_round_trip_is_bit_exact() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..1000 {
            let hyperparameters = Hyperparameters {
                lr: rng.f64() * 10f64.powi(rng.i32(-300..300)),
                ..Default::default()
            };
            let json = json!(hyperparameters).to_string();
            let read = Hyperparameters::from_json(&JsonObject::parse(json.as_bytes()).unwrap());
            assert_eq!(read.unwrap(), hyperparameters);
        }
    }

    #[test]
    fn warmup_precedes_the_schedule() {
        let hyperparameters = Hyperparameters {
            lr: 1.0,
            warmup_steps: 4,
            ..Default::default()
        };
        let rates: Vec<f64> = (0..8).map(|step| hyperparameters.lr_at(step, 8)).collect();
        assert_eq!(rates, [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(
            hyperparameters.lr_at(1, 3),
            0.5,
            "a run shorter than its warm-up"
        );
    }
}
