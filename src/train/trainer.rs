//! The training loop, one step at a time.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use candle_core::backprop::GradStore;

use super::adam::Adam;
use super::checkpoint::Checkpoint;
use super::hyperparameters::Hyperparameters;
use super::state::TrainState;
use super::workers::Workers;
use crate::data::{Batch, Dataset};
use crate::model::{Dropout, ModelMeta, TensorGpt};

/// The settings of a run.
#[derive(Clone, Debug)]
pub struct TrainConfig {
    /// The number of steps to train, on top of those of the checkpoint.
    pub steps: u64,
    pub hyperparameters: Hyperparameters,
    /// The number of shards of a batch, each on its own thread.
    pub threads: usize,
}

/// The result of one step.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Completed steps, those before a resume included.
    pub step: u64,
    /// The mean cross-entropy over the batch before the update, in nats per token.
    pub loss: f64,
    pub lr: f64,
    /// The number of predicted tokens.
    pub tokens: usize,
}

/// A model in training.
pub struct Trainer {
    config: TrainConfig,
    meta: ModelMeta,
    model: Arc<TensorGpt>,
    adam: Adam,
    dataset: Dataset,
    /// Documents consumed so far: the position in the dataset.
    documents: u64,
    step: u64,
    last_step: u64,
    workers: Workers,
}

impl Trainer {
    /// Creates a trainer that continues from `checkpoint`.
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
            .with_context(|| format!("{step} steps and {} more overflow", config.steps))?;
        // Without a recorded position, assume that the batch size never changed.
        let documents = state
            .documents
            .unwrap_or(step.wrapping_mul(config.hyperparameters.batch_size as u64));
        // A GPU is fastest with the whole batch at once.
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

    pub fn is_done(&self) -> bool {
        self.step >= self.last_step
    }

    /// The step that ends the run.
    pub fn last_step(&self) -> u64 {
        self.last_step
    }

    pub fn hyperparameters(&self) -> Hyperparameters {
        self.config.hyperparameters
    }

    /// Completed steps, those before a resume included.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Trains one step. Errors if the loss is not finite, and leaves the weights as they were.
    pub fn step(&mut self) -> Result<StepReport> {
        let shards = self.next_batch();
        let tokens = shards.iter().map(|shard| shard.targets.len()).sum();
        let lr = self.config.hyperparameters.lr_at(self.step, self.last_step);
        let (loss, gradients) = self.loss_and_gradients(shards, tokens)?;
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

    /// Returns the batch of the next step, in one shard per worker.
    fn next_batch(&self) -> Vec<Batch> {
        let Hyperparameters { batch_size, .. } = self.config.hyperparameters;
        let shards = self.workers.count();
        self.dataset.batch(self.documents, batch_size, shards)
    }

    /// Returns the loss of a batch of `count` predictions, and the gradients of each shard. The
    /// losses are added in the order of the shards, so that the result depends on their number but
    /// not on their timing.
    fn loss_and_gradients(
        &self,
        shards: Vec<Batch>,
        count: usize,
    ) -> Result<(f64, Vec<GradStore>)> {
        let model = Arc::clone(&self.model);
        let Hyperparameters { dropout, seed, .. } = self.config.hyperparameters;
        let dropout = (dropout > 0.0).then_some(Dropout {
            rate: dropout,
            seed,
        });
        let differentiate = move |shard: Batch| -> candle_core::Result<(f32, GradStore)> {
            let loss = model.loss(&shard, count, dropout)?;
            let gradients = loss.backward()?;
            Ok((loss.to_scalar()?, gradients))
        };
        let results = self.workers.map(shards, differentiate)?;
        let results: Vec<_> = results.into_iter().collect::<candle_core::Result<_>>()?;
        let (losses, gradients): (Vec<f32>, Vec<GradStore>) = results.into_iter().unzip();
        Ok((losses.into_iter().map(f64::from).sum(), gradients))
    }

    /// Returns the mean cross-entropy over all predictions of the batches, in nats per token.
    pub fn evaluate(&self, batches: &[Batch]) -> Result<f64> {
        let count = batches.iter().map(|batch| batch.targets.len()).sum();
        let model = Arc::clone(&self.model);
        let loss = move |batch: Batch| model.loss(&batch, count, None)?.to_scalar::<f32>();
        let losses = self.workers.map(batches.to_vec(), loss)?;
        let losses: Vec<f32> = losses.into_iter().collect::<candle_core::Result<_>>()?;
        Ok(losses.into_iter().map(f64::from).sum())
    }

    /// Returns [`Self::checkpoint`] if training can continue from it. Errors if the loss of the next
    /// step or a tensor is not finite, so that a diverged run never replaces a good checkpoint.
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
            self.divergence_hint()
        );
        Ok(checkpoint)
    }

    /// Returns the current checkpoint. `input` is the path of the training text; `validation_loss`
    /// was measured after the latest step.
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

    /// Errors if the loss of the next step is not finite.
    fn check_loss(&self, loss: f64) -> Result<()> {
        ensure!(
            loss.is_finite(),
            "the loss became {loss} at step {}: {}",
            self.step + 1,
            self.divergence_hint()
        );
        Ok(())
    }

    fn divergence_hint(&self) -> String {
        let lr = self.config.hyperparameters.lr;
        format!("training diverges with --lr {lr:?}; try a smaller one")
    }
}
