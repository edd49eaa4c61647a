//! The training loop, a step at a time.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use candle_core::backprop::GradStore;

use super::workers::Workers;
use super::{Adam, Checkpoint, Hyperparameters, TrainState};
use crate::data::{Batch, Dataset};
use crate::model::{ModelMeta, TensorGpt};

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct TrainConfig {
    /// How many steps to make now.
    pub steps: u64,
    pub hyperparameters: Hyperparameters,
    /// How many parts a batch is split into, each on a thread of its own.
    pub threads: usize,
}

/// What one step did.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// How many steps were made, this one and those before a resume included.
    pub step: u64,
    /// The mean cross-entropy over the batch's predictions, in nats, before the update.
    pub loss: f64,
    pub lr: f64,
    /// How many tokens were predicted.
    pub tokens: usize,
}

/// A model in training.
pub struct Trainer {
    config: TrainConfig,
    meta: ModelMeta,
    model: Arc<TensorGpt>,
    adam: Adam,
    dataset: Dataset,
    /// How many documents were taken.
    documents: u64,
    step: u64,
    /// The step after which the run ends.
    last_step: u64,
    workers: Workers,
}

impl Trainer {
    /// A run that goes on from `checkpoint`, over the documents in the order of `dataset`.
    pub fn new(
        config: TrainConfig,
        checkpoint: Checkpoint,
        dataset: Dataset,
        device: &Device,
    ) -> Result<Self> {
        let Checkpoint {
            meta,
            weights,
            m,
            v,
            state,
        } = checkpoint;
        let model = Arc::new(TensorGpt::from_tensors(meta.config, &weights, device)?);
        let step = state.step;
        let last_step = step
            .checked_add(config.steps)
            .context("there are too many steps to count")?;
        // Where nobody wrote down how many documents were taken, it was the same number at every
        // step.
        let documents = state
            .documents
            .unwrap_or(step.wrapping_mul(config.hyperparameters.batch_size as u64));
        // Splitting a batch pays on a CPU only; another device is fastest with all of it.
        let threads = if device.is_cpu() { config.threads } else { 1 };
        let workers = Workers::start(threads)?;
        let adam = Adam::new(
            &model,
            &m,
            &v,
            state.adam_step,
            config.hyperparameters,
            threads,
        )?;
        Ok(Self {
            config,
            meta,
            model,
            adam,
            dataset,
            documents,
            step,
            last_step,
            workers,
        })
    }

    /// Whether all steps were made.
    pub fn is_done(&self) -> bool {
        self.step >= self.last_step
    }

    /// The step after which the run ends.
    pub fn last_step(&self) -> u64 {
        self.last_step
    }

    /// How the model is trained.
    pub fn hyperparameters(&self) -> Hyperparameters {
        self.config.hyperparameters
    }

    /// How many steps were made.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Makes one step. Errors where the loss is no longer a number; the weights are not changed by
    /// it then.
    pub fn step(&mut self) -> Result<StepReport> {
        let parts = self.next_batch();
        let tokens = parts.iter().map(|part| part.tokens.len()).sum();
        let lr = self.config.hyperparameters.rate(self.step, self.last_step);
        let (loss, gradients) = self.differentiate(parts, tokens)?;
        self.check_loss(loss)?;
        self.adam.update(gradients, lr, &self.workers)?;
        let batch_size = self.config.hyperparameters.batch_size as u64;
        self.documents = self.documents.wrapping_add(batch_size);
        self.step += 1;
        Ok(StepReport {
            step: self.step,
            loss,
            lr,
            tokens,
        })
    }

    /// The batch of the next step, in a part for each worker.
    fn next_batch(&self) -> Vec<Batch> {
        let Hyperparameters { batch_size, .. } = self.config.hyperparameters;
        let parts = self.workers.count();
        self.dataset.batch(self.documents, batch_size, parts)
    }

    /// Errors where the loss of the next step is no longer a number.
    fn check_loss(&self, loss: f64) -> Result<()> {
        ensure!(
            loss.is_finite(),
            "the loss became {loss} at step {}: {}",
            self.step + 1,
            self.advice()
        );
        Ok(())
    }

    /// What to change when a run has failed.
    fn advice(&self) -> String {
        let lr = self.config.hyperparameters.lr;
        format!("training with --lr {lr:?} fails, try a smaller one")
    }

    /// The loss of a batch and its gradients, each part's apart. The parts are added in their
    /// order, so that the result depends on how many there are but not on which is done first.
    fn differentiate(&self, parts: Vec<Batch>, count: usize) -> Result<(f64, Vec<GradStore>)> {
        let model = Arc::clone(&self.model);
        let part = move |batch: Batch| -> candle_core::Result<(f32, GradStore)> {
            let loss = model.loss(&batch, count)?;
            let gradients = loss.backward()?;
            Ok((loss.to_scalar()?, gradients))
        };
        let results = self.workers.map(parts, part)?;
        let results: Vec<_> = results.into_iter().collect::<candle_core::Result<_>>()?;
        let (losses, gradients): (Vec<f32>, Vec<GradStore>) = results.into_iter().unzip();
        Ok((losses.into_iter().map(f64::from).sum(), gradients))
    }

    /// The mean cross-entropy over the predictions of all the given batches, in nats, as the model
    /// is now.
    pub fn evaluate(&self, batches: &[Batch]) -> Result<f64> {
        let count = batches.iter().map(|batch| batch.targets.len()).sum();
        let model = Arc::clone(&self.model);
        let part = move |batch: Batch| model.loss(&batch, count)?.to_scalar::<f32>();
        let losses = self.workers.map(batches.to_vec(), part)?;
        let losses: Vec<f32> = losses.into_iter().collect::<candle_core::Result<_>>()?;
        Ok(losses.into_iter().map(f64::from).sum())
    }

    /// The same as [`Self::checkpoint`], unless the run has failed: a model without a loss for the next
    /// step, or one that could not be loaded, must not take the place of another.
    pub fn checked_checkpoint(
        &self,
        input: Option<String>,
        validation_loss: Option<f64>,
    ) -> Result<Checkpoint> {
        self.check_loss(self.evaluate(&self.next_batch())?)?;
        let checkpoint = self.checkpoint(input, validation_loss)?;
        ensure!(
            checkpoint.is_finite(),
            "the weights or their moments became infinite at step {}: {}",
            self.step,
            self.advice()
        );
        Ok(checkpoint)
    }

    /// Everything that a model directory holds, as of now: with the file that it is trained on, and
    /// the validation loss, if that was measured after this step.
    pub fn checkpoint(
        &self,
        input: Option<String>,
        validation_loss: Option<f64>,
    ) -> Result<Checkpoint> {
        let (m, v) = self.adam.moments()?;
        let state = TrainState {
            step: self.step,
            adam_step: self.adam.step,
            documents: Some(self.documents),
            hyperparameters: self.config.hyperparameters,
            validation_loss,
            input,
        };
        Ok(Checkpoint {
            meta: self.meta.clone(),
            weights: self.model.to_tensors()?,
            m,
            v,
            state,
        })
    }
}
