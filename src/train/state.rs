//! What a run needs to go on from where it stopped, and the files that keep it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Hyperparameters;
use crate::model::{ModelMeta, initial_weights};
use crate::store::{
    FILES, JsonObject, META, OPTIMIZER_M, OPTIMIZER_V, Precision, Snapshot, TRAIN_STATE,
    TensorFile, Tensors, WEIGHTS, encode_tensors, save,
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
    pub hyperparameters: Hyperparameters,
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
        if let (Value::Object(json), Value::Object(hyperparameters)) =
            (&mut json, json!(self.hyperparameters))
        {
            json.extend(hyperparameters);
        }
        json
    }

    /// Reads and checks the content of train_state.json.
    pub fn from_json(state: &JsonObject) -> Result<Self> {
        Ok(Self {
            step: state.whole("step")?,
            adam_step: state.whole("adam_step")?,
            documents: state.get_whole("documents")?,
            hyperparameters: Hyperparameters::from_json(state)?,
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
#[derive(Clone, Debug, PartialEq)]
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

    /// Whether all numbers are finite; only such a state can be loaded.
    pub fn is_finite(&self) -> bool {
        let tensors = [&self.weights, &self.m, &self.v].into_iter();
        let mut values = tensors
            .flat_map(Tensors::values)
            .map(|tensor| &tensor.values);
        values.all(|values| values.iter().all(|value| value.is_finite()))
    }

    /// Saves everything, all or nothing.
    pub fn save(&self, dir: &Path) -> Result<()> {
        save(dir, &FILES, |name| match name {
            WEIGHTS => encode_tensors(&self.weights, Precision::F32),
            OPTIMIZER_M => encode_tensors(&self.m, Precision::F32),
            OPTIMIZER_V => encode_tensors(&self.v, Precision::F32),
            META => Ok(self.meta.to_json().to_string().into_bytes()),
            TRAIN_STATE => Ok(self.progress.to_json().to_string().into_bytes()),
            _ => bail!("a model directory has no {name}"),
        })
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
    use crate::train::{Schedule, TrainConfig, Trainer};

    const TEXT: &str = "abc\ncab\nbb\ncabba\naa";

    fn beginning() -> TrainState {
        let config = ModelConfig {
            n_embd: 4,
            n_head: 2,
            n_layer: 1,
            block_size: 8,
        };
        let tokenizer = Corpus::documents(TEXT).unwrap().tokenizer();
        TrainState::fresh(ModelMeta { config, tokenizer }, 1)
    }

    /// Goes on from a state.
    fn train(state: TrainState, steps: u64) -> TrainState {
        let hyperparameters = Hyperparameters {
            batch_size: 2,
            schedule: Schedule::Constant,
            ..Default::default()
        };
        let corpus = Corpus::documents(TEXT).unwrap();
        let dataset = Dataset::new(&corpus, &state.meta.tokenizer, 8, 1).unwrap();
        let config = TrainConfig {
            steps,
            hyperparameters,
            threads: 1,
        };
        let mut trainer = Trainer::new(config, state, dataset, &Device::Cpu).unwrap();
        while !trainer.is_done() {
            trainer.step().unwrap();
        }
        trainer.state_to_keep(None, None).unwrap()
    }

    /// What a reader makes of a directory.
    fn generate(dir: &Path) -> Vec<Sample> {
        let (meta, weights) = ModelMeta::load(&Snapshot::open(dir).unwrap()).unwrap();
        let model = Arc::new(InferenceGpt::new(meta, weights));
        let generator = Generator::new(model, GenerateOptions::default()).unwrap();
        (0..5).map(|index| generator.sample(index)).collect()
    }

    /// A save that is stopped at each of its steps leaves a model that loads, speaks and goes on as
    /// if it had never been stopped, with the old state or the new one.
    #[test]
    fn a_model_goes_on_whatever_step_of_a_save_was_the_last() {
        let root = tempfile::tempdir().unwrap();
        let old = train(beginning(), 2);
        let new = train(old.clone(), 1);
        let end = train(new.clone(), 2);
        let samples = [&old, &new].map(|state| {
            let dir = root.path().join(state.progress.step.to_string());
            state.save(&dir).unwrap();
            generate(&dir)
        });
        for fault in [Fault::Full, Fault::Fails, Fault::Killed] {
            let mut found = [0, 0];
            for at in 0.. {
                let dir = root.path().join(format!("{fault:?}-{at}"));
                old.save(&dir).unwrap();
                faults::happens_at(Some((fault, at)));
                let _ = catch_unwind(|| new.save(&dir));
                let steps = faults::steps();
                faults::happens_at(None);

                let state = TrainState::load(&Snapshot::open(&dir).unwrap()).unwrap();
                let which = usize::from(state.progress == new.progress);
                assert!(state == *[&old, &new][which], "{fault:?} at {at}");
                assert_eq!(generate(&dir), samples[which], "{fault:?} at {at}");
                let left = end.progress.step - state.progress.step;
                assert!(train(state, left) == end, "{fault:?} at {at}");
                found[which] += 1;
                if steps <= at {
                    break;
                }
            }
            // It counts once the commit file has its name, after five files and that one.
            assert!(found[0] > 6 * 3 && found[1] > 5, "{fault:?}: {found:?}");
        }
    }

    #[test]
    fn a_state_that_could_not_be_loaded_is_not_to_be_kept() {
        let mut state = train(beginning(), 1);
        assert!(state.is_finite());
        state.v.get_mut("wpe").unwrap().values[0] = f32::INFINITY;
        assert!(!state.is_finite());
    }
}
