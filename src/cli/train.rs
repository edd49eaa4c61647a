//! `microgpt train`: from a text file to a model directory.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::generate::Style;
use super::progress::Progress;
use super::table::DEFAULT_MODEL_DIR;
use super::{Failure, Words, console};
use crate::data::{BUILT_IN_CONVERSATIONS, BUILT_IN_NAMES, Corpus, Dataset, decode_utf8};
use crate::model::{GenerateOptions, Generator, ModelConfig, ModelMeta, list_chars};
use crate::store::{Snapshot, check_writable};
use crate::train::{Schedule, StepReport, TrainConfig, TrainState, Trainer};

/// How many samples a run ends with: lines of text, or conversations.
const TEXT_SAMPLES: u64 = 20;
const CHAT_SAMPLES: u64 = 3;

pub fn run(words: &Words) -> Result<(), Failure> {
    let options = Options::from_words(words)?;
    let resumed = options
        .resume
        .as_deref()
        .map(|dir| resumable(dir, options.chat))
        .transpose()?;
    let plan = Plan::new(options, resumed)?;
    let mut run = Run::start(plan)?;
    let signal = run.train()?;
    run.finish(signal)
}

/// The options as they were given, each checked by itself.
struct Options {
    input: Option<PathBuf>,
    output: Option<PathBuf>,
    chat: bool,
    steps: u64,
    batch_size: Option<usize>,
    lr: Option<f64>,
    schedule: Option<Schedule>,
    config: ModelConfig,
    seed: Option<u64>,
    device: DeviceName,
    resume: Option<PathBuf>,
    checkpoint_every: u64,
    threads: usize,
    log: Option<PathBuf>,
    quiet: bool,
}

impl Options {
    fn from_words(words: &Words) -> Result<Self, Failure> {
        let default = ModelConfig::default();
        let sizes = ["n-embd", "n-head", "n-layer", "block-size"];
        if words.has("resume")
            && let Some(size) = sizes.iter().find(|size| words.has(size))
        {
            return Err(Failure::Usage(format!(
                "--{size} and --resume don't go together: a resumed model keeps its size"
            )));
        }
        let size =
            |name: &str, default: usize| Ok::<_, Failure>(words.count(name)?.unwrap_or(default));
        let config = ModelConfig {
            n_embd: size("n-embd", default.n_embd)?,
            n_head: size("n-head", default.n_head)?,
            n_layer: size("n-layer", default.n_layer)?,
            block_size: size("block-size", default.block_size)?,
        };
        if !config.n_embd.is_multiple_of(config.n_head) {
            return Err(Failure::Usage(format!(
                "--n-head has to divide --n-embd, so that all heads are equally wide: {} / {} leaves {}",
                config.n_embd,
                config.n_head,
                config.n_embd % config.n_head
            )));
        }
        Ok(Self {
            input: words.path("input"),
            output: words.path("output"),
            chat: words.has("chat"),
            steps: words.count("steps")?.unwrap_or(1000) as u64,
            batch_size: words.count("batch-size")?,
            lr: words.real("lr", |lr| lr > 0.0, "> 0")?,
            schedule: words.choice("schedule", &Schedule::NAMES)?,
            config,
            seed: words.whole("seed", .., ">= 0")?,
            device: words
                .choice("device", &["cpu", "metal"])?
                .unwrap_or(DeviceName::Cpu),
            resume: words.path("resume"),
            checkpoint_every: words.whole("checkpoint-every", .., ">= 0")?.unwrap_or(0),
            threads: words.threads()?,
            log: words.path("log"),
            quiet: words.has("quiet"),
        })
    }
}

#[derive(Clone, Copy, PartialEq)]
enum DeviceName {
    Cpu,
    Metal,
}

impl FromStr for DeviceName {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "cpu" => Ok(DeviceName::Cpu),
            "metal" => Ok(DeviceName::Metal),
            _ => Err(()),
        }
    }
}

impl DeviceName {
    fn open(self) -> Result<Device> {
        match self {
            DeviceName::Cpu => Ok(Device::Cpu),
            DeviceName::Metal if cfg!(feature = "metal") => {
                Device::new_metal(0).context("cannot use the GPU")
            }
            DeviceName::Metal => bail!(
                "this build has no Metal; build one on macOS with `cargo build --release --features metal`"
            ),
        }
    }
}

/// The state to go on from.
fn resumable(dir: &Path, chat: bool) -> Result<TrainState> {
    let state = TrainState::load(&Snapshot::open(dir)?)?;
    ensure!(
        state.meta.is_chat() || !chat,
        "{} is a text model: --chat needs one that was trained on conversations",
        dir.display()
    );
    Ok(state)
}

/// Where the training text comes from.
#[derive(PartialEq)]
enum Input {
    BuiltIn,
    Stdin,
    File(PathBuf),
}

impl Input {
    /// The given input; or that of the resumed run, as far as it is known; or what is built in.
    fn choose(given: Option<PathBuf>, resumed: Option<&TrainState>) -> Self {
        let recorded = || {
            resumed
                .and_then(|state| state.progress.input.clone())
                .map(PathBuf::from)
        };
        match given.or_else(recorded) {
            None => Input::BuiltIn,
            Some(path) if path.as_os_str() == "-" => Input::Stdin,
            Some(path) => Input::File(path),
        }
    }

    fn read(&self, chat: bool) -> Result<String> {
        let mut bytes = Vec::new();
        match self {
            Input::BuiltIn if chat => return Ok(BUILT_IN_CONVERSATIONS.to_string()),
            Input::BuiltIn => return Ok(BUILT_IN_NAMES.to_string()),
            Input::Stdin => io::stdin().lock().read_to_end(&mut bytes).map(drop),
            Input::File(path) => std::fs::read(path).map(|read| bytes = read),
        }
        .and_then(|()| decode_utf8(bytes).map_err(io::Error::other))
        .with_context(|| format!("cannot read {}", self.name(chat)))
    }

    /// What messages call it.
    fn name(&self, chat: bool) -> String {
        match self {
            Input::BuiltIn if chat => "the built-in conversations".to_string(),
            Input::BuiltIn => "the built-in names".to_string(),
            Input::Stdin => "standard input".to_string(),
            Input::File(path) => path.display().to_string(),
        }
    }

    /// What train_state.json says, so that a resumed run finds the text again from wherever it is
    /// started. Standard input can't be read again, so a run that goes on from it has to be told
    /// where the text comes from.
    fn recorded(&self) -> Option<String> {
        match self {
            Input::BuiltIn => None,
            Input::Stdin => Some("-".to_string()),
            Input::File(path) => {
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                Some(path.to_string_lossy().into_owned())
            }
        }
    }
}

/// What a run is to do, checked as a whole; nothing is written yet.
struct Plan {
    options: Options,
    input: Input,
    output: PathBuf,
    device: Device,
    dataset: Dataset,
    config: TrainConfig,
    state: TrainState,
}

impl Plan {
    fn new(options: Options, resumed: Option<TrainState>) -> Result<Self> {
        let device = options.device.open()?;
        let chat = options.chat || resumed.as_ref().is_some_and(|state| state.meta.is_chat());
        let input = Input::choose(options.input.clone(), resumed.as_ref());
        if input == Input::Stdin && options.input.is_none() {
            bail!("this model was trained on standard input; give its text again, with --input");
        }
        let text = input.read(chat)?;
        let corpus = if chat {
            Corpus::conversations(&text)
        } else {
            Corpus::documents(&text)
        };
        let corpus = corpus.with_context(|| input.name(chat))?;
        let run = resumed
            .as_ref()
            .map(|state| state.progress.clone())
            .unwrap_or_default();
        let config = TrainConfig {
            steps: options.steps,
            batch_size: options.batch_size.or(run.batch_size).unwrap_or(32),
            lr: options.lr.or(run.lr).unwrap_or(0.01),
            schedule: options
                .schedule
                .or(run.schedule)
                .unwrap_or(Schedule::Linear),
            seed: options.seed.or(run.seed).unwrap_or(42),
            threads: options.threads,
        };
        let state = match resumed {
            Some(state) => {
                let unknown = state.meta.tokenizer.unknown(corpus.texts());
                ensure!(
                    unknown.is_empty(),
                    "{} has characters that the resumed model doesn't know: {}",
                    input.name(chat),
                    list_chars(&unknown)
                );
                state
            }
            None => {
                let meta = ModelMeta {
                    config: options.config,
                    tokenizer: corpus.tokenizer(),
                };
                meta.config.validate()?;
                meta.parameters()?;
                TrainState::fresh(meta, config.seed)
            }
        };
        let mut dataset =
            Dataset::new(&corpus, &state.meta.tokenizer, state.meta.config.block_size)?;
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
            self.input.name(chat)
        ));
        if self.dataset.cut > 0 {
            console::note(format_args!(
                "        {} of them are longer than the context of {block_size} tokens and are cut; --block-size sets it",
                console::thousands(self.dataset.cut as u64),
            ));
        }
        console::note(format_args!(
            "model   {} parameters: n_embd {n_embd}, n_head {n_head}, n_layer {n_layer}, block_size {block_size}, \
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

/// A run under way.
struct Run {
    trainer: Trainer,
    progress: Progress,
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
            progress: Progress::new(steps, trainer.last_step(), options.quiet),
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
        while !self.trainer.is_done() && signal == 0 {
            let report = self.trainer.step()?;
            self.progress.count(&report);
            if let Some(log) = &mut self.log {
                log.write(&report, &self.progress)?;
            }
            if self.checkpoint_every > 0 && report.step % self.checkpoint_every == 0 {
                self.save()?;
                saved = Some(report.step);
            }
            signal = self.signal.load(Ordering::Relaxed);
        }
        if let Some(log) = &mut self.log {
            log.flush()?;
        }
        if saved != Some(self.trainer.step_count()) {
            self.save()?;
        }
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
                "stopped after step {step}, saved in {output}; go on with: microgpt train --resume {output}{more}"
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
        let stopping = Arc::new(std::sync::atomic::AtomicBool::new(false));
        signal_hook::flag::register_conditional_shutdown(
            number,
            128 + number,
            Arc::clone(&stopping),
        )
        .and_then(|_| signal_hook::flag::register(number, stopping))
        .and_then(|_| {
            signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize)
        })
        .context("cannot watch for signals")?;
    }
    Ok(signal)
}

/// `--log`: a JSON line a step.
struct Log {
    path: PathBuf,
    file: BufWriter<File>,
    last_flush: Instant,
}

impl Log {
    /// A new log, or, for a run that goes on, the end of the old one.
    fn open(path: &Path, append: bool) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .append(append)
            .truncate(!append)
            .open(path);
        let file = file.with_context(|| format!("cannot write the log {}", path.display()))?;
        Ok(Self {
            path: path.to_path_buf(),
            file: BufWriter::new(file),
            last_flush: Instant::now(),
        })
    }

    fn write(&mut self, report: &StepReport, progress: &Progress) -> Result<()> {
        let line = json!({
            "step": report.step,
            "loss": report.loss,
            "lr": report.lr,
            "tokens": progress.tokens(),
            "seconds": progress.seconds(),
        });
        writeln!(self.file, "{line}")
            .with_context(|| format!("cannot write the log {}", self.path.display()))?;
        // Often enough to be watched, seldom enough to cost nothing.
        if self.last_flush.elapsed() > Duration::from_millis(500) {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.last_flush = Instant::now();
        self.file
            .flush()
            .with_context(|| format!("cannot write the log {}", self.path.display()))
    }
}
