//! The plan of a training run, from its arguments, its text, and the resumed model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;

use super::super::failure::Failure;
use super::super::flags::{Choice, DeviceKind, RawArgs, TrainArgs, override_hyperparameters};
use super::super::{console, model_dir};
use super::input::Input;
use super::{memory, output};
use crate::data::{Corpus, CorpusKind, Dataset, ValidationSet, quote_chars};
use crate::model::{ModelConfig, ModelMeta};
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
        let resumed = args.resume.as_deref().map(load_resumed).transpose()?;
        let kind = kind(&args, resumed.as_ref())?;
        let input = input(&args, resumed.as_ref())?;
        let mut text = String::new();
        let corpus = input.read(kind, &mut text)?;
        let hyperparameters = match &resumed {
            Some(checkpoint) => override_hyperparameters(checkpoint.state.hyperparameters, raw)?,
            None => args.hyperparameters,
        };
        args.check_validation(&hyperparameters)?;
        let config = TrainConfig {
            steps: args.steps as u64,
            hyperparameters,
            threads: args.threads.count(),
        };
        let checkpoint = match resumed {
            Some(checkpoint) => check_resumed(checkpoint, &corpus, &input)?,
            None => new_checkpoint(&corpus, &args, hyperparameters.seed)?,
        };
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
            input,
            args,
        };
        plan.print(&corpus)?;
        Ok(plan)
    }

    /// Prints the plan to stderr.
    fn print(&self, corpus: &Corpus) -> Result<()> {
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

/// Returns the kind of text: that of the resumed model, or the one of the arguments.
fn kind(args: &TrainArgs, resumed: Option<&Checkpoint>) -> Result<CorpusKind> {
    let Some(checkpoint) = resumed else {
        return Ok(args.kind().unwrap_or(CorpusKind::Documents));
    };
    let kind = checkpoint.meta.tokenizer.kind();
    if args.kind().is_some_and(|given| given != kind) {
        let (content, options) = match kind {
            CorpusKind::Documents => ("one document per line", "neither --chat nor --text"),
            CorpusKind::Continuous => ("one continuous text", "--text or no option"),
            CorpusKind::Conversations => ("conversations", "--chat or no option"),
        };
        bail!("the resumed model was trained on {content}; resume it with {options}");
    }
    Ok(kind)
}

/// Returns the source of the text: `--input`, or that of the resumed run.
fn input(args: &TrainArgs, resumed: Option<&Checkpoint>) -> Result<Input> {
    let recorded = resumed.and_then(|checkpoint| checkpoint.state.input.clone());
    let input = Input::from_name(args.input.clone().or(recorded.map(PathBuf::from)));
    if input == Input::Stdin && args.input.is_none() {
        bail!("the resumed model was trained on standard input; give its text again with --input");
    }
    Ok(input)
}

/// Loads the checkpoint to resume.
fn load_resumed(dir: &Path) -> Result<Checkpoint> {
    Checkpoint::load(&model_dir::open(Some(dir))?)
}

/// Errors if the resumed model does not know a character of the text.
fn check_resumed(checkpoint: Checkpoint, corpus: &Corpus, input: &Input) -> Result<Checkpoint> {
    let unknown = checkpoint.meta.tokenizer.unknown_chars(corpus.texts());
    ensure!(
        unknown.is_empty(),
        "{} has characters that the resumed model doesn't know: {}",
        input.describe(corpus.kind()),
        quote_chars(&unknown)
    );
    let chat = checkpoint.meta.tokenizer.chat_tokens();
    ensure!(
        chat.is_none_or(|chat| chat.system.is_some()) || !corpus.has_system(),
        "{} has system messages, which the resumed model doesn't know",
        input.describe(corpus.kind())
    );
    Ok(checkpoint)
}

/// Returns the checkpoint of a new model before its first step.
fn new_checkpoint(corpus: &Corpus, args: &TrainArgs, seed: u64) -> Result<Checkpoint> {
    let meta = ModelMeta {
        config: args.config,
        tokenizer: corpus.tokenizer(),
    };
    check_memory(meta.parameters()?)?;
    Ok(Checkpoint::initial(meta, seed))
}

/// Errors for a model that exceeds the memory, before the operating system kills the process.
fn check_memory(parameters: usize) -> Result<()> {
    // Weights, gradients, both moments, and a copy of the weights for saving or sampling.
    let bytes = parameters.saturating_mul(5 * size_of::<f32>());
    let available = match memory::limit() {
        Some(limit) if (bytes as u64) > limit.bytes => format!(
            "the {} MB {}",
            console::group_thousands(limit.bytes / 1_000_000),
            limit.origin
        ),
        None if Vec::<u8>::new().try_reserve_exact(bytes).is_err() => "is available".to_string(),
        _ => return Ok(()),
    };
    bail!(
        "a model of {} parameters needs {} MB of memory, more than {available}",
        console::group_thousands(parameters as u64),
        console::group_thousands(bytes as u64 / 1_000_000)
    )
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
