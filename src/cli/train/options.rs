//! The options of `train`, each checked by itself.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use candle_core::Device;

use super::super::{Failure, Words};
use crate::model::ModelConfig;
use crate::train::Schedule;

/// More documents a step than this are a mistake.
const MAX_BATCH_SIZE: u64 = 1_000_000;

/// The options as they were given; what depends on a resumed model is still open.
pub struct Options {
    pub input: Option<PathBuf>,
    pub output: Option<PathBuf>,
    pub chat: bool,
    pub steps: u64,
    pub batch_size: Option<usize>,
    pub lr: Option<f64>,
    pub schedule: Option<Schedule>,
    pub config: ModelConfig,
    pub seed: Option<u64>,
    pub device: DeviceName,
    pub resume: Option<PathBuf>,
    pub checkpoint_every: u64,
    pub threads: usize,
    pub log: Option<PathBuf>,
    pub quiet: bool,
}

impl Options {
    pub fn from_words(words: &Words) -> Result<Self, Failure> {
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
                "--n-head has to divide --n-embd, so that all heads are equally wide: {} / {} \
                leaves {}",
                config.n_embd,
                config.n_head,
                config.n_embd % config.n_head
            )));
        }
        let batch_size = words.whole("batch-size", 1..=MAX_BATCH_SIZE, "from 1 to 1000000")?;
        Ok(Self {
            input: words.path("input"),
            output: words.path("output"),
            chat: words.has("chat"),
            steps: words.count("steps")?.unwrap_or(1000) as u64,
            batch_size: batch_size.map(|size| size as usize),
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
