//! The options that every command has which makes text.

use super::{Failure, Words};
use crate::engine::SamplingOptions;

/// The sampling options, checked.
pub fn sampling_options(words: &Words) -> Result<SamplingOptions, Failure> {
    let default = SamplingOptions::default();
    Ok(SamplingOptions {
        temperature: words
            .real("temperature", |t| t >= 0.0, ">= 0")?
            .unwrap_or(default.temperature),
        top_k: words.count("top-k")?,
        top_p: words.real("top-p", |p| p > 0.0 && p <= 1.0, "> 0 and <= 1")?,
        min_p: words.real("min-p", |p| (0.0..=1.0).contains(&p), ">= 0 and <= 1")?,
    })
}

/// The seed of commands that make text.
pub fn seed(words: &Words) -> Result<u64, Failure> {
    Ok(words.whole("seed", 0..=u64::MAX)?.unwrap_or(42))
}
