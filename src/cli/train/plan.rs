//! What a run is to do, from its options, its text, and the model that it goes on from.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use candle_core::Device;

use super::super::flags::DEFAULT_MODEL_DIR;
use super::super::{Failure, console, open_model};
use super::input::Input;
use super::memory;
use super::options::{DeviceName, Options};
use crate::data::{Corpus, CorpusKind, Dataset, ValidationSet};
use crate::engine::list_chars;
use crate::model::{ModelConfig, ModelMeta};
use crate::store::DirectoryLock;
use crate::train::{Checkpoint, Hyperparameters, TrainConfig};

/// A run, checked as a whole; nothing is written yet.
pub struct Plan<'a> {
    pub options: Options<'a>,
    pub input: Input,
    pub output: PathBuf,
    /// The hold on the output, if that is there already.
    pub lock: Option<DirectoryLock>,
    pub device: Device,
    pub dataset: Dataset,
    /// What is kept to test on.
    pub held_out: Option<ValidationSet>,
    pub config: TrainConfig,
    pub checkpoint: Checkpoint,
}

impl<'a> Plan<'a> {
    /// Reads the model to go on from and the text to train on, and says what the run will do.
    pub fn new(options: Options<'a>) -> Result<Self, Failure> {
        let output = options.output.clone().or_else(|| options.resume.clone());
        let output = output.unwrap_or_else(|| PathBuf::from(DEFAULT_MODEL_DIR));
        // Before the model to go on from is read, so that nobody replaces it meanwhile.
        let lock = match output.is_dir() {
            true => Some(DirectoryLock::acquire(&output)?),
            false => None,
        };
        let device = options.device.open()?;
        let resumed = options.resume.as_deref().map(load_resumed).transpose()?;
        let kind = kind(&options, resumed.as_ref())?;
        let input = input(&options, resumed.as_ref())?;
        let mut text = String::new();
        let corpus = input.read(kind, &mut text)?;
        let before = resumed
            .as_ref()
            .map(|checkpoint| checkpoint.state.hyperparameters);
        let config = TrainConfig {
            steps: options.steps,
            hyperparameters: options.hyperparameters(before.unwrap_or_default())?,
            threads: options.threads,
        };
        let hyperparameters = config.hyperparameters;
        options.check_tests(&hyperparameters)?;
        let checkpoint = match resumed {
            Some(checkpoint) => check_resumed(checkpoint, &corpus, &input)?,
            None => fresh(&corpus, &options, hyperparameters.seed)?,
        };
        let block_size = checkpoint.meta.config.block_size;
        let tokenizer = &checkpoint.meta.tokenizer;
        let mut dataset = Dataset::new(&corpus, tokenizer, block_size, hyperparameters.seed)?;
        let held_out = match hyperparameters.validation_fraction {
            0.0 => None,
            fraction => Some(dataset.split_validation(fraction)?),
        };
        let plan = Self {
            output,
            lock,
            device,
            dataset,
            held_out,
            config,
            checkpoint,
            input,
            options,
        };
        plan.say(&corpus)?;
        Ok(plan)
    }

    /// Says what the run will do.
    fn say(&self, corpus: &Corpus) -> Result<()> {
        if self.options.quiet {
            return Ok(());
        }
        self.say_text(corpus);
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
        self.say_training(corpus.kind());
        let device = match self.options.device {
            DeviceName::Cpu => "cpu",
            DeviceName::Metal => "metal",
        };
        let threads = console::pluralize(self.config.threads as u64, "thread");
        console::eprintln(format_args!("on      {device}, {threads}"));
        Ok(())
    }

    fn say_text(&self, corpus: &Corpus) {
        let kind = corpus.kind();
        let unit = match kind {
            CorpusKind::Documents => "documents",
            CorpusKind::Continuous => "characters",
            CorpusKind::Conversations => "conversations",
        };
        console::eprintln(format_args!(
            "text    {} {unit} from {}",
            console::group_thousands(corpus.len() as u64),
            self.input.describe(kind)
        ));
        if self.dataset.truncated > 0 {
            console::eprintln(format_args!(
                "        {} of them are longer than the context of {} tokens and are cut; \
                --block-size sets it",
                console::group_thousands(self.dataset.truncated as u64),
                self.checkpoint.meta.config.block_size,
            ));
        }
        if let Some(held_out) = &self.held_out {
            console::eprintln(format_args!(
                "        {} of them are held out, to test on every {}; the best model is kept",
                console::group_thousands(held_out.count as u64),
                match self.options.eval_every {
                    1 => "step".to_string(),
                    steps => console::pluralize(steps, "step"),
                },
            ));
        }
    }

    fn say_training(&self, kind: CorpusKind) {
        let unit = match kind {
            CorpusKind::Documents => "documents",
            CorpusKind::Continuous => "windows",
            CorpusKind::Conversations => "conversations",
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
            "train   {} of {batch_size} {unit}{from}, learning rate {lr} {}{warmup}, seed {seed}",
            console::pluralize(self.config.steps, "step"),
            schedule.name(),
        ));
    }
}

/// The kind of text: that of the resumed model, or the one that was asked for.
fn kind(options: &Options, resumed: Option<&Checkpoint>) -> Result<CorpusKind> {
    let Some(checkpoint) = resumed else {
        return Ok(options.kind.unwrap_or(CorpusKind::Documents));
    };
    let kind = checkpoint.meta.tokenizer.kind();
    if options.kind.is_some_and(|asked| asked != kind) {
        let (what, how) = match kind {
            CorpusKind::Documents => ("documents, a line each", "without --chat and --text"),
            CorpusKind::Continuous => ("one continuous text", "with --text, or without"),
            CorpusKind::Conversations => ("conversations", "with --chat, or without"),
        };
        bail!("the resumed model is one of {what}; it goes on {how}");
    }
    Ok(kind)
}

/// Where the text is: where `--input` says, or where the resumed run had it.
fn input(options: &Options, resumed: Option<&Checkpoint>) -> Result<Input> {
    let recorded = resumed.and_then(|checkpoint| checkpoint.state.input.clone());
    let input = Input::from_name(options.input.clone().or(recorded.map(PathBuf::from)));
    if input == Input::Stdin && options.input.is_none() {
        bail!("this model was trained on standard input; give its text again, with --input");
    }
    Ok(input)
}

/// The checkpoint to go on from.
fn load_resumed(dir: &Path) -> Result<Checkpoint> {
    Checkpoint::load(&open_model(dir)?)
}

/// Makes sure that a resumed model can learn from a text.
fn check_resumed(checkpoint: Checkpoint, corpus: &Corpus, input: &Input) -> Result<Checkpoint> {
    let unknown = checkpoint.meta.tokenizer.unknown_chars(corpus.texts());
    ensure!(
        unknown.is_empty(),
        "{} has characters that the resumed model doesn't know: {}",
        input.describe(corpus.kind()),
        list_chars(&unknown)
    );
    Ok(checkpoint)
}

/// The checkpoint of a new model before its first step.
fn fresh(corpus: &Corpus, options: &Options, seed: u64) -> Result<Checkpoint> {
    let meta = ModelMeta {
        config: options.config,
        tokenizer: corpus.tokenizer(),
    };
    check_memory(meta.parameters()?)?;
    Ok(Checkpoint::initial(meta, seed))
}

/// Refuses a model that is beyond this machine's memory, before the system ends the program.
fn check_memory(parameters: usize) -> Result<()> {
    // Weights, gradients and both moments, and a copy of the weights to save or to sample from.
    let bytes = parameters.saturating_mul(5 * size_of::<f32>());
    let fits = match memory::limit() {
        Some(limit) => bytes as u64 <= limit,
        None => Vec::<u8>::new().try_reserve_exact(bytes).is_ok(),
    };
    if !fits {
        bail!(
            "a model of {} parameters needs {} MB of memory, more than there is",
            console::group_thousands(parameters as u64),
            console::group_thousands(bytes as u64 / 1_000_000)
        );
    }
    Ok(())
}
