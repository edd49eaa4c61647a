//! `microgpt train`: from a text to a model directory.

mod input;
mod known_documents;
mod log;
mod loss_curve;
mod memory;
mod output;
mod plan;
mod preparation_progress;
mod requests;
mod signals;
mod start;
mod svg_plot;
mod terminal_plot;
#[cfg(test)]
mod tests;
mod validation;

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

use super::failure::Failure;
use super::flags::{RawArgs, TrainArgs};
use super::generate::{SampleFormat, print_all};
use super::progress::ProgressMeter;
use super::{allocator, console, model_dir};
use crate::data::{Corpus, CorpusKind};
use crate::engine::{GenerateOptions, Generator, Sample, start_samples};
use crate::store::{DirectoryLock, Snapshot, check_writable};
use crate::train::{Checkpoint, FailedElsewhere, Ranks, StepReport, Trainer};
use known_documents::count_repeated;
use log::Log;
use loss_curve::{LossCurve, Point};
use plan::Plan;
use requests::Requests;
use signals::Signals;
use terminal_plot::Charset;
use validation::Validation;

/// The maximum number of tokens of a sample at the end of a run. Models with a long context would
/// delay the end otherwise.
const MAX_SAMPLE_TOKENS: usize = 1000;

/// Runs `microgpt train`.
pub fn run(args: TrainArgs, raw: &RawArgs) -> Result<(), Failure> {
    let ranks = Rc::new(Ranks::connect()?);
    let trained = train(args, raw, &ranks);
    let (run, end) = trained.map_err(|failure| report_on(&ranks, failure))?;
    // The end of the other ranks waits for this one's, so that its messages come first.
    drop(ranks);
    match (run.ranks.is_first(), end) {
        (true, end) => run.finish(end),
        (false, End::Done) => Ok(()),
        (false, End::Signal(signal)) => Err(Failure::Signal(signal)),
    }
}

/// Trains on all ranks, and saves the model.
fn train(args: TrainArgs, raw: &RawArgs, ranks: &Rc<Ranks>) -> Result<(Run, End), Failure> {
    let signals = Signals::install()?;
    let plan = ranks.agree(Plan::new(args, raw, ranks))?;
    ranks.agree(plan.check_same(ranks))?;
    let is_new = ranks.is_first() && plan.lock.is_none();
    let created = is_new.then(|| plan.output.clone());
    let ended = Run::start(plan, signals, ranks).and_then(|mut run| match run.train() {
        Ok(end) => Ok((run, end)),
        Err(error) if ranks.is_first() => Err(error.context(run.describe_saved())),
        Err(error) => Err(error),
    });
    ended.map_err(|error| {
        // Fails, as it should, if the directory is not empty.
        let _ = created.map(fs::remove_dir);
        Failure::Error(error)
    })
}

/// Reports a failure of one of several ranks before it ends, which makes `mpirun` end the others.
fn report_on(ranks: &Ranks, failure: Failure) -> Failure {
    if ranks.count() == 1 {
        return failure;
    }
    let code = match failure {
        Failure::Error(error) if !ranks.is_first() && !error.is::<FailedElsewhere>() => {
            let rank = format!("rank {} of {}", ranks.rank(), ranks.count());
            Failure::Error(error.context(rank)).print()
        }
        failure => failure.print(),
    };
    ranks.abort_unless_agreed();
    Failure::Reported(code)
}

/// An active training run.
struct Run {
    trainer: Trainer,
    progress: ProgressMeter,
    curve: LossCurve,
    validation: Option<Validation>,
    outputs: Outputs,
    signals: Signals,
    /// Threads of the samples at the end.
    threads: usize,
    output: PathBuf,
    /// The entry of the input in train_state.json.
    input: Option<String>,
    checkpoint_every: u64,
    corpus: Corpus<'static>,
    quiet: bool,
    ranks: Rc<Ranks>,
}

/// The files that a run writes beside the model; none on other ranks than 0.
#[derive(Default)]
struct Outputs {
    /// The lock of the model's directory.
    _lock: Option<DirectoryLock>,
    log: Option<Log>,
    plot: Option<PathBuf>,
}

impl Outputs {
    /// Opens and checks all outputs, so that errors come before the training rather than after it.
    fn open(plan: &mut Plan) -> Result<Self> {
        let Plan { args, output, .. } = plan;
        check_writable(output)?;
        let lock = match plan.lock.take() {
            Some(lock) => lock,
            None => {
                let lock = DirectoryLock::acquire(output)?;
                // Another run may have created the directory in the meantime.
                output::check_replaceable(args, output)?;
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
        Ok(Self {
            _lock: Some(lock),
            log,
            plot: args.plot.take(),
        })
    }
}

/// The reason for the end of a run.
enum End {
    /// The last step, or early stopping.
    Done,
    /// A signal, by its number.
    Signal(i32),
}

impl Run {
    /// Prepares a run. Rank 0 opens all outputs.
    fn start(mut plan: Plan, signals: Signals, ranks: &Rc<Ranks>) -> Result<Self> {
        let outputs = ranks.is_first().then(|| Outputs::open(&mut plan));
        let outputs = ranks.agree(outputs.transpose())?.unwrap_or_default();
        let Plan {
            args,
            input,
            output,
            lock: _,
            device,
            dataset,
            validation_set,
            config,
            checkpoint,
            corpus,
        } = plan;
        let steps = config.steps;
        let trainer = ranks.agree(Trainer::new(config, checkpoint, dataset, &device))?;
        let trainer = trainer.with_fingerprint(corpus.fingerprint());
        let trainer = trainer.on_ranks(Rc::clone(ranks));
        let quiet = args.quiet || !ranks.is_first();
        let mut run = Self {
            progress: ProgressMeter::new(steps, trainer.last_step(), quiet),
            trainer,
            curve: LossCurve::new(),
            validation: validation_set.map(|validation_set| {
                let patience = args.patience.map(|patience| patience as u64);
                let interval = args.eval_interval();
                Validation::new(
                    validation_set,
                    interval,
                    patience,
                    &output,
                    Rc::clone(ranks),
                )
            }),
            outputs,
            signals,
            threads: args.threads.count(),
            output,
            input: input.to_state(),
            checkpoint_every: args.checkpoint_every,
            corpus,
            quiet,
            ranks: Rc::clone(ranks),
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
        let mut requests = Requests::default();
        let mut logged = Ok(());
        while !self.trainer.is_done() && !requests.stop() && !self.is_out_of_patience() {
            let report = self.trainer.step()?;
            self.progress.record(&report);
            self.curve.add(&report);
            let validation_loss = self.validate()?;
            logged = match &mut self.outputs.log {
                Some(log) => log.write(&report, validation_loss, &self.progress),
                None => Ok(()),
            };
            requests = Requests::of_all(&self.ranks, &self.signals, logged.is_err());
            if self.save_if_due(&report, validation_loss, requests.save)? {
                saved = Some(report.step);
            }
        }
        self.progress.finish();
        if let (Some(log), Ok(())) = (&mut self.outputs.log, &logged) {
            logged = log.flush();
        }
        // Even if the log failed, so that no training is lost.
        if saved != Some(self.trainer.step_count()) {
            let step = self.trainer.step_count();
            let validation = self.validation.as_ref();
            let loss = validation.and_then(|validation| validation.loss_at(step));
            let checkpoint = self.checkpoint(loss)?;
            self.ranks.on_first(|| checkpoint.save(&self.output))?;
        }
        self.ranks.agree(logged)?;
        self.ranks.on_first(|| match &self.outputs.plot {
            Some(path) => svg_plot::write(path, &self.curve),
            None => Ok(()),
        })?;
        if let Some(signal) = requests.signal {
            return Ok(End::Signal(signal));
        }
        if let Some(validation) = &self.validation {
            let promote = || validation.promote_best(&self.output);
            self.ranks.on_first(promote)?;
        }
        Ok(End::Done)
    }

    /// Saves a checkpoint if one is due or requested, and returns whether it did.
    fn save_if_due(
        &mut self,
        report: &StepReport,
        validation_loss: Option<f64>,
        is_requested: bool,
    ) -> Result<bool> {
        let step = report.step;
        let is_due = self.checkpoint_every > 0 && step.is_multiple_of(self.checkpoint_every);
        if !is_due && !is_requested {
            return Ok(false);
        }
        let checkpoint = self.checkpoint(validation_loss)?;
        if let Err(error) = self.ranks.on_first(|| checkpoint.save(&self.output)) {
            // The previous checkpoint is intact, and a later save may succeed.
            let line = format!("microgpt: warning: no checkpoint at step {step}: {error:#}");
            if self.ranks.is_first() {
                self.progress.warn(&line);
            }
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
        let corpus = (!self.quiet).then_some(&self.corpus);
        print_samples(&self.output, self.threads, corpus)
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

/// Prints samples of the model in a directory, then the number of those that are documents of the
/// corpus, if given.
fn print_samples(dir: &Path, threads: usize, corpus: Option<&Corpus>) -> Result<(), Failure> {
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
    let samples = Arc::new(Mutex::new(Vec::new()));
    let collected = Arc::clone(&samples);
    let format = move |index, sample: &Sample| {
        if let (CorpusKind::Documents, Sample::Text(text)) = (kind, sample) {
            let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
            collected.push(text.clone());
        }
        SampleFormat::plain(kind).format(0, index, sample)
    };
    print_all(start_samples(generator, threads, 0, count, true, format)?)?;
    if let (CorpusKind::Documents, Some(corpus)) = (kind, corpus) {
        let samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
        // The model is trained and its samples are printed, even if the text is gone by now.
        let Ok(repeated) = count_repeated(corpus, &samples) else {
            return Ok(());
        };
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
