//! The options of `train`, each checked by itself.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use candle_core::Device;

use super::super::{Failure, Words};
use crate::data::CorpusKind;
use crate::model::ModelConfig;
use crate::train::{Hyperparameters, MAX_BATCH_SIZE};

/// The options as they were given; what depends on a resumed model is still open.
pub struct Options<'a> {
    words: &'a Words,
    pub input: Option<PathBuf>,
    pub output: Option<PathBuf>,
    /// The kind of text, if one was asked for.
    pub kind: Option<CorpusKind>,
    pub steps: u64,
    pub config: ModelConfig,
    pub device: DeviceName,
    pub resume: Option<PathBuf>,
    pub checkpoint_every: u64,
    /// How many steps are between two validations.
    pub eval_every: u64,
    pub patience: Option<u64>,
    pub threads: usize,
    pub log: Option<PathBuf>,
    pub plot: Option<PathBuf>,
    pub quiet: bool,
}

impl<'a> Options<'a> {
    pub fn from_words(words: &'a Words) -> Result<Self, Failure> {
        check_together(words)?;
        let steps = words.count("steps")?.unwrap_or(1000) as u64;
        let options = Self {
            input: words.path("input"),
            output: words.path("output"),
            kind: match (words.has("chat"), words.has("text")) {
                (true, _) => Some(CorpusKind::Conversations),
                (_, true) => Some(CorpusKind::Continuous),
                _ => None,
            },
            steps,
            config: model_config(words)?,
            device: words.choice("device")?.unwrap_or(DeviceName::Cpu),
            resume: words.path("resume"),
            checkpoint_every: words.whole("checkpoint-every", 0..=u64::MAX)?.unwrap_or(0),
            eval_every: words
                .count("eval-every")?
                .map_or((steps / 10).max(1), |steps| steps as u64),
            patience: words.count("patience")?.map(|tests| tests as u64),
            threads: words.threads()?,
            log: words.path("log"),
            plot: words.path("plot"),
            quiet: words.has("quiet"),
            words,
        };
        let hyperparameters = options.hyperparameters(Hyperparameters::default())?;
        // A resumed model may bring a share to test on.
        if options.resume.is_none() {
            options.check_tests(&hyperparameters)?;
        }
        Ok(options)
    }

    /// Refuses options of tests where nothing is held out to test on.
    pub fn check_tests(&self, hyperparameters: &Hyperparameters) -> Result<(), Failure> {
        let given = ["eval-every", "patience"]
            .into_iter()
            .find(|o| self.words.has(o));
        match given {
            Some(option) if hyperparameters.validation_fraction == 0.0 => {
                Err(Failure::Usage(format!(
                    "--{option} needs --validation-fraction, more than 0: otherwise there is nothing to \
                test on"
                )))
            }
            _ => Ok(()),
        }
    }

    /// How to train: as in `before`, but for what was given.
    pub fn hyperparameters(&self, before: Hyperparameters) -> Result<Hyperparameters, Failure> {
        let words = self.words;
        let batch_size = words.whole("batch-size", 1..=MAX_BATCH_SIZE as u64)?;
        let share = |name, default: f64| {
            let given = words.real(name, |share| (0.0..1.0).contains(&share), ">= 0 and < 1")?;
            Ok::<_, Failure>(given.unwrap_or(default))
        };
        Ok(Hyperparameters {
            seed: words.whole("seed", 0..=u64::MAX)?.unwrap_or(before.seed),
            batch_size: batch_size.map_or(before.batch_size, |size| size as usize),
            lr: words.real("lr", |lr| lr > 0.0, "> 0")?.unwrap_or(before.lr),
            schedule: words.choice("schedule")?.unwrap_or(before.schedule),
            warmup_steps: words
                .whole("warmup-steps", 0..=u64::MAX)?
                .unwrap_or(before.warmup_steps),
            weight_decay: words
                .real("weight-decay", |decay| decay >= 0.0, ">= 0")?
                .unwrap_or(before.weight_decay),
            grad_clip: words
                .real("grad-clip", |clip| clip > 0.0, "> 0")?
                .or(before.grad_clip),
            beta1: share("beta1", before.beta1)?,
            beta2: share("beta2", before.beta2)?,
            validation_fraction: share("validation-fraction", before.validation_fraction)?,
        })
    }
}

/// Refuses options that contradict each other.
fn check_together(words: &Words) -> Result<(), Failure> {
    for size in ["n-embd", "n-head", "n-layer", "block-size"] {
        words.not_together(size, "resume", "a resumed model keeps its size")?;
    }
    for file in ["log", "plot"] {
        if words.path(file).is_some_and(|path| path.as_os_str() == "-") {
            return Err(Failure::Usage(format!(
                "--{file} has to be a file: the samples go to standard output"
            )));
        }
    }
    words.not_together("chat", "text", "a text is conversations or continuous")?;
    Ok(())
}

/// The size of a new model.
fn model_config(words: &Words) -> Result<ModelConfig, Failure> {
    let default = ModelConfig::default();
    let size = |name: &str, default: usize| Ok::<_, Failure>(words.count(name)?.unwrap_or(default));
    let config = ModelConfig {
        n_embd: size("n-embd", default.n_embd)?,
        n_head: size("n-head", default.n_head)?,
        n_layer: size("n-layer", default.n_layer)?,
        block_size: size("block-size", default.block_size)?,
    };
    if !config.n_embd.is_multiple_of(config.n_head) {
        return Err(Failure::Usage(format!(
            "--n-head has to divide --n-embd, so that all heads are equally wide: {} / {} leaves {}; \
            --n-embd {} does",
            config.n_embd,
            config.n_head,
            config.n_embd % config.n_head,
            config
                .n_embd
                .div_ceil(config.n_head)
                .saturating_mul(config.n_head)
        )));
    }
    Ok(config)
}

/// The values of `--device`.
#[derive(Clone, Copy, PartialEq)]
pub enum DeviceName {
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
    /// The device. Errors where this build or this machine has none of the kind.
    pub fn open(self) -> Result<Device> {
        match self {
            DeviceName::Cpu => Ok(Device::Cpu),
            DeviceName::Metal if cfg!(feature = "metal") => {
                Device::new_metal(0).context("cannot use the GPU")
            }
            DeviceName::Metal => bail!(
                "this build has no Metal; build one on macOS with `cargo build --release \
                --features metal`"
            ),
        }
    }
}
