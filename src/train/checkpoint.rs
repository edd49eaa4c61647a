//! Checkpoints of a run.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::state::TrainState;
use crate::model::{ModelMeta, initial_weights};
use crate::store::{
    FILES, META, OPTIMIZER_M, OPTIMIZER_V, Precision, Snapshot, TRAIN_STATE, TensorFile, Tensors,
    WEIGHTS, encode_tensors, save,
};

/// The complete state of a run: everything that a model directory holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub meta: ModelMeta,
    pub weights: Tensors,
    /// Adam's first and second moments, under the weights' names.
    pub m: Tensors,
    pub v: Tensors,
    pub state: TrainState,
}

impl Checkpoint {
    /// The checkpoint before the first step, with random weights.
    pub fn initial(meta: ModelMeta, seed: u64) -> Self {
        let weights = initial_weights(meta.config, meta.tokenizer.vocab_size(), seed);
        Self::untrained(meta, weights)
    }

    /// The checkpoint before the first step, with given weights.
    pub fn untrained(meta: ModelMeta, weights: Tensors) -> Self {
        let mut zeros = weights.clone();
        zeros
            .values_mut()
            .for_each(|moment| moment.values.fill(0.0));
        Self {
            meta,
            weights,
            m: zeros.clone(),
            v: zeros,
            state: TrainState::default(),
        }
    }

    /// Returns whether all weights and moments are finite. [`Self::load`] refuses any others.
    pub fn is_finite(&self) -> bool {
        [&self.weights, &self.m, &self.v]
            .into_iter()
            .flat_map(Tensors::values)
            .flat_map(|tensor| &tensor.values)
            .all(|value| value.is_finite())
    }

    /// Writes a model directory, all files or none.
    pub fn save(&self, dir: &Path) -> Result<()> {
        save(dir, &FILES, |name| match name {
            WEIGHTS => encode_tensors(&self.weights, Precision::F32),
            OPTIMIZER_M => encode_tensors(&self.m, Precision::F32),
            OPTIMIZER_V => encode_tensors(&self.v, Precision::F32),
            META => Ok(self.meta.to_json().to_string().into_bytes()),
            TRAIN_STATE => Ok(self.state.to_json().to_string().into_bytes()),
            _ => bail!("a model directory has no {name}"),
        })
    }

    /// Reads and checks a model directory. Errors if it was exported without the training state, or
    /// in half precision.
    pub fn load(snapshot: &Snapshot) -> Result<Self> {
        let (meta, weights) = ModelMeta::load(snapshot)?;
        if weights.precision != Precision::F32 {
            bail!(
                "{} holds half precision weights, which can't be trained",
                snapshot.path(WEIGHTS).display()
            );
        }
        if !snapshot.has(TRAIN_STATE) {
            bail!(
                "{} is missing: the model was exported without its training state",
                snapshot.path(TRAIN_STATE).display()
            );
        }
        let state = TrainState::from_json(&snapshot.read_json(TRAIN_STATE)?)
            .with_context(|| snapshot.path(TRAIN_STATE).display().to_string())?;
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
            state,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{CorpusKind, Tokenizer};
    use crate::model::ModelConfig;

    #[test]
    fn infinite_moments_are_not_finite() {
        let tokenizer = Tokenizer::from_texts(["abc"].into_iter(), CorpusKind::Documents);
        let config = ModelConfig::default();
        let mut checkpoint = Checkpoint::initial(ModelMeta { config, tokenizer }, 1);
        assert!(checkpoint.is_finite());
        checkpoint.v.get_mut("wpe").unwrap().values[0] = f32::INFINITY;
        assert!(!checkpoint.is_finite());
    }
}
