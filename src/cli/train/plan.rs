//! The plan of a training run, from its arguments, its text, and the resumed model.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use candle_core::Device;

use super::super::console;
use super::super::failure::Failure;
use super::super::flags::{Choice, DeviceKind, RawArgs, TrainArgs};
use super::input::Input;
use super::known_documents::KnownDocuments;
use super::output;
use super::start::Start;
use crate::data::{Corpus, CorpusKind, Dataset, ValidationSet};
use crate::model::ModelConfig;
use crate::store::DirectoryLock;
use crate::train::{Checkpoint, Hyperparameters, LossOn, TrainConfig};

/// A valid training run before its first write.
pub struct Plan {
    pub args: TrainArgs,
    pub input: Input,
    pub output: PathBuf,
    /// The lock of the output directory, if it exists.
    pub lock: Option<DirectoryLock>,
    pub device: Device,
    pub dataset: Dataset,
    pub validation_set: Option<ValidationSet>,
    pub config: TrainConfig,
    pub checkpoint: Checkpoint,
    pub known_documents: Option<KnownDocuments>,
}

impl Plan {
    /// Reads the resumed model and the training text, and prints the plan.
    pub fn new(args: TrainArgs, raw: &RawArgs) -> Result<Self, Failure> {
        let output = output::directory(&args);
        // Before the resumed model is read, so that no other run replaces it afterwards.
        let lock = match output.is_dir() {
            true => Some(DirectoryLock::acquire(&output)?),
            false => None,
        };
        output::check_replaceable(&args, &output)?;
        let device = open_device(args.device)?;
        let start = Start::load(&args)?;
        let kind = start.kind(&args)?;
        let input = start.input(&args)?;
        let mut text = String::new();
        let corpus = input.read(kind, &mut text)?;
        let hyperparameters = start.hyperparameters(&args, raw)?;
        args.check_validation(&hyperparameters)?;
        let config = TrainConfig {
            steps: args.steps as u64,
            hyperparameters,
            threads: args.threads.count(),
        };
        let known = start.vocab_size();
        let checkpoint = start.checkpoint(&args, &corpus, &input, hyperparameters.seed)?;
        let new_tokens = known.map(|known| checkpoint.meta.tokenizer.vocab_size() - known);
        let block_size = checkpoint.meta.config.block_size;
        let tokenizer = &checkpoint.meta.tokenizer;
        let mut dataset = Dataset::new(&corpus, tokenizer, block_size, hyperparameters.seed)?;
        let chat = tokenizer.chat_tokens();
        match (hyperparameters.loss_on, chat) {
            (LossOn::All, _) => {}
            (LossOn::Assistant, Some(chat)) => dataset.predict_replies_only(chat)?,
            (LossOn::Assistant, None) => {
                return Err(Failure::Usage(
                    "--loss-on assistant needs a chat model to resume".to_string(),
                ));
            }
        }
        let validation_set = match hyperparameters.validation_fraction {
            0.0 => None,
            fraction => Some(dataset.split_validation(fraction)?),
        };
        let plan = Self {
            output,
            lock,
            device,
            dataset,
            validation_set,
            config,
            checkpoint,
            known_documents: KnownDocuments::new(&corpus),
            input,
            args,
        };
        plan.print(&corpus, new_tokens.unwrap_or(0))?;
        Ok(plan)
    }

    /// Prints the plan to stderr. `new_tokens` were added to the vocabulary of the given model.
    fn print(&self, corpus: &Corpus, new_tokens: usize) -> Result<()> {
        if self.args.quiet {
            return Ok(());
        }
        self.print_text(corpus);
        let ModelConfig {
            n_embd,
            n_head,
            n_layer,
            block_size,
        } = self.checkpoint.meta.config;
        console::eprintln(format_args!(
            "model   {} parameters: n_embd {n_embd}, n_head {n_head}, n_layer {n_layer}, \
            block_size {block_size}, vocabulary {}",
            console::group_thousands(self.checkpoint.meta.parameters()? as u64),
            self.checkpoint.meta.tokenizer.vocab_size(),
        ));
        if let Some(dir) = &self.args.init_from {
            console::eprintln(format_args!("        weights from {}", dir.display()));
        }
        if new_tokens > 0 {
            console::eprintln(format_args!(
                "        {} added to the vocabulary",
                console::pluralize(new_tokens as u64, "token")
            ));
        }
        self.print_training(corpus.kind());
        let device = self.args.device.name();
        let threads = console::pluralize(self.config.threads as u64, "thread");
        console::eprintln(format_args!("on      {device}, {threads}"));
        Ok(())
    }

    fn print_text(&self, corpus: &Corpus) {
        let kind = corpus.kind();
        let unit = match kind {
            CorpusKind::Documents => "document",
            CorpusKind::Continuous => "character",
            CorpusKind::Conversations => "conversation",
        };
        console::eprintln(format_args!(
            "text    {} from {}",
            console::pluralize(corpus.len() as u64, unit),
            self.input.describe(kind)
        ));
        if self.dataset.truncated > 0 {
            console::eprintln(format_args!(
                "        {} of them truncated to the context of {}; --block-size sets it",
                console::group_thousands(self.dataset.truncated as u64),
                console::pluralize(self.checkpoint.meta.config.block_size as u64, "token"),
            ));
        }
        if self.dataset.without_reply > 0 {
            console::eprintln(format_args!(
                "        {} of them left out: no assistant's message within the context",
                console::group_thousands(self.dataset.without_reply as u64),
            ));
        }
        if let Some(validation_set) = &self.validation_set {
            console::eprintln(format_args!(
                "        {} of them held out for validation every {}; the best model is kept",
                console::group_thousands(validation_set.count as u64),
                match self.args.eval_interval() {
                    1 => "step".to_string(),
                    steps => console::pluralize(steps, "step"),
                },
            ));
        }
    }

    fn print_training(&self, kind: CorpusKind) {
        let unit = match kind {
            CorpusKind::Documents => "document",
            CorpusKind::Continuous => "window",
            CorpusKind::Conversations => "conversation",
        };
        let Hyperparameters {
            batch_size,
            lr,
            schedule,
            warmup_steps,
            seed,
            ..
        } = self.config.hyperparameters;
        let from = match self.checkpoint.state.step {
            0 => String::new(),
            step => format!(", from step {}", console::group_thousands(step)),
        };
        let warmup = match warmup_steps {
            0 => String::new(),
            steps => format!(" after {} of warm-up", console::pluralize(steps, "step")),
        };
        console::eprintln(format_args!(
            "train   {} of {}{from}, learning rate {lr} {}{warmup}, seed {seed}",
            console::pluralize(self.config.steps, "step"),
            console::pluralize(batch_size as u64, unit),
            schedule.name(),
        ));
    }
}

/// Opens a device. Errors if this build or this machine has none of the kind.
fn open_device(kind: DeviceKind) -> Result<Device> {
    match kind {
        DeviceKind::Cpu => Ok(Device::Cpu),
        DeviceKind::Metal if cfg!(feature = "metal") => {
            Device::new_metal(0).context("cannot use the GPU")
        }
        DeviceKind::Metal => bail!(
            "this build does not support Metal; build on macOS with `cargo build --release \
            --features metal`"
        ),
    }
}
