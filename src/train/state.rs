//! What a run needs to go on from where it stopped, and the files that keep it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Recipe;
use crate::model::{ModelMeta, initial_weights};
use crate::store::{
    JsonObject, META, OPTIMIZER_M, OPTIMIZER_V, Precision, Snapshot, TRAIN_STATE, TensorFile,
    Tensors, WEIGHTS, encode_tensors, save,
};

/// train_state.json.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// How many steps were made.
    pub step: u64,
    /// How many updates Adam has made.
    pub adam_step: u64,
    /// How many documents were taken; none where whoever wrote the directory did not say.
    pub documents: Option<u64>,
    pub recipe: Recipe,
    /// The mean loss over what is held out, in nats a token, if it was measured at this step.
    pub validation_loss: Option<f64>,
    /// The file that it was trained on; none for the built-in text and standard input.
    pub input: Option<String>,
}

impl Progress {
    /// The content of train_state.json.
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "step": self.step,
            "adam_step": self.adam_step,
            "documents": self.documents,
            "input": self.input,
            "validation_loss": self.validation_loss,
            "validation_bits": self.validation_loss.map(bits),
        });
        if let (Value::Object(json), Value::Object(recipe)) = (&mut json, self.recipe.to_json()) {
            json.extend(recipe);
        }
        json
    }

    /// Reads and checks the content of train_state.json.
    pub fn from_json(state: &JsonObject) -> Result<Self> {
        Ok(Self {
            step: state.whole("step")?,
            adam_step: state.whole("adam_step")?,
            documents: state.get_whole("documents")?,
            recipe: Recipe::from_json(state)?,
            validation_loss: state.get_number("validation_loss")?,
            input: state.get_string("input")?.map(str::to_string),
        })
    }
}

/// A loss in nats as bits.
pub fn bits(nats: f64) -> f64 {
    nats / std::f64::consts::LN_2
}

/// Everything that a model directory holds.
pub struct TrainState {
    pub meta: ModelMeta,
    pub weights: Tensors,
    pub m: Tensors,
    pub v: Tensors,
    pub progress: Progress,
}

impl TrainState {
    /// The state before the first step: fresh weights, from the seed.
    pub fn fresh(meta: ModelMeta, seed: u64) -> Self {
        let weights = initial_weights(meta.config, meta.tokenizer.vocab_size(), seed);
        Self::before_first_step(meta, weights)
    }

    /// The state before the first step from given weights.
    pub fn before_first_step(meta: ModelMeta, weights: Tensors) -> Self {
        let mut zeros = weights.clone();
        zeros
            .values_mut()
            .for_each(|moment| moment.values.fill(0.0));
        Self {
            meta,
            weights,
            m: zeros.clone(),
            v: zeros,
            progress: Progress::default(),
        }
    }

    /// Saves everything, all or nothing.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let encode = |tensors| encode_tensors(tensors, Precision::F32);
        save(
            dir,
            &[
                (WEIGHTS, encode(&self.weights)?),
                (META, self.meta.to_json().to_string().into_bytes()),
                (OPTIMIZER_M, encode(&self.m)?),
                (OPTIMIZER_V, encode(&self.v)?),
                (
                    TRAIN_STATE,
                    self.progress.to_json().to_string().into_bytes(),
                ),
            ],
        )
    }

    /// Reads and checks everything. Errors where the directory holds a model without its training
    /// state.
    pub fn load(snapshot: &Snapshot) -> Result<Self> {
        let (meta, weights) = ModelMeta::load(snapshot)?;
        if weights.precision != Precision::F32 {
            bail!(
                "{} holds half precision weights, which can't be trained on",
                snapshot.path(WEIGHTS).display()
            );
        }
        let progress = Self::progress(snapshot)?.with_context(|| {
            format!(
                "{} is missing: this model was exported without what training needs to go on",
                snapshot.path(TRAIN_STATE).display()
            )
        })?;
        let moments = |name| {
            let file = TensorFile::new(snapshot.map(name)?, meta.tensors(), false);
            file.map(|file| file.to_tensors())
                .with_context(|| snapshot.path(name).display().to_string())
        };
        Ok(Self {
            m: moments(OPTIMIZER_M)?,
            v: moments(OPTIMIZER_V)?,
            weights: weights.to_tensors(),
            meta,
            progress,
        })
    }

    fn progress(snapshot: &Snapshot) -> Result<Option<Progress>> {
        if !snapshot.has(TRAIN_STATE) {
            return Ok(None);
        }
        let progress = Progress::from_json(&snapshot.read_json(TRAIN_STATE)?);
        progress
            .map(Some)
            .with_context(|| snapshot.path(TRAIN_STATE).display().to_string())
    }
}
