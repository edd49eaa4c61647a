//! The model that a run starts from: a new one, the weights of another one, or that of a resumed run.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use super::super::failure::Failure;
use super::super::flags::{RawArgs, TrainArgs, override_hyperparameters};
use super::super::{console, model_dir};
use super::input::Input;
use super::memory;
use crate::data::{Corpus, CorpusKind, Tokenizer, quote_chars};
use crate::model::ModelMeta;
use crate::train::{Checkpoint, Hyperparameters, LearningRate};

/// The model that a run starts from.
pub enum Start {
    New,
    /// The weights of `--init-from`, before the first step.
    Initial(Checkpoint),
    /// The run of `--resume`.
    Resumed(Checkpoint),
}

impl Start {
    /// Loads the model of the arguments.
    pub fn load(args: &TrainArgs) -> Result<Self> {
        let open = |dir: &Path| model_dir::open(Some(dir));
        Ok(match (&args.resume, &args.init_from) {
            (Some(dir), _) => Start::Resumed(Checkpoint::load(&open(dir)?)?),
            (None, Some(dir)) => {
                let (meta, weights) = ModelMeta::load(&open(dir)?)?;
                check_memory(meta.parameters()?)?;
                Start::Initial(Checkpoint::untrained(meta, weights.to_tensors()))
            }
            (None, None) => Start::New,
        })
    }

    /// The vocabulary size of the model; `None` for a new one.
    pub fn vocab_size(&self) -> Option<usize> {
        match self {
            Start::New => None,
            Start::Initial(checkpoint) | Start::Resumed(checkpoint) => {
                Some(checkpoint.meta.tokenizer.vocab_size())
            }
        }
    }

    /// Returns the kind of text: that of the arguments, or else of the model. A resumed run keeps it.
    pub fn kind(&self, args: &TrainArgs) -> Result<CorpusKind> {
        let kind = match self {
            Start::New => return Ok(args.kind().unwrap_or(CorpusKind::Documents)),
            Start::Initial(checkpoint) => {
                let kind = checkpoint.meta.tokenizer.kind();
                return Ok(args.kind().unwrap_or(kind));
            }
            Start::Resumed(checkpoint) => checkpoint.meta.tokenizer.kind(),
        };
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
    pub fn input(&self, args: &TrainArgs) -> Result<Input> {
        let recorded = match self {
            Start::Resumed(checkpoint) => checkpoint.state.input.clone(),
            _ => None,
        };
        let input = Input::from_name(args.input.clone().or(recorded.map(PathBuf::from)));
        if input == Input::Stdin && args.input.is_none() {
            bail!(
                "the resumed model was trained on standard input; give its text again with --input"
            );
        }
        Ok(input)
    }

    /// Returns the hyperparameters: those of the arguments, and of the resumed run where none are given.
    pub fn hyperparameters(
        &self,
        args: &TrainArgs,
        raw: &RawArgs,
    ) -> Result<Hyperparameters, Failure> {
        let (config, hyperparameters, lr) = match self {
            Start::New => (args.config, args.hyperparameters, LearningRate::default()),
            Start::Initial(checkpoint) => {
                let config = checkpoint.meta.config;
                (config, args.hyperparameters, LearningRate::default())
            }
            Start::Resumed(checkpoint) => {
                let resumed = checkpoint.state.hyperparameters;
                let hyperparameters = override_hyperparameters(resumed, raw)?;
                let lr = LearningRate::Value(resumed.lr);
                (checkpoint.meta.config, hyperparameters, lr)
            }
        };
        let lr = args.lr.unwrap_or(lr);
        Ok(Hyperparameters {
            lr: lr.resolve(config),
            ..hyperparameters
        })
    }

    /// Returns the checkpoint before the first step, with a vocabulary for the text. Errors if the
    /// resumed model does not know the text and `--extend` is not given.
    pub fn checkpoint(
        self,
        args: &TrainArgs,
        corpus: &Corpus,
        input: &Input,
        seed: u64,
    ) -> Result<Checkpoint> {
        match self {
            Start::New => {
                let tokenizer = match args.vocab_size {
                    Some(size) => corpus.bpe_tokenizer(size)?,
                    None => corpus.tokenizer(),
                };
                let meta = ModelMeta {
                    config: args.config,
                    tokenizer,
                };
                check_memory(meta.parameters()?)?;
                Ok(Checkpoint::initial(meta, seed))
            }
            Start::Resumed(checkpoint) if !args.extend => {
                check_known(&checkpoint.meta.tokenizer, corpus, input)?;
                Ok(checkpoint)
            }
            Start::Initial(checkpoint) | Start::Resumed(checkpoint) => {
                let tokenizer = checkpoint.meta.tokenizer.extended_by(&corpus.tokenizer());
                Ok(checkpoint.with_vocabulary(tokenizer, seed))
            }
        }
    }
}

/// Errors if the resumed model does not know a character or role of the text.
fn check_known(tokenizer: &Tokenizer, corpus: &Corpus, input: &Input) -> Result<()> {
    let unknown = tokenizer.unknown_chars([corpus.characters()].into_iter());
    ensure!(
        unknown.is_empty(),
        "{} has characters that the resumed model doesn't know: {}; --extend adds them",
        input.describe(corpus.kind()),
        quote_chars(&unknown)
    );
    let chat = tokenizer.chat_tokens();
    ensure!(
        chat.is_none_or(|chat| chat.system.is_some()) || !corpus.has_system(),
        "{} has system messages, which the resumed model doesn't know; --extend adds them",
        input.describe(corpus.kind())
    );
    Ok(())
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
