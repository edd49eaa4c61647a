//! The typed arguments of the commands. A default holds where an option is not given.

use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::value::{Choice, HostName, Origin, Threads, Value};
use crate::cli::failure::Failure;
use crate::data::CorpusKind;
use crate::engine::{GenerateOptions, ScoreUnit, UnknownCost};
use crate::model::{InvalidValue, ModelConfig};
use crate::train::{Hyperparameters, LearningRate, LossOn, Schedule};

/// The arguments of all commands, of which a command line sets those of one.
#[derive(Default)]
pub struct Args {
    pub train: TrainArgs,
    pub generate: GenerateArgs,
    pub chat: ChatArgs,
    pub score: ScoreArgs,
    pub info: InfoArgs,
    pub export: ExportArgs,
    pub serve: ServeArgs,
    /// The command of `help`; the whole program if empty.
    pub help_command: String,
    /// The shell of `completions`.
    pub shell: Shell,
}

pub struct TrainArgs {
    pub input: Option<PathBuf>,
    pub tmp_dir: Option<PathBuf>,
    pub chat: bool,
    pub text: bool,
    pub output: Option<PathBuf>,
    /// Replace a model in the output.
    pub force: bool,
    /// The size of a new model.
    pub config: ModelConfig,
    /// The number of tokens of a byte-level BPE; `None` for characters.
    pub vocab_size: Option<usize>,
    pub steps: usize,
    /// Those of a new run; a resumed one inherits those not given.
    pub hyperparameters: Hyperparameters,
    /// That of a new run by default: [`LearningRate::Auto`].
    pub lr: Option<LearningRate>,
    pub eval_every: Option<usize>,
    pub patience: Option<usize>,
    pub resume: Option<PathBuf>,
    /// Add characters to the resumed model.
    pub extend: bool,
    /// The model with the initial weights.
    pub init_from: Option<PathBuf>,
    pub checkpoint_every: u64,
    pub device: DeviceKind,
    pub threads: Threads,
    pub log: Option<PathBuf>,
    pub plot: Option<PathBuf>,
    pub quiet: bool,
}

/// All bytes and `bos`, up to ids of two bytes.
const VOCAB_SIZES: RangeInclusive<usize> = 257..=65_536;

impl Default for TrainArgs {
    fn default() -> Self {
        Self {
            input: None,
            tmp_dir: None,
            chat: false,
            text: false,
            output: None,
            force: false,
            config: ModelConfig::default(),
            vocab_size: None,
            steps: 1000,
            hyperparameters: Hyperparameters::default(),
            lr: None,
            eval_every: None,
            patience: None,
            resume: None,
            extend: false,
            init_from: None,
            checkpoint_every: 0,
            device: DeviceKind::Cpu,
            threads: Threads::AllCores,
            log: None,
            plot: None,
            quiet: false,
        }
    }
}

impl TrainArgs {
    /// Returns the kind of text, if one is given.
    pub fn kind(&self) -> Option<CorpusKind> {
        match (self.chat, self.text) {
            (true, _) => Some(CorpusKind::Conversations),
            (_, true) => Some(CorpusKind::Continuous),
            _ => None,
        }
    }

    /// Steps between evaluations.
    pub fn eval_interval(&self) -> u64 {
        self.eval_every.unwrap_or((self.steps / 10).max(1)) as u64
    }

    /// Checks what does not depend on a resumed run.
    pub fn check(&self) -> Result<(), Failure> {
        for (option, path) in [("log", &self.log), ("plot", &self.plot)] {
            if path.as_ref().is_some_and(|path| path.as_os_str() == "-") {
                return Err(Failure::Usage(format!(
                    "--{option} must be a file, got \"-\": standard output is for the samples"
                )));
            }
        }
        let ModelConfig { n_embd, n_head, .. } = self.config;
        self.config.validate().map_err(|_| {
            Failure::Usage(format!(
                "--n-head must divide --n-embd, got {n_head} for {n_embd}; --n-embd {} works",
                n_embd.div_ceil(n_head).saturating_mul(n_head)
            ))
        })?;
        self.hyperparameters.validate().map_err(usage_error)?;
        if let Some(size) = self.vocab_size
            && !VOCAB_SIZES.contains(&size)
        {
            let (min, max) = (VOCAB_SIZES.start(), VOCAB_SIZES.end());
            return Err(Failure::Usage(format!(
                "--vocab-size must be from {min} to {max}, got {size}"
            )));
        }
        if self.resume.is_some() {
            return Ok(());
        }
        if self.extend {
            return Err(Failure::Usage(
                "--extend needs --resume; --init-from always adds the characters it needs"
                    .to_string(),
            ));
        }
        if self.hyperparameters.loss_on == LossOn::Assistant
            && !self.chat
            && self.init_from.is_none()
        {
            return Err(Failure::Usage(
                "--loss-on assistant needs --chat: other text has no assistant".to_string(),
            ));
        }
        self.check_validation(&self.hyperparameters)
    }

    /// Errors if an option of validation is given but no data is held out.
    pub fn check_validation(&self, hyperparameters: &Hyperparameters) -> Result<(), Failure> {
        let option = match (self.eval_every, self.patience) {
            _ if hyperparameters.validation_fraction > 0.0 => return Ok(()),
            (Some(_), _) => "eval-every",
            (_, Some(_)) => "patience",
            _ => return Ok(()),
        };
        Err(Failure::Usage(format!(
            "--{option} needs --validation-fraction, more than 0: otherwise there is no data to \
            evaluate on"
        )))
    }
}

pub struct GenerateArgs {
    pub model_dir: Option<PathBuf>,
    pub options: GenerateOptions,
    /// A prompt per line.
    pub prompt_file: Option<PathBuf>,
    pub num_samples: Option<usize>,
    /// The index of the first sample.
    pub first: u64,
    pub unique: bool,
    /// Files whose lines are not printed as samples.
    pub not_in: Vec<PathBuf>,
    pub null: bool,
    pub json: bool,
    pub threads: Threads,
}

impl Default for GenerateArgs {
    fn default() -> Self {
        Self {
            model_dir: None,
            options: GenerateOptions::default(),
            prompt_file: None,
            num_samples: None,
            first: 0,
            unique: false,
            not_in: Vec::new(),
            null: false,
            json: false,
            threads: Threads::AllCores,
        }
    }
}

impl GenerateArgs {
    /// The number of samples, of each line of a prompt file.
    pub fn count(&self) -> u64 {
        let default = match self.prompt_file {
            Some(_) => 1,
            None => 20,
        };
        self.num_samples.unwrap_or(default) as u64
    }

    /// Checks values that do not depend on the model.
    pub fn check(&self) -> Result<(), Failure> {
        let options = &self.options;
        options.sampling.validate().map_err(usage_error)?;
        if options.stop.iter().any(String::is_empty) {
            return Err(Failure::Usage("--stop must be text, got \"\"".to_string()));
        }
        if let Some(max) = options.max_tokens
            && options.min_tokens > max
        {
            let min = options.min_tokens;
            return Err(Failure::Usage(format!(
                "--min-tokens must be <= --max-tokens, got {min} and {max}"
            )));
        }
        if self.prompt_file.is_some() {
            let filter = match (self.unique, self.not_in.is_empty()) {
                (true, _) => "unique",
                (_, false) => "not-in",
                _ => return Ok(()),
            };
            return Err(Failure::Usage(format!(
                "--prompt-file and --{filter} cannot be combined: the samples of each prompt count"
            )));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct ChatArgs {
    pub model_dir: Option<PathBuf>,
    pub options: GenerateOptions,
    /// The first message, of the system.
    pub system: Option<String>,
    /// A message per line.
    pub prompt_file: Option<PathBuf>,
    pub no_history: bool,
}

#[derive(Default)]
pub struct ScoreArgs {
    pub model_dir: Option<PathBuf>,
    /// Standard input if empty.
    pub files: Vec<PathBuf>,
    pub summary: bool,
    /// Print bits per byte, not per token.
    pub per_byte: bool,
    /// Print the bits of each token.
    pub tokens: bool,
    pub unknown: UnknownCost,
    /// Minimum bits per token or byte of the lines to print.
    pub threshold: Option<f64>,
    /// Maximum number of lines to print.
    pub top: Option<usize>,
    pub json: bool,
    pub color: ColorChoice,
    pub threads: Threads,
}

impl ScoreArgs {
    /// The unit of the bits of a line.
    pub fn unit(&self) -> ScoreUnit {
        match self.per_byte {
            true => ScoreUnit::Byte,
            false => ScoreUnit::Token,
        }
    }

    /// Checks the range of numbers.
    pub fn check(&self) -> Result<(), Failure> {
        match self.threshold {
            Some(threshold) if threshold.is_nan() || threshold < 0.0 => Err(Failure::Usage(
                format!("--threshold must be >= 0, got {threshold}"),
            )),
            _ => Ok(()),
        }
    }
}

#[derive(Default)]
pub struct InfoArgs {
    pub model_dir: Option<PathBuf>,
    pub json: bool,
}

#[derive(Default)]
pub struct ExportArgs {
    pub model_dir: Option<PathBuf>,
    pub format: ExportFormat,
    /// Required.
    pub output: Option<PathBuf>,
    pub half: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ExportFormat {
    #[default]
    Microgpt,
    Huggingface,
    Html,
}

impl Choice for ExportFormat {
    const NAMED: &'static [(&'static str, Self)] = &[
        ("microgpt", ExportFormat::Microgpt),
        ("huggingface", ExportFormat::Huggingface),
        ("html", ExportFormat::Html),
    ];
}

pub struct ServeArgs {
    pub model_dir: Option<PathBuf>,
    pub host: String,
    pub port: u16,
    pub threads: Threads,
    pub quiet: bool,
    pub api_key_file: Option<PathBuf>,
    pub cors_origins: Vec<Origin>,
    pub allowed_hosts: Vec<HostName>,
}

impl Default for ServeArgs {
    fn default() -> Self {
        Self {
            model_dir: None,
            host: "127.0.0.1".to_string(),
            port: 8080,
            threads: Threads::Count(64),
            quiet: false,
            api_key_file: None,
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum DeviceKind {
    #[default]
    Cpu,
    Metal,
}

impl Choice for DeviceKind {
    const NAMED: &'static [(&'static str, Self)] =
        &[("cpu", DeviceKind::Cpu), ("metal", DeviceKind::Metal)];
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ColorChoice {
    #[default]
    Auto,
    Always,
    Never,
}

impl Choice for ColorChoice {
    const NAMED: &'static [(&'static str, Self)] = &[
        ("auto", ColorChoice::Auto),
        ("always", ColorChoice::Always),
        ("never", ColorChoice::Never),
    ];
}

impl Value for UnknownCost {
    fn set(&mut self, argument: &OsStr) -> Result<(), String> {
        let text = argument.to_str().unwrap_or_default().trim();
        *self = match text.parse() {
            Ok(bits) if bits >= 0.0 => UnknownCost::Bits(bits),
            Err(_) if text == "skip" => UnknownCost::Skip,
            _ => return Err("a number >= 0, inf or skip".to_string()),
        };
        Ok(())
    }

    fn show(&self) -> Option<String> {
        Some(match self {
            UnknownCost::Bits(bits) => bits.to_string(),
            UnknownCost::Skip => "skip".to_string(),
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Shell {
    #[default]
    Bash,
    Zsh,
    Fish,
}

impl Choice for Shell {
    const NAMED: &'static [(&'static str, Self)] = &[
        ("bash", Shell::Bash),
        ("zsh", Shell::Zsh),
        ("fish", Shell::Fish),
    ];
}

impl Choice for LossOn {
    const NAMED: &'static [(&'static str, Self)] = &LossOn::NAMED;
}

impl Choice for Schedule {
    const NAMED: &'static [(&'static str, Self)] = &Schedule::NAMED;
}

/// Turns the error of a field into that of the option with the same name.
pub fn usage_error(error: InvalidValue) -> Failure {
    let option = error.field.replace('_', "-");
    let InvalidValue {
        expected, value, ..
    } = error;
    Failure::Usage(format!("--{option} must be {expected}, got {value}"))
}
