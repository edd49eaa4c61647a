//! `microgpt train`: from a text to a model directory.

mod input;
mod known_documents;
mod log;
mod loss_curve;
mod memory;
mod output;
mod plan;
mod signals;
mod start;
mod svg_plot;
mod terminal_plot;
#[cfg(test)]
mod tests;
mod validation;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use super::failure::Failure;
use super::flags::{RawArgs, TrainArgs};
use super::generate::{SampleFormat, print_all};
use super::progress::ProgressMeter;
use super::{allocator, console, model_dir};
use crate::data::CorpusKind;
use crate::engine::{GenerateOptions, Generator, Sample, start_samples};
use crate::store::{DirectoryLock, Snapshot, check_writable};
use crate::train::{Checkpoint, StepReport, Trainer};
use known_documents::KnownDocuments;
use log::Log;
use loss_curve::{LossCurve, Point};
use plan::Plan;
use signals::Signals;
use terminal_plot::Charset;
use validation::Validation;

/// The maximum number of tokens of a sample at the end of a run. Models with a long context would
/// delay the end otherwise.
const MAX_SAMPLE_TOKENS: usize = 1000;

/// Runs `microgpt train`.
pub fn run(args: TrainArgs, raw: &RawArgs) -> Result<(), Failure> {
    let signals = Signals::install()?;
    let plan = Plan::new(args, raw)?;
    let created = plan.lock.is_none().then(|| plan.output.clone());
    let ended = Run::start(plan, signals).and_then(|mut run| match run.train() {
        Ok(end) => Ok((run, end)),
        Err(error) => Err(error.context(run.describe_saved())),
    });
    let (run, end) = ended.inspect_err(|_| {
        // Fails, as it should, if the directory is not empty.
        let _ = created.map(fs::remove_dir);
    })?;
    run.finish(end)
}

/// An active training run.
struct Run {
    trainer: Trainer,
    progress: ProgressMeter,
    curve: LossCurve,
    validation: Option<Validation>,
    log: Option<Log>,
    plot: Option<PathBuf>,
    signals: Signals,
    /// Threads of the samples at the end.
    threads: usize,
    output: PathBuf,
    _lock: DirectoryLock,
    /// The entry of the input in train_state.json.
    input: Option<String>,
    checkpoint_every: u64,
    known_documents: Option<KnownDocuments>,
    quiet: bool,
}

/// The reason for the end of a run.
enum End {
    /// The last step, or early stopping.
    Done,
    /// A signal, by its number.
    Signal(i32),
}

impl Run {
    /// Opens and checks all outputs, so that errors come before the training rather than after it.
    fn start(plan: Plan, signals: Signals) -> Result<Self> {
        let Plan {
            args,
            input,
            output,
            lock,
            device,
            dataset,
            validation_set,
            config,
            checkpoint,
            known_documents,
        } = plan;
        let steps = config.steps;
        check_writable(&output)?;
        let lock = match lock {
            Some(lock) => lock,
            None => {
                let lock = DirectoryLock::acquire(&output)?;
                // Another run may have created the directory in the meantime.
                output::check_replaceable(&args, &output)?;
                lock
            }
        };
        let log = args
            .log
            .as_deref()
            .map(|path| Log::open(path, args.resume.is_some()))
            .transpose()?;
        if let Some(path) = &args.plot {
            svg_plot::check_writable(path)?;
        }
        let trainer = Trainer::new(config, checkpoint, dataset, &device)?;
        let mut run = Self {
            progress: ProgressMeter::new(steps, trainer.last_step(), args.quiet),
            trainer,
            curve: LossCurve::new(),
            validation: validation_set.map(|validation_set| {
                let patience = args.patience.map(|patience| patience as u64);
                Validation::new(&validation_set, args.eval_interval(), patience, &output)
            }),
            log,
            plot: args.plot,
            signals,
            threads: args.threads.count(),
            output,
            _lock: lock,
            input: input.to_state(),
            checkpoint_every: args.checkpoint_every,
            known_documents,
            quiet: args.quiet,
        };
        if let (Some(validation), Some(resumed)) = (&mut run.validation, &args.resume) {
            validation.set_baseline(resumed, &run.trainer, run.input.as_deref())?;
        }
        run.signals.begin();
        Ok(run)
    }

    /// Trains until the last step, early stopping or a signal, and saves.
    fn train(&mut self) -> Result<End> {
        let mut saved = None;
        let mut signal = None;
        let mut logged = Ok(());
        while !self.trainer.is_done()
            && signal.is_none()
            && logged.is_ok()
            && !self.is_out_of_patience()
        {
            let report = self.trainer.step()?;
            self.progress.record(&report);
            self.curve.add(&report);
            let validation_loss = self.validate()?;
            logged = match &mut self.log {
                Some(log) => log.write(&report, validation_loss, &self.progress),
                None => Ok(()),
            };
            if self.save_if_due(&report, validation_loss)? {
                saved = Some(report.step);
            }
            signal = self.signals.received();
        }
        self.progress.finish();
        if let (Some(log), Ok(())) = (&mut self.log, &logged) {
            logged = log.flush();
        }
        // Even if the log failed, so that no training is lost.
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

    /// Saves a checkpoint if one is due or SIGUSR1 requests one, and returns whether it did.
    fn save_if_due(&mut self, report: &StepReport, validation_loss: Option<f64>) -> Result<bool> {
        let step = report.step;
        let is_due = self.checkpoint_every > 0 && step.is_multiple_of(self.checkpoint_every);
        let is_requested = self.signals.take_save_request();
        if !is_due && !is_requested {
            return Ok(false);
        }
        if let Err(error) = self.checkpoint(validation_loss)?.save(&self.output) {
            // The previous checkpoint is intact, and a later save may succeed.
            let line = format!("microgpt: warning: no checkpoint at step {step}: {error:#}");
            self.progress.warn(&line);
            return Ok(false);
        }
        if is_requested {
            let (step, output) = (console::group_thousands(step), self.output.display());
            let line = format!("saved   {output}, after step {step}, because of SIGUSR1");
            self.progress.println(&line);
        }
        Ok(true)
    }

    /// Evaluates the model if an evaluation is due, and returns the validation loss.
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

    /// Returns whether early stopping applies.
    fn is_out_of_patience(&self) -> bool {
        let validation = self.validation.as_ref();
        validation.is_some_and(Validation::is_out_of_patience)
    }

    /// Describes the checkpoint in the output after a failed run.
    fn describe_saved(&self) -> String {
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

    /// Reports the saved model and prints samples; after a signal, reports how to resume.
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
                "stopped after step {step}, saved in {output}{best}; resume with: microgpt train \
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
        // In this order, so that no signal is lost in between.
        self.signals.exit_on_next_signal();
        if let Some(signal) = self.signals.received() {
            return Err(Failure::Signal(signal));
        }
        // Frees the memory of the training before the samples.
        drop(self.trainer);
        allocator::release_freed_memory();
        let known = self.known_documents.filter(|_| !self.quiet);
        print_samples(&self.output, self.threads, known)
    }

    /// Plots the loss if stderr is a terminal.
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

/// Prints samples of the model in a directory, then the number of those that are `known` documents.
fn print_samples(dir: &Path, threads: usize, known: Option<KnownDocuments>) -> Result<(), Failure> {
    let model = model_dir::load(Some(dir))?;
    // They fit a screen.
    let kind = model.meta().tokenizer.kind();
    let (count, max_tokens) = match kind {
        CorpusKind::Documents => (20, Some(MAX_SAMPLE_TOKENS)),
        CorpusKind::Continuous => (1, None),
        CorpusKind::Conversations => (3, Some(MAX_SAMPLE_TOKENS)),
    };
    let generator = Generator::new(
        model,
        GenerateOptions {
            max_tokens,
            ..Default::default()
        },
    )?;
    let repeated = Arc::new(AtomicU64::new(0));
    let counter = known.map(|known| (known, Arc::clone(&repeated)));
    let has_counter = counter.is_some();
    let format = move |index, sample: &Sample| {
        if let (Some((known, counter)), Sample::Text(text)) = (&counter, sample)
            && known.contains(text)
        {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        SampleFormat::plain(kind).format(0, index, sample)
    };
    print_all(start_samples(generator, threads, 0, count, true, format)?)?;
    if has_counter {
        let repeated = repeated.load(Ordering::Relaxed);
        let verb = if repeated == 1 {
            "is a line"
        } else {
            "are lines"
        };
        console::eprintln(format_args!(
            "{repeated} of these {count} samples {verb} of the training text"
        ));
    }
    Ok(())
}
