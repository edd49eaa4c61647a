//! `microgpt train`: from a text file to a model directory.

mod input;
mod log;
mod loss_curve;
mod memory;
mod options;
mod plan;
mod signals;
mod svg_plot;
mod terminal_plot;
#[cfg(test)]
mod tests;
mod validation;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use super::generate::{Style, print_all};
use super::progress::ProgressMeter;
use super::{Failure, Words, allocator, console};
use crate::data::CorpusKind;
use crate::engine::{GenerateOptions, Generator, Sample, start_samples};
use crate::infer::InferenceGpt;
use crate::model::ModelMeta;
use crate::store::{DirectoryLock, Snapshot, check_writable};
use crate::train::{Checkpoint, Trainer};
use log::Log;
use loss_curve::{LossCurve, Point};
pub use options::Options;
use plan::Plan;
use signals::Signals;
use terminal_plot::Charset;
use validation::Validation;

/// The most tokens of a sample that a run ends with, which is to be looked at, not waited for.
const SAMPLE_TOKENS: usize = 1000;

pub fn run(words: &Words) -> Result<(), Failure> {
    let plan = Plan::new(Options::from_words(words)?)?;
    let made = plan.lock.is_none().then(|| plan.output.clone());
    let ended = Run::start(plan).and_then(|mut run| match run.train() {
        Ok(end) => Ok((run, end)),
        Err(error) => Err(error.context(run.kept())),
    });
    let (run, end) = ended.inspect_err(|_| {
        // A directory that was made for the run goes again, unless there is something in it.
        let _ = made.map(fs::remove_dir);
    })?;
    run.finish(end)
}

/// A run under way.
struct Run {
    trainer: Trainer,
    progress: ProgressMeter,
    curve: LossCurve,
    validation: Option<Validation>,
    log: Option<Log>,
    plot: Option<PathBuf>,
    signals: Signals,
    /// How many threads make the samples, as they do the training.
    threads: usize,
    output: PathBuf,
    /// The hold on the output, to the end of the run.
    _lock: DirectoryLock,
    /// What train_state.json says of the input.
    input: Option<String>,
    checkpoint_every: u64,
}

/// Why a run ended.
enum End {
    /// All steps were made, or the model got no better any more.
    Done,
    /// The number of the signal that asked to stop.
    Signal(i32),
}

impl Run {
    /// Makes everything ready, so that what can fail fails now rather than when the model is to be
    /// saved.
    fn start(plan: Plan) -> Result<Self> {
        let Plan {
            options,
            input,
            output,
            lock,
            device,
            dataset,
            held_out,
            config,
            checkpoint,
        } = plan;
        let steps = config.steps;
        check_writable(&output)?;
        let lock = match lock {
            Some(lock) => lock,
            None => DirectoryLock::acquire(&output)?,
        };
        let log = options
            .log
            .as_deref()
            .map(|path| Log::open(path, options.resume.is_some()))
            .transpose()?;
        if let Some(path) = &options.plot {
            svg_plot::check_writable(path)?;
        }
        let trainer = Trainer::new(config, checkpoint, dataset, &device)?;
        let mut run = Self {
            progress: ProgressMeter::new(steps, trainer.last_step(), options.quiet),
            trainer,
            curve: LossCurve::new(),
            validation: held_out.map(|held_out| {
                let (interval, patience) = (options.eval_every, options.patience);
                Validation::new(&held_out, interval, patience, &output)
            }),
            log,
            plot: options.plot,
            signals: Signals::install()?,
            threads: options.threads,
            output,
            _lock: lock,
            input: input.to_state(),
            checkpoint_every: options.checkpoint_every,
        };
        if let (Some(validation), Some(resumed)) = (&mut run.validation, &options.resume) {
            validation.set_baseline(resumed, &run.trainer, run.input.as_deref())?;
        }
        Ok(run)
    }

    /// Trains to the end, or until a signal asks to stop, and saves.
    fn train(&mut self) -> Result<End> {
        let mut saved = None;
        let mut signal = None;
        let mut logged = Ok(());
        while !self.trainer.is_done() && signal.is_none() && logged.is_ok() && !self.is_stale() {
            let report = self.trainer.step()?;
            self.progress.record(&report);
            self.curve.add(&report);
            let validation_loss = self.validate()?;
            logged = match &mut self.log {
                Some(log) => log.write(&report, validation_loss, &self.progress),
                None => Ok(()),
            };
            if self.checkpoint_every > 0 && report.step % self.checkpoint_every == 0 {
                match self.checkpoint(validation_loss)?.save(&self.output) {
                    Ok(()) => saved = Some(report.step),
                    // The model before it is still there, and the disk may have room again later.
                    Err(error) => self.progress.warn(&format!(
                        "microgpt: warning: no checkpoint at step {}: {error:#}",
                        report.step
                    )),
                }
            }
            signal = self.signals.received();
        }
        self.progress.finish();
        if let (Some(log), Ok(())) = (&mut self.log, &logged) {
            logged = log.flush();
        }
        // Even where the log failed: what was learned is not to be lost with it.
        if saved != Some(self.trainer.step_count()) {
            let step = self.trainer.step_count();
            let validation = self.validation.as_ref();
            let loss = validation.and_then(|validation| validation.loss_at(step));
            self.checkpoint(loss)?.save(&self.output)?;
        }
        logged?;
        if let Some(path) = &self.plot {
            svg_plot::write(path, &self.curve)?;
        }
        if let Some(signal) = signal {
            return Ok(End::Signal(signal));
        }
        if let Some(validation) = &self.validation {
            validation.promote_best(&self.output)?;
        }
        Ok(End::Done)
    }

    /// Tests the model if it is time to; gives its validation loss then.
    fn validate(&mut self) -> Result<Option<f64>> {
        let Some(validation) = &mut self.validation else {
            return Ok(None);
        };
        if !validation.is_due(&self.trainer) {
            return Ok(None);
        }
        let (loss, is_best) = validation.evaluate(&self.trainer, self.input.as_deref())?;
        self.progress.print_validation(loss, is_best);
        self.curve.validation.push(Point {
            step: self.trainer.step_count() as f64,
            loss,
        });
        Ok(Some(loss))
    }

    /// Whether the model has got no better for so long that it is to stop.
    fn is_stale(&self) -> bool {
        let validation = self.validation.as_ref();
        validation.is_some_and(Validation::is_out_of_patience)
    }

    /// What the output holds when a run has failed: the last save that counts.
    fn kept(&self) -> String {
        let output = self.output.display();
        match Snapshot::open(&self.output).and_then(|files| Checkpoint::load(&files)) {
            Ok(checkpoint) => {
                let step = console::group_thousands(checkpoint.state.step);
                format!("{output} holds the model of step {step}")
            }
            Err(_) => format!("nothing was saved in {output}"),
        }
    }

    fn checkpoint(&self, validation_loss: Option<f64>) -> Result<Checkpoint> {
        self.trainer
            .checked_checkpoint(self.input.clone(), validation_loss)
    }

    /// Says what was written, and shows what the model has learned; or how to go on, after a
    /// signal.
    fn finish(self, end: End) -> Result<(), Failure> {
        let step = self.trainer.step_count();
        let output = self.output.display();
        if let End::Signal(signal) = end {
            let left = self.trainer.last_step() - step;
            let more = if left > 0 {
                format!(" --steps {left}")
            } else {
                String::new()
            };
            let best = self.validation.as_ref().and_then(Validation::describe_best);
            let best = best.map_or(String::new(), |best| format!("; {best}"));
            console::eprintln(format_args!(
                "stopped after step {step}, saved in {output}{best}; go on with: microgpt train \
                --resume {output}{more}"
            ));
            return Err(Failure::Signal(signal));
        }
        self.plot_curve();
        if let Some(validation) = &self.validation {
            if validation.is_out_of_patience() {
                self.progress.println(&format!(
                    "stopped at step {}: {} in a row brought no better model",
                    console::group_thousands(step),
                    console::pluralize(validation.since_best(), "evaluation")
                ));
            }
            let (best, loss) = validation.best();
            self.progress.println(&format!(
                "saved   {output}, the best model by validation: step {}, loss {loss:.4}",
                console::group_thousands(best)
            ));
        } else {
            self.progress.println(&format!(
                "saved   {output}, after {}",
                console::pluralize(step, "step")
            ));
        }
        self.progress.print_summary();
        // In this order, so that none goes unseen in between.
        self.signals.exit_on_next_signal();
        if let Some(signal) = self.signals.received() {
            return Err(Failure::Signal(signal));
        }
        // The samples need nothing of what training has held.
        drop(self.trainer);
        allocator::release_freed_memory();
        print_samples(&self.output, self.threads)
    }

    /// Plots the loss on a terminal.
    fn plot_curve(&self) {
        if !console::is_terminal() {
            return;
        }
        let charset = if console::can_show_unicode() {
            Charset::Braille
        } else {
            Charset::Ascii
        };
        if let Some(plot) = terminal_plot::plot(&self.curve, charset, console::width()) {
            self.progress.println(&plot);
        }
    }
}

/// Shows what the model in a directory has learned.
fn print_samples(dir: &Path, threads: usize) -> Result<(), Failure> {
    let (meta, weights) = ModelMeta::load(&Snapshot::open(dir)?)?;
    let model = Arc::new(InferenceGpt::new(meta, weights));
    // As many as fit a screen.
    let (count, max_tokens) = match model.meta().tokenizer.kind() {
        CorpusKind::Documents => (20, Some(SAMPLE_TOKENS)),
        CorpusKind::Continuous => (1, None),
        CorpusKind::Conversations => (3, Some(SAMPLE_TOKENS)),
    };
    let generator = Generator::new(
        model,
        GenerateOptions {
            seed: 42,
            max_tokens,
            ..Default::default()
        },
    )?;
    let made = |index, sample: &Sample| Style::Lines.format(index, sample);
    let samples = start_samples(generator, threads, count, true, made)?;
    print_all(samples)
}
