//! The training loop, one step at a time.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use candle_core::Device;
use candle_core::backprop::GradStore;

use super::adam::Adam;
use super::checkpoint::Checkpoint;
use super::hyperparameters::Hyperparameters;
use super::ranks::Ranks;
use super::state::TrainState;
use super::workers::Workers;
use crate::data::{Batch, Dataset, Fingerprint};
use crate::model::{Dropout, ModelMeta, TensorGpt};

/// The number of batches in memory during an evaluation.
const EVALUATED_TOGETHER: usize = 64;

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
    /// That of the training text, for checkpoints.
    fingerprint: Option<Fingerprint>,
    /// Documents consumed so far: the position in the dataset.
    documents: u64,
    step: u64,
    last_step: u64,
    workers: Workers,
    ranks: Rc<Ranks>,
    /// The number of shards of a batch.
    shards: usize,
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
            ranks: Rc::default(),
            shards: threads,
            config,
            meta,
            model,
            adam,
            dataset,
            fingerprint: None,
            documents,
            step,
            last_step,
            workers,
        })
    }

    /// Records the fingerprint of the training text in checkpoints.
    pub fn with_fingerprint(mut self, fingerprint: Fingerprint) -> Self {
        self.fingerprint = Some(fingerprint);
        self
    }

    /// Trains with the other processes of `ranks`, which have the same data and settings.
    pub fn on_ranks(mut self, ranks: Rc<Ranks>) -> Self {
        // The same number on each, so that all agree on the shards.
        let [threads] = ranks.max([self.workers.count() as u64]);
        self.shards = threads as usize * ranks.count();
        self.ranks = ranks;
        self
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
        let count = |shards: &Vec<Batch>| shards.iter().map(|shard| shard.targets.len()).sum();
        let tokens = shards.as_ref().map_or(0, count);
        let lr = self.config.hyperparameters.lr_at(self.step, self.last_step);
        let computed = shards.and_then(|shards| self.loss_and_gradients(shards, tokens));
        let (loss, mut gradients) = self.ranks.agree_on_loss(computed)?;
        self.check_loss(loss)?;
        if self.ranks.count() > 1 {
            let sums = self
                .adam
                .all_reduce(gradients, &self.ranks, &self.workers)?;
            gradients = vec![sums];
        }
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

    /// Returns the batch of the next step, in one shard per worker of all ranks.
    fn next_batch(&self) -> Result<Vec<Batch>> {
        let Hyperparameters { batch_size, .. } = self.config.hyperparameters;
        self.dataset.batch(self.documents, batch_size, self.shards)
    }

    /// Returns this rank's share of shards or batches.
    fn own(&self, batches: Vec<Batch>) -> Vec<Batch> {
        let (rank, count) = (self.ranks.rank(), self.ranks.count());
        batches.into_iter().skip(rank).step_by(count).collect()
    }

    /// Returns the loss of this rank's shards of a batch of `count` predictions, and the gradients of
    /// each of them. The losses are added in the order of the shards, so that the result depends on
    /// their number but not on their timing.
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
        let results = self.workers.map(self.own(shards), differentiate)?;
        let results: Vec<_> = results.into_iter().collect::<candle_core::Result<_>>()?;
        let (losses, gradients): (Vec<f32>, Vec<GradStore>) = results.into_iter().unzip();
        Ok((losses.into_iter().map(f64::from).sum(), gradients))
    }

    /// Returns the mean cross-entropy over all predictions of the batches, in nats per token. Reads
    /// the batches twice rather than keep them.
    pub fn evaluate<B>(&self, batches: impl Fn() -> Result<B>) -> Result<f64>
    where
        B: Iterator<Item = Result<Batch>>,
    {
        let own_part = self.own_loss(&batches).map(|loss| (loss, ()));
        Ok(self.ranks.agree_on_loss(own_part)?.0)
    }

    /// Returns this rank's part of the loss of [`Self::evaluate`].
    fn own_loss<B>(&self, batches: impl Fn() -> Result<B>) -> Result<f64>
    where
        B: Iterator<Item = Result<Batch>>,
    {
        let mut count = 0;
        for batch in batches()? {
            count += batch?.targets.len();
        }
        let (rank, ranks) = (self.ranks.rank(), self.ranks.count());
        let mut own = batches()?.skip(rank).step_by(ranks);
        let mut sum = 0.0;
        loop {
            let part = own.by_ref().take(EVALUATED_TOGETHER);
            let part = part.collect::<Result<Vec<Batch>>>()?;
            if part.is_empty() {
                return Ok(sum);
            }
            let model = Arc::clone(&self.model);
            let loss = move |batch: Batch| model.loss(&batch, count, None)?.to_scalar::<f32>();
            for loss in self.workers.map(part, loss)? {
                sum += f64::from(loss?);
            }
        }
    }

    /// Returns [`Self::checkpoint`] if training can continue from it. Errors if the loss of the next
    /// step or a tensor is not finite, so that a diverged run never replaces a good checkpoint.
    pub fn checked_checkpoint(
        &self,
        input: Option<String>,
        validation_loss: Option<f64>,
    ) -> Result<Checkpoint> {
        let batch = || Ok(self.next_batch()?.into_iter().map(Ok));
        self.check_loss(self.evaluate(batch)?)?;
        let checkpoint = self.checkpoint(input, validation_loss)?;
        self.ranks.agree_on_same(match checkpoint.is_finite() {
            true => Ok(checkpoint),
            false => Err(anyhow!(
                "the weights or their moments became infinite at step {}: {}",
                self.step,
                self.divergence_hint()
            )),
        })
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
            fingerprint: self.fingerprint,
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
        self.ranks.agree_on_same(match loss.is_finite() {
            true => Ok(()),
            false => Err(anyhow!(
                "the loss became {loss} at step {}: {}",
                self.step + 1,
                self.divergence_hint()
            )),
        })
    }

    fn divergence_hint(&self) -> String {
        let lr = self.config.hyperparameters.lr;
        format!("training diverges with --lr {lr:?}; try a smaller one")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Corpus;
    use crate::model::ModelConfig;
    use crate::ops::choice::test_override::with_reference;

    const STEPS: u64 = 50;

    /// Trains a model, and returns the loss of each step and the checkpoint at the end.
    fn train(corpus: &Corpus, config: ModelConfig) -> (Vec<f64>, Checkpoint) {
        let tokenizer = corpus.tokenizer();
        let dataset = Dataset::new(corpus, &tokenizer, config.block_size, 1).unwrap();
        let hyperparameters = Hyperparameters {
            batch_size: 4,
            grad_clip: Some(1.0),
            weight_decay: 0.1,
            ..Default::default()
        };
        let run = TrainConfig {
            steps: STEPS,
            hyperparameters,
            threads: 1,
        };
        let checkpoint = Checkpoint::initial(ModelMeta { config, tokenizer }, 1);
        let mut trainer = Trainer::new(run, checkpoint, dataset, &Device::Cpu).unwrap();
        let losses = (0..STEPS).map(|_| trainer.step().unwrap().loss).collect();
        (losses, trainer.checked_checkpoint(None, None).unwrap())
    }

    /// Other devices train with the reference implementations.
    #[test]
    fn training_with_the_reference_implementations_matches_the_custom_operations() {
        let text = "the quick brown fox\njumps over\na lazy dog\nand\nruns away\n";
        let config = ModelConfig {
            n_embd: 16,
            n_head: 4,
            n_layer: 2,
            block_size: 12,
        };
        for corpus in [Corpus::documents(text), Corpus::continuous(text)] {
            let corpus = corpus.unwrap();
            let (losses, custom) = train(&corpus, config);
            let (reference_losses, reference) = with_reference(|| train(&corpus, config));
            assert!(losses[49] < 0.8 * losses[0], "{losses:?}");
            for (step, (found, expected)) in reference_losses.iter().zip(&losses).enumerate() {
                let error = (found - expected).abs();
                assert!(error < 1e-4, "step {step}: {found}, expected {expected}");
            }
            for (name, tensor) in &custom.weights {
                let pairs = tensor.values.iter().zip(&reference.weights[name].values);
                let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                eprintln!("{name}: {error}");
                assert!(error < 1e-3, "{name} differs by {error}");
            }
            assert!(
                losses != reference_losses,
                "both are the same implementation"
            );
        }
    }
}
