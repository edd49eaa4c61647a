//! train_state.json: the progress of a run and its hyperparameters.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::hyperparameters::Hyperparameters;
use crate::data::Fingerprint;
use crate::store::{JsonObject, Snapshot, TRAIN_STATE};

/// The progress of a run and its hyperparameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainState {
    /// Completed training steps.
    pub step: u64,
    /// Completed Adam updates.
    pub adam_step: u64,
    /// Documents or windows consumed; `None` in directories of programs that don't record it.
    pub documents: Option<u64>,
    pub hyperparameters: Hyperparameters,
    /// The mean validation loss in nats per token, if it was measured at this step.
    pub validation_loss: Option<f64>,
    /// The path of the training text, `-` for standard input; `None` for the built-in text.
    pub input: Option<String>,
    /// The length and the hash of the training text; `None` in older directories.
    pub fingerprint: Option<Fingerprint>,
}

impl TrainState {
    /// Returns the content of train_state.json.
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "step": self.step,
            "adam_step": self.adam_step,
            "documents": self.documents,
            "input": self.input,
            "input_bytes": self.fingerprint.map(|fingerprint| fingerprint.bytes),
            "input_hash": self.fingerprint.map(|fingerprint| format!("{:016x}", fingerprint.hash)),
            "validation_loss": self.validation_loss,
            "validation_bits": self.validation_loss.map(nats_to_bits),
        });
        if let (Value::Object(json), Value::Object(hyperparameters)) =
            (&mut json, json!(self.hyperparameters))
        {
            json.extend(hyperparameters);
        }
        json
    }

    /// Reads train_state.json.
    pub fn load(snapshot: &Snapshot) -> Result<Self> {
        Self::from_json(&snapshot.read_json(TRAIN_STATE)?)
            .with_context(|| snapshot.path(TRAIN_STATE).display().to_string())
    }

    /// Reads and checks the content of train_state.json.
    pub fn from_json(json: &JsonObject) -> Result<Self> {
        Ok(Self {
            step: json.integer("step")?,
            adam_step: json.integer("adam_step")?,
            documents: json.get_integer("documents")?,
            hyperparameters: Hyperparameters::from_json(json)?,
            validation_loss: json.get_number("validation_loss")?,
            input: json.get_string("input")?.map(str::to_string),
            fingerprint: read_fingerprint(json)?,
        })
    }
}

/// Reads the fingerprint of the training text. `None` if it is absent or not one of ours.
fn read_fingerprint(json: &JsonObject) -> Result<Option<Fingerprint>> {
    let bytes = json.get_integer("input_bytes")?;
    let hash = json.get_string("input_hash")?;
    let hash = hash.and_then(|hash| u64::from_str_radix(hash, 16).ok());
    let pair = bytes.zip(hash);
    Ok(pair.map(|(bytes, hash)| Fingerprint { bytes, hash }))
}

/// Converts a loss from nats to bits.
pub fn nats_to_bits(nats: f64) -> f64 {
    nats / std::f64::consts::LN_2
}
