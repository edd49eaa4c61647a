//! Validation during training, and the best checkpoint by validation loss.
//!
//! The subdirectory `best` of the output is a model directory with the best checkpoint so far, while
//! the output itself holds the latest one, to resume from. At the end, the best replaces it.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};

use super::super::console;
use crate::data::ValidationSet;
use crate::store::Snapshot;
use crate::train::{Checkpoint, Ranks, Trainer};

/// The minimum number of tokens per validation batch, about that of a training batch.
const BATCH_TOKENS: usize = 2048;

/// The validation of a run.
pub struct Validation {
    validation_set: ValidationSet,
    /// Steps between two evaluations.
    interval: u64,
    patience: Option<u64>,
    /// The directory of the best checkpoint.
    dir: PathBuf,
    ranks: Rc<Ranks>,
    best: Option<Evaluation>,
    latest: Option<Evaluation>,
    /// Evaluations since the best one.
    since_best: u64,
}

/// The validation loss after a step, in nats per token.
#[derive(Clone, Copy)]
struct Evaluation {
    step: u64,
    loss: f64,
}

impl Validation {
    /// Evaluates every `interval` steps. Saves the best checkpoint in `best` in the output.
    pub fn new(
        validation_set: ValidationSet,
        interval: u64,
        patience: Option<u64>,
        output: &Path,
        ranks: Rc<Ranks>,
    ) -> Self {
        Self {
            validation_set,
            interval,
            patience,
            dir: output.join("best"),
            ranks,
            best: None,
            latest: None,
            since_best: 0,
        }
    }

    /// Sets the baseline of a resumed run: the better of the resumed checkpoint and the best one of
    /// its run, if that was measured on the same data.
    pub fn set_baseline(
        &mut self,
        resumed: &Path,
        trainer: &Trainer,
        input: Option<&str>,
    ) -> Result<()> {
        self.evaluate(trainer, input)?;
        let kept = match self.ranks.is_first() {
            true => self.keep_best_of(resumed, trainer, input),
            false => Ok(None),
        };
        // Only the machine of rank 0 needs to have the directory.
        let kept = self.ranks.agree(kept)?;
        let values = kept.map_or([0; 3], |best| [1, best.step, best.loss.to_bits()]);
        if let [1, step, loss] = self.ranks.of_first(values) {
            let loss = f64::from_bits(loss);
            self.best = Some(Evaluation { step, loss });
        }
        Ok(())
    }

    /// Copies the best checkpoint of the resumed run to this one, if it was measured on the same data
    /// and is better than the resumed checkpoint.
    fn keep_best_of(
        &self,
        resumed: &Path,
        trainer: &Trainer,
        input: Option<&str>,
    ) -> Result<Option<Evaluation>> {
        let dir = resumed.join("best");
        if !dir.exists() {
            return Ok(None);
        }
        let checkpoint = Checkpoint::load(&Snapshot::open(&dir)?)?;
        let validation_loss = checkpoint.state.validation_loss;
        let same_data = checkpoint.state.hyperparameters.seed == trainer.hyperparameters().seed
            && checkpoint.state.hyperparameters.validation_fraction
                == trainer.hyperparameters().validation_fraction
            && checkpoint.state.input.as_deref() == input;
        if let (Some(loss), Some(best)) = (validation_loss, self.best)
            && same_data
            && loss < best.loss
        {
            checkpoint.save(&self.dir)?;
            let step = checkpoint.state.step;
            return Ok(Some(Evaluation { step, loss }));
        }
        Ok(None)
    }

    /// Returns whether an evaluation is due after the latest step.
    pub fn is_due(&self, trainer: &Trainer) -> bool {
        trainer.step_count().is_multiple_of(self.interval) || trainer.is_done()
    }

    /// Evaluates the model, and saves it if it is the best so far. Returns its loss, and whether it
    /// is the best.
    pub fn evaluate(&mut self, trainer: &Trainer, input: Option<&str>) -> Result<(f64, bool)> {
        let step = trainer.step_count();
        let batches = || Ok(self.validation_set.batches(BATCH_TOKENS));
        let loss = trainer.evaluate(batches)?;
        self.latest = Some(Evaluation { step, loss });
        let is_best = self.best.is_none_or(|best| loss < best.loss);
        if is_best {
            let checkpoint = trainer.checked_checkpoint(input.map(str::to_string), Some(loss))?;
            let save = || checkpoint.save(&self.dir);
            let saved = self.ranks.on_first(save);
            saved.context("cannot save the best model so far")?;
            self.best = self.latest;
            self.since_best = 0;
        } else {
            self.since_best += 1;
        }
        Ok((loss, is_best))
    }

    /// Returns whether `--patience` evaluations in a row brought no better model.
    pub fn is_out_of_patience(&self) -> bool {
        self.patience
            .is_some_and(|patience| self.since_best >= patience)
    }

    /// Evaluations since the best one.
    pub fn since_best(&self) -> u64 {
        self.since_best
    }

    /// Returns the validation loss after this step, if it was measured.
    pub fn loss_at(&self, step: u64) -> Option<f64> {
        let latest = self.latest.filter(|latest| latest.step == step)?;
        Some(latest.loss)
    }

    /// Returns the step and the loss of the best model. Every finished run has one.
    pub fn best(&self) -> (u64, f64) {
        self.best
            .map_or((0, f64::NAN), |best| (best.step, best.loss))
    }

    /// Describes the best model so far, for an interrupted run.
    pub fn describe_best(&self) -> Option<String> {
        let best = self.best?;
        Some(format!(
            "the best model so far, of step {} with validation loss {:.4}, is in {}",
            console::group_thousands(best.step),
            best.loss,
            self.dir.display()
        ))
    }

    /// Replaces the output by the best model.
    pub fn promote_best(&self, output: &Path) -> Result<()> {
        let best = Checkpoint::load(&Snapshot::open(&self.dir)?)?;
        best.save(output)?;
        std::fs::remove_dir_all(&self.dir)
            .with_context(|| format!("cannot remove {}", self.dir.display()))
    }
}
