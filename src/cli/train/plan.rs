//! The plan of a training run, from its arguments, its text, and the resumed model.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;

use super::super::console;
use super::super::failure::Failure;
use super::super::flags::{Choice, DeviceKind, RawArgs, TrainArgs};
use super::input::Input;
use super::output;
use super::preparation_progress::PreparationProgress;
use super::start::Start;
use crate::data::{
    Corpus, CorpusKind, Dataset, DatasetOptions, Fingerprint, SpillOptions, ValidationSet,
};
use crate::model::ModelConfig;
use crate::store::DirectoryLock;
use crate::train::{Checkpoint, Hyperparameters, LossOn, Ranks, TrainConfig};

/// A valid training run before its first write.
pub struct Plan {
    pub args: TrainArgs,
    pub input: Input,
    pub output: PathBuf,
    /// The lock of the output directory, if it exists.
    pub lock: Option<DirectoryLock>,
    pub device: Device,
    pub corpus: Corpus<'static>,
    pub dataset: Dataset,
    pub validation_set: Option<ValidationSet>,
    pub config: TrainConfig,
    pub checkpoint: Checkpoint,
}

impl Plan {
    /// Reads the resumed model and the training text, and prints the plan on rank 0.
    pub fn new(args: TrainArgs, raw: &RawArgs, ranks: &Ranks) -> Result<Self, Failure> {
        let output = output::directory(&args);
        // Before the resumed model is read, so that no other run replaces it afterwards.
        let lock = match output.is_dir() && ranks.is_first() {
            true => Some(DirectoryLock::acquire(&output)?),
            false => None,
        };
        if ranks.is_first() {
            output::check_replaceable(&args, &output)?;
        }
        let device = open_device(args.device)?;
        let start = Start::load(&args)?;
        let kind = start.kind(&args)?;
        let input = start.input(&args)?;
        check_ranks(&args, &input, ranks)?;
        let spill = SpillOptions::in_dir(args.tmp_dir.clone().unwrap_or_else(|| beside(&output)));
        let progress = PreparationProgress::new(args.quiet || !ranks.is_first());
        let corpus = input.read(kind, &spill, &progress)?;
        let hyperparameters = start.hyperparameters(&args, raw)?;
        args.check_validation(&hyperparameters)?;
        let config = TrainConfig {
            steps: args.steps as u64,
            hyperparameters,
            threads: args.threads.count_per_process(ranks.sharing_cores()),
        };
        let known = start.vocab_size();
        let checkpoint = start.checkpoint(&args, &corpus, &input, hyperparameters.seed)?;
        if let Some(resumed) = checkpoint.state.fingerprint
            && ranks.is_first()
        {
            warn_of_change(resumed, corpus.fingerprint(), &input.describe(kind));
        }
        let new_tokens = known.map(|known| checkpoint.meta.tokenizer.vocab_size() - known);
        let block_size = checkpoint.meta.config.block_size;
        let tokenizer = &checkpoint.meta.tokenizer;
        let replies = match (hyperparameters.loss_on, tokenizer.chat_tokens()) {
            (LossOn::All, _) => None,
            (LossOn::Assistant, Some(chat)) => Some(chat),
            (LossOn::Assistant, None) => {
                return Err(Failure::Usage(
                    "--loss-on assistant needs a chat model to resume".to_string(),
                ));
            }
        };
        let options = DatasetOptions {
            block_size,
            seed: hyperparameters.seed,
            replies,
            spill,
        };
        let pass = progress.pass("encoding", corpus.bytes());
        let mut dataset = Dataset::build(&corpus, tokenizer, &options, &pass)
            .with_context(|| input.describe(kind))?;
        drop(pass);
        progress.finish();
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
            corpus,
            input,
            args,
        };
        plan.print(new_tokens.unwrap_or(0), ranks)?;
        Ok(plan)
    }

    /// Errors if a rank has another text, model or settings.
    pub fn check_same(&self, ranks: &Ranks) -> Result<()> {
        if ranks.count() == 1 {
            return Ok(());
        }
        let (args, state) = (&self.args, &self.checkpoint.state);
        let mut hasher = DefaultHasher::new();
        let meta = &self.checkpoint.meta;
        format!("{:?} {:?}", meta.config, self.config.hyperparameters).hash(&mut hasher);
        meta.tokenizer.vocab_size().hash(&mut hasher);
        (self.config.steps, state.step, state.documents).hash(&mut hasher);
        (args.checkpoint_every, args.eval_interval(), args.patience).hash(&mut hasher);
        for tensors in [
            &self.checkpoint.weights,
            &self.checkpoint.m,
            &self.checkpoint.v,
        ] {
            for tensor in tensors.values() {
                let bits = tensor.values.iter().map(|value| value.to_bits());
                bits.for_each(|bits| bits.hash(&mut hasher));
            }
        }
        self.corpus.fingerprint().hash(&mut hasher);
        ensure!(
            ranks.is_same(hasher.finish()),
            "the {} processes differ in the text, the options or the model to start from; copy the \
            same files to all machines",
            ranks.count()
        );
        Ok(())
    }

    /// Prints the plan to stderr. `new_tokens` were added to the vocabulary of the given model.
    fn print(&self, new_tokens: usize, ranks: &Ranks) -> Result<()> {
        if self.args.quiet || !ranks.is_first() {
            return Ok(());
        }
        self.print_text();
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
        self.print_training(self.corpus.kind());
        let device = self.args.device.name();
        let threads = console::pluralize(self.config.threads as u64, "thread");
        match ranks.count() {
            1 => console::eprintln(format_args!("on      {device}, {threads}")),
            count => console::eprintln(format_args!(
                "on      {device}, {count} processes of {threads}"
            )),
        }
        Ok(())
    }

    fn print_text(&self) {
        let kind = self.corpus.kind();
        let unit = match kind {
            CorpusKind::Documents => "document",
            CorpusKind::Continuous => "character",
            CorpusKind::Conversations => "conversation",
        };
        console::eprintln(format_args!(
            "text    {} from {}",
            console::pluralize(self.corpus.len(), unit),
            self.input.describe(kind)
        ));
        if self.dataset.truncated > 0 {
            console::eprintln(format_args!(
                "        {} of them truncated to the context of {}; --block-size sets it",
                console::group_thousands(self.dataset.truncated),
                console::pluralize(self.checkpoint.meta.config.block_size as u64, "token"),
            ));
        }
        if self.dataset.without_reply > 0 {
            console::eprintln(format_args!(
                "        {} of them left out: no assistant's message within the context",
                console::group_thousands(self.dataset.without_reply),
            ));
        }
        if let Some(validation_set) = &self.validation_set {
            console::eprintln(format_args!(
                "        {} of them held out for validation every {}; the best model is kept",
                console::group_thousands(validation_set.count),
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

/// Errors for a run of several processes on an input or a device of which there is only one.
fn check_ranks(args: &TrainArgs, input: &Input, ranks: &Ranks) -> Result<(), Failure> {
    if ranks.count() == 1 {
        return Ok(());
    }
    if *input == Input::Stdin {
        return Err(Failure::Usage(
            "only one of several processes gets the standard input; give a file, which all can \
            read, with --input"
                .to_string(),
        ));
    }
    if args.device != DeviceKind::Cpu {
        return Err(Failure::Usage(format!(
            "several processes train on CPUs only, not with --device {}",
            args.device.name()
        )));
    }
    Ok(())
}

/// Warns that a resumed run has another text than before.
fn warn_of_change(resumed: Fingerprint, now: Fingerprint, source: &str) {
    if resumed == now {
        return;
    }
    let difference = match resumed.bytes == now.bytes {
        true => "the same length but other content".to_string(),
        false => format!(
            "{} bytes instead of {}",
            console::group_thousands(now.bytes),
            console::group_thousands(resumed.bytes)
        ),
    };
    console::eprintln(format_args!(
        "microgpt: warning: {source} is not the text that the model was trained on: it has \
        {difference}"
    ));
}

/// Returns the nearest existing directory above the output.
fn beside(output: &Path) -> PathBuf {
    let mut parents = output.ancestors().skip(1);
    let existing = parents.find(|parent| parent.is_dir());
    existing.unwrap_or(Path::new(".")).to_path_buf()
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
