//! Checkpoints of a run.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::TrainState;
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

    /// Whether all weights and moments are finite. [`Self::load`] refuses any others.
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
    use std::panic::catch_unwind;
    use std::sync::Arc;

    use candle_core::Device;

    use super::*;
    use crate::data::{Corpus, Dataset};
    use crate::engine::{GenerateOptions, Generator, Sample};
    use crate::infer::InferenceGpt;
    use crate::model::ModelConfig;
    use crate::store::faults::{self, Fault};
    use crate::train::{Hyperparameters, Schedule, TrainConfig, Trainer};

    const TEXT: &str = "abc\ncab\nbb\ncabba\naa";

    fn initial() -> Checkpoint {
        let config = ModelConfig {
            n_embd: 4,
            n_head: 2,
            n_layer: 1,
            block_size: 8,
        };
        let tokenizer = Corpus::documents(TEXT).unwrap().tokenizer();
        Checkpoint::initial(ModelMeta { config, tokenizer }, 1)
    }

    /// Trains `steps` more steps.
    fn train(checkpoint: Checkpoint, steps: u64) -> Checkpoint {
        let hyperparameters = Hyperparameters {
            batch_size: 2,
            schedule: Schedule::Constant,
            ..Default::default()
        };
        let corpus = Corpus::documents(TEXT).unwrap();
        let dataset = Dataset::new(&corpus, &checkpoint.meta.tokenizer, 8, 1).unwrap();
        let config = TrainConfig {
            steps,
            hyperparameters,
            threads: 1,
        };
        let mut trainer = Trainer::new(config, checkpoint, dataset, &Device::Cpu).unwrap();
        while !trainer.is_done() {
            trainer.step().unwrap();
        }
        trainer.checked_checkpoint(None, None).unwrap()
    }

    /// Generates samples from a model directory.
    fn generate(dir: &Path) -> Vec<Sample> {
        let (meta, weights) = ModelMeta::load(&Snapshot::open(dir).unwrap()).unwrap();
        let model = Arc::new(InferenceGpt::new(meta, weights));
        let generator = Generator::new(model, GenerateOptions::default()).unwrap();
        (0..5).map(|index| generator.sample(index)).collect()
    }

    /// An interrupted save leaves a directory that loads, generates and resumes as the old or the new
    /// checkpoint does.
    #[test]
    fn save_interrupted_at_every_step_leaves_a_resumable_checkpoint() {
        let root = tempfile::tempdir().unwrap();
        let old = train(initial(), 2);
        let new = train(old.clone(), 1);
        let end = train(new.clone(), 2);
        let samples = [&old, &new].map(|checkpoint| {
            let dir = root.path().join(checkpoint.state.step.to_string());
            checkpoint.save(&dir).unwrap();
            generate(&dir)
        });
        for fault in [Fault::Full, Fault::Fails, Fault::Killed] {
            let mut found = [0, 0];
            for at in 0.. {
                let dir = root.path().join(format!("{fault:?}-{at}"));
                old.save(&dir).unwrap();
                faults::inject(fault, at);
                let _ = catch_unwind(|| new.save(&dir));
                let steps = faults::steps();
                faults::clear();

                let checkpoint = Checkpoint::load(&Snapshot::open(&dir).unwrap()).unwrap();
                let which = usize::from(checkpoint.state == new.state);
                assert!(checkpoint == *[&old, &new][which], "{fault:?} at {at}");
                assert_eq!(generate(&dir), samples[which], "{fault:?} at {at}");
                let left = end.state.step - checkpoint.state.step;
                assert!(train(checkpoint, left) == end, "{fault:?} at {at}");
                found[which] += 1;
                if steps <= at {
                    break;
                }
            }
            // The rename of the commit file decides. Six files are written before it.
            assert!(found[0] > 6 * 3 && found[1] > 5, "{fault:?}: {found:?}");
        }
    }

    #[test]
    fn infinite_moments_are_not_finite() {
        let mut checkpoint = train(initial(), 1);
        assert!(checkpoint.is_finite());
        checkpoint.v.get_mut("wpe").unwrap().values[0] = f32::INFINITY;
        assert!(!checkpoint.is_finite());
    }
}
