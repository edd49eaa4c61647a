//! What a run is to do, from its options, its text, and the model that it goes on from.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use candle_core::Device;

use super::super::console;
use super::super::table::DEFAULT_MODEL_DIR;
use super::input::Input;
use super::options::{DeviceName, Options};
use crate::data::{Corpus, Dataset};
use crate::model::{ModelConfig, ModelMeta, list_chars};
use crate::store::Snapshot;
use crate::train::{Schedule, TrainConfig, TrainState};

/// A run, checked as a whole; nothing is written yet.
pub struct Plan {
    pub options: Options,
    pub input: Input,
    pub output: PathBuf,
    pub device: Device,
    pub dataset: Dataset,
    pub config: TrainConfig,
    pub state: TrainState,
}

impl Plan {
    /// Reads the model to go on from and the text to train on, and says what the run will do.
    pub fn new(options: Options) -> Result<Self> {
        let device = options.device.open()?;
        let resumed = options.resume.as_deref().map(load_resumed).transpose()?;
        let chat = options.chat || resumed.as_ref().is_some_and(|state| state.meta.is_chat());
        let recorded = resumed
            .as_ref()
            .and_then(|state| state.progress.input.clone());
        let input = Input::from_name(options.input.clone().or(recorded.map(PathBuf::from)));
        if input == Input::Stdin && options.input.is_none() {
            bail!("this model was trained on standard input; give its text again, with --input");
        }
        let mut text = String::new();
        let corpus = input.read(chat, &mut text)?;
        let config = train_config(&options, resumed.as_ref());
        let state = match resumed {
            Some(state) => check_resumed(state, &corpus, &input, &options)?,
            None => fresh(&corpus, &options, config.seed)?,
        };
        let block_size = state.meta.config.block_size;
        let mut dataset = Dataset::new(&corpus, &state.meta.tokenizer, block_size)?;
        dataset.shuffle(config.seed);
        let output = options.output.clone().or_else(|| options.resume.clone());
        let output = output.unwrap_or_else(|| PathBuf::from(DEFAULT_MODEL_DIR));
        let plan = Self {
            output,
            device,
            dataset,
            config,
            state,
            input,
            options,
        };
        plan.say(corpus.len(), chat)?;
        Ok(plan)
    }

    /// Says what the run will do.
    fn say(&self, documents: usize, chat: bool) -> Result<()> {
        if self.options.quiet {
            return Ok(());
        }
        let Self { config, state, .. } = self;
        let ModelConfig {
            n_embd,
            n_head,
            n_layer,
            block_size,
        } = state.meta.config;
        let documents = console::thousands(documents as u64);
        let kind = if chat { "conversations" } else { "documents" };
        console::note(format_args!(
            "text    {documents} {kind} from {}",
            self.input.describe(chat)
        ));
        if self.dataset.cut > 0 {
            console::note(format_args!(
                "        {} of them are longer than the context of {block_size} tokens and are \
                cut; --block-size sets it",
                console::thousands(self.dataset.cut as u64),
            ));
        }
        console::note(format_args!(
            "model   {} parameters: n_embd {n_embd}, n_head {n_head}, n_layer {n_layer}, \
            block_size {block_size}, \
             vocabulary {}",
            console::thousands(state.meta.parameters()? as u64),
            state.meta.tokenizer.vocab_size(),
        ));
        let from = match state.progress.step {
            0 => String::new(),
            step => format!(", from step {}", console::thousands(step)),
        };
        console::note(format_args!(
            "train   {} steps of {} {kind}{from}, learning rate {} {}, seed {}",
            console::thousands(config.steps),
            config.batch_size,
            config.lr,
            config.schedule.name(),
            config.seed,
        ));
        let device = if self.options.device == DeviceName::Cpu {
            "cpu"
        } else {
            "metal"
        };
        console::note(format_args!("on      {device}, {} threads", config.threads));
        Ok(())
    }
}

/// The state to go on from.
fn load_resumed(dir: &Path) -> Result<TrainState> {
    TrainState::load(&Snapshot::open(dir)?)
}

/// Makes sure that a resumed model can learn from a text.
fn check_resumed(
    state: TrainState,
    corpus: &Corpus,
    input: &Input,
    options: &Options,
) -> Result<TrainState> {
    if options.chat && !state.meta.is_chat() {
        bail!("the resumed model is a text model: --chat needs one trained on conversations");
    }
    let unknown = state.meta.tokenizer.unknown(corpus.texts());
    ensure!(
        unknown.is_empty(),
        "{} has characters that the resumed model doesn't know: {}",
        input.describe(options.chat),
        list_chars(&unknown)
    );
    Ok(state)
}

/// The state of a new model before its first step.
fn fresh(corpus: &Corpus, options: &Options, seed: u64) -> Result<TrainState> {
    let meta = ModelMeta {
        config: options.config,
        tokenizer: corpus.tokenizer(),
    };
    check_memory(meta.parameters()?)?;
    Ok(TrainState::fresh(meta, seed))
}

/// Refuses a model that is beyond this machine's memory, before an allocation ends the program.
fn check_memory(parameters: usize) -> Result<()> {
    // Weights, gradients and both moments, and a copy of the weights to save or to sample from.
    let bytes = parameters.saturating_mul(5 * size_of::<f32>());
    if Vec::<u8>::new().try_reserve_exact(bytes).is_err() {
        bail!(
            "a model of {} parameters needs {} MB of memory, more than there is",
            console::thousands(parameters as u64),
            console::thousands(bytes as u64 / 1_000_000)
        );
    }
    Ok(())
}

/// What was not given is as in the resumed run, and otherwise the default.
fn train_config(options: &Options, resumed: Option<&TrainState>) -> TrainConfig {
    let before = resumed
        .map(|state| state.progress.clone())
        .unwrap_or_default();
    TrainConfig {
        steps: options.steps,
        batch_size: options.batch_size.or(before.batch_size).unwrap_or(32),
        lr: options.lr.or(before.lr).unwrap_or(0.01),
        schedule: options
            .schedule
            .or(before.schedule)
            .unwrap_or(Schedule::Linear),
        seed: options.seed.or(before.seed).unwrap_or(42),
        threads: options.threads,
    }
}
