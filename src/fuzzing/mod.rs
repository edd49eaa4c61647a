//! What reads from outside, fed with anything: each function takes the bytes of one input, and
//! panics where a property does not hold. The targets in fuzz/ call them with what cargo-fuzz
//! makes up (`make fuzz`), and `cargo test` with the files of fuzz/corpus and changed copies.
//!
//! Every error has to say something, in one line that a terminal can show as it is.

mod command_line;
mod http_body;
pub(crate) mod http_requests;
mod model_files;
#[cfg(test)]
mod tests;
mod texts;

use std::sync::Arc;

use anyhow::{Error, Result};

pub use command_line::command_line;
pub use http_body::http_body;
pub use http_requests::http_requests;
pub use model_files::{meta, train_state, weights};
pub use texts::{conversations, text};

use crate::cli::Failure;
use crate::data::{CorpusKind, Tokenizer};
use crate::engine::{GenerateOptions, Generator, SamplingOptions, Scorer};
use crate::infer::InferenceGpt;
use crate::model::{ModelConfig, ModelMeta, initial_weights};

/// The characters that the small models know.
const CHARACTERS: &str = "ab c\né";

/// The size and vocabulary of a small model.
fn small_meta(kind: CorpusKind) -> ModelMeta {
    ModelMeta {
        config: ModelConfig {
            n_embd: 4,
            n_head: 2,
            n_layer: 1,
            block_size: 8,
        },
        tokenizer: Tokenizer::from_texts([CHARACTERS].into_iter(), kind),
    }
}

/// A small model that has not learned anything.
fn small_model(kind: CorpusKind) -> Arc<InferenceGpt> {
    let meta = small_meta(kind);
    let weights = initial_weights(meta.config, meta.tokenizer.vocab_size(), 1);
    Arc::new(InferenceGpt::from_tensors(meta, &weights))
}

/// Lets a model make texts and score one.
fn speak(model: Arc<InferenceGpt>) {
    for temperature in [0.0, 1.0] {
        let sampling = SamplingOptions {
            temperature,
            ..Default::default()
        };
        let options = GenerateOptions {
            sampling,
            max_tokens: Some(4),
            ..Default::default()
        };
        let generator = Generator::new(Arc::clone(&model), options).expect("there is no prompt");
        generator.sample(0);
    }
    let tokens: Vec<u32> = (0..model.meta().tokenizer.vocab_size() as u32)
        .take(20)
        .collect();
    let [score] = Scorer::new(&model).score_tokens(&[&tokens])[..] else {
        panic!("a text has a score");
    };
    assert!(score.bits >= 0.0, "{score:?}");
}

/// What a file's reader gave; an error has to be well said.
fn accepted<T>(read: Result<T>) -> Option<T> {
    read.map_err(|error: Error| well_said(&Failure::from(error)))
        .ok()
}

/// Checks what a failure says.
fn well_said(failure: &Failure) {
    let message = failure.message().expect("there is something to say");
    assert!(
        !message.is_empty() && !message.contains(char::is_control),
        "{message:?}"
    );
}
