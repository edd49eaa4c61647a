//! Testing a model on what was held out while it learns, and keeping the best.
//!
//! The best model so far is kept in the subdirectory `best` of the output, a model directory by
//! itself, so that no interruption loses it while the output holds the checkpoint to go on from. At the
//! end it takes the output's place.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::super::console;
use super::options::Options;
use crate::data::{Batch, ValidationSet};
use crate::store::Snapshot;
use crate::train::{Checkpoint, Trainer};

/// How many tokens are tested at a time: what a training step of a usual size takes.
const BATCH_TOKENS: usize = 2048;

/// The tests of a run.
pub struct Validation {
    batches: Vec<Batch>,
    every: u64,
    patience: Option<u64>,
    /// Where the best model is kept.
    dir: PathBuf,
    best: Option<Tested>,
    latest: Option<Tested>,
    /// How many tests there were since the best.
    in_vain: u64,
}

/// A model's step and its mean loss over what is held out, in nats a token.
#[derive(Clone, Copy)]
struct Tested {
    step: u64,
    loss: f64,
}

impl Validation {
    pub fn new(held_out: &ValidationSet, options: &Options, output: &Path) -> Self {
        Self {
            batches: held_out.batches(BATCH_TOKENS),
            every: options.eval_every,
            patience: options.patience,
            dir: output.join("best"),
            best: None,
            latest: None,
            in_vain: 0,
        }
    }

    /// Makes the resumed model, or the best that its run had found so far, the one to beat.
    pub fn start_from(
        &mut self,
        resumed: &Path,
        trainer: &Trainer,
        input: Option<&str>,
    ) -> Result<()> {
        self.test(trainer, input)?;
        let dir = resumed.join("best");
        if !dir.exists() {
            return Ok(());
        }
        let checkpoint = Checkpoint::load(&Snapshot::open(&dir)?)?;
        let before = checkpoint.state.validation_loss;
        let same_test = checkpoint.state.hyperparameters.seed == trainer.hyperparameters().seed
            && checkpoint.state.hyperparameters.validation_fraction
                == trainer.hyperparameters().validation_fraction
            && checkpoint.state.input.as_deref() == input;
        if let (Some(loss), Some(best)) = (before, self.best)
            && same_test
            && loss < best.loss
        {
            checkpoint.save(&self.dir)?;
            let step = checkpoint.state.step;
            self.best = Some(Tested { step, loss });
        }
        Ok(())
    }

    /// Whether the model is to be tested after its latest step.
    pub fn is_due(&self, trainer: &Trainer) -> bool {
        trainer.step_count().is_multiple_of(self.every) || trainer.is_done()
    }

    /// Tests the model, and keeps it if it is the best so far. Gives its loss, and whether it is.
    pub fn test(&mut self, trainer: &Trainer, input: Option<&str>) -> Result<(f64, bool)> {
        let step = trainer.step_count();
        let loss = trainer.evaluate(&self.batches)?;
        self.latest = Some(Tested { step, loss });
        let is_best = self.best.is_none_or(|best| loss < best.loss);
        if is_best {
            let checkpoint = trainer.checked_checkpoint(input.map(str::to_string), Some(loss))?;
            checkpoint
                .save(&self.dir)
                .context("cannot keep the best model so far")?;
            self.best = self.latest;
            self.in_vain = 0;
        } else {
            self.in_vain += 1;
        }
        Ok((loss, is_best))
    }

    /// Whether there were as many tests without a new best as there may be.
    pub fn is_out_of_patience(&self) -> bool {
        self.patience.is_some_and(|most| self.in_vain >= most)
    }

    pub fn tests_in_vain(&self) -> u64 {
        self.in_vain
    }

    /// The loss of the model of this step, if it was tested.
    pub fn loss_at(&self, step: u64) -> Option<f64> {
        let latest = self.latest.filter(|latest| latest.step == step)?;
        Some(latest.loss)
    }

    /// The step and the loss of the best model. A run that came to its end has one.
    pub fn best(&self) -> (u64, f64) {
        self.best
            .map_or((0, f64::NAN), |best| (best.step, best.loss))
    }

    /// Where the best model so far is, for a run that was interrupted.
    pub fn describe_best(&self) -> Option<String> {
        let best = self.best?;
        Some(format!(
            "the best model so far, of step {} with validation loss {:.4}, is in {}",
            console::group_thousands(best.step),
            best.loss,
            self.dir.display()
        ))
    }

    /// Leaves the best model in the output.
    pub fn keep_best(&self, output: &Path) -> Result<()> {
        let best = Checkpoint::load(&Snapshot::open(&self.dir)?)?;
        best.save(output)?;
        std::fs::remove_dir_all(&self.dir)
            .with_context(|| format!("cannot remove {}", self.dir.display()))
    }
}
