//! `microgpt train`: from a text file to a model directory.

mod input;
mod log;
mod options;
mod plan;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::generate::Style;
use super::progress::ProgressMeter;
use super::{Failure, Words, console};
use crate::model::{GenerateOptions, Generator};
use crate::store::check_writable;
use crate::train::Trainer;
use log::Log;
use options::Options;
use plan::Plan;

/// How many samples a run ends with: lines of text, or conversations.
const TEXT_SAMPLES: u64 = 20;
const CHAT_SAMPLES: u64 = 3;

/// The most tokens of such a sample, which is to be looked at, not waited for.
const SAMPLE_TOKENS: usize = 1000;

pub fn run(words: &Words) -> Result<(), Failure> {
    let options = Options::from_words(words)?;
    let mut run = Run::start(Plan::new(options)?)?;
    let signal = run.train()?;
    run.finish(signal)
}

/// A run under way.
struct Run {
    trainer: Trainer,
    progress: ProgressMeter,
    log: Option<Log>,
    signal: Arc<AtomicUsize>,
    output: PathBuf,
    /// What train_state.json says of the input.
    input: Option<String>,
    checkpoint_every: u64,
    quiet: bool,
}

impl Run {
    /// Makes everything ready, so that what can fail fails now rather than when the model is to be
    /// saved.
    fn start(plan: Plan) -> Result<Self> {
        let Plan {
            options,
            input,
            output,
            device,
            dataset,
            config,
            state,
        } = plan;
        let steps = config.steps;
        check_writable(&output)?;
        let log = options
            .log
            .as_deref()
            .map(|path| Log::open(path, options.resume.is_some()))
            .transpose()?;
        let trainer = Trainer::new(config, state, dataset, &device)?;
        Ok(Self {
            progress: ProgressMeter::new(steps, trainer.last_step(), options.quiet),
            trainer,
            log,
            signal: watch_signals()?,
            output,
            input: input.recorded(),
            checkpoint_every: options.checkpoint_every,
            quiet: options.quiet,
        })
    }

    /// Trains to the end, or until a signal asks to stop, and saves. Gives the signal's number.
    fn train(&mut self) -> Result<Option<i32>> {
        let mut saved = None;
        let mut signal = 0;
        let mut logged = Ok(());
        while !self.trainer.is_done() && signal == 0 && logged.is_ok() {
            let report = self.trainer.step()?;
            self.progress.count(&report);
            logged = match &mut self.log {
                Some(log) => log.write(&report, &self.progress),
                None => Ok(()),
            };
            if self.checkpoint_every > 0 && report.step % self.checkpoint_every == 0 {
                match self.save() {
                    Ok(()) => saved = Some(report.step),
                    // The model before it is still there, and the disk may have room again later.
                    Err(error) => console::note(format_args!(
                        "microgpt: warning: no checkpoint at step {}: {error:#}",
                        report.step
                    )),
                }
            }
            signal = self.signal.load(Ordering::Relaxed);
        }
        if let (Some(log), Ok(())) = (&mut self.log, &logged) {
            logged = log.flush();
        }
        // Even where the log failed: what was learned is not to be lost with it.
        if saved != Some(self.trainer.step_count()) {
            self.save()?;
        }
        logged?;
        Ok((signal != 0).then_some(signal as i32))
    }

    fn save(&self) -> Result<()> {
        self.trainer.state(self.input.clone())?.save(&self.output)
    }

    /// Says what was written, and shows what the model has learned; or how to go on, after a
    /// signal.
    fn finish(self, signal: Option<i32>) -> Result<(), Failure> {
        let step = self.trainer.step_count();
        let output = self.output.display();
        if let Some(signal) = signal {
            let left = self.trainer.last_step() - step;
            let more = if left > 0 {
                format!(" --steps {left}")
            } else {
                String::new()
            };
            console::note(format_args!(
                "stopped after step {step}, saved in {output}; go on with: microgpt train \
                --resume {output}{more}"
            ));
            return Err(Failure::Signal(signal));
        }
        if !self.quiet {
            console::note(format_args!(
                "saved   {output}, after {} steps",
                console::thousands(step)
            ));
        }
        self.progress.summary();
        self.print_samples()
    }

    fn print_samples(&self) -> Result<(), Failure> {
        let model = self.trainer.inference_gpt()?;
        let count = if model.meta().is_chat() {
            CHAT_SAMPLES
        } else {
            TEXT_SAMPLES
        };
        let generator = Generator::new(
            model,
            GenerateOptions {
                seed: 42,
                max_tokens: Some(SAMPLE_TOKENS),
                ..Default::default()
            },
        )?;
        let mut output = console::Output::new();
        for index in 0..count {
            output.write(&Style::Lines.format(index, &generator.sample(index)))?;
        }
        output.flush()
    }
}

/// The number of the signal that asked to stop; 0 while none did. A second one ends the program at
/// once.
fn watch_signals() -> Result<Arc<AtomicUsize>> {
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [SIGINT, SIGTERM] {
        let stopping = Arc::new(AtomicBool::new(false));
        flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&stopping))
            .and_then(|_| flag::register(number, stopping))
            .and_then(|_| flag::register_usize(number, Arc::clone(&signal), number as usize))
            .context("cannot watch for signals")?;
    }
    Ok(signal)
}
