//! Small models, and the checks that the fuzz targets share.

use std::sync::Arc;

use anyhow::{Error, Result};

use crate::cli::Failure;
use crate::data::{CorpusKind, Tokenizer};
use crate::engine::{GenerateOptions, Generator, SamplingOptions, ScoreOptions, Scorer};
use crate::infer::InferenceGpt;
use crate::model::{ModelConfig, ModelMeta, initial_weights};

/// The vocabulary of the small models.
pub const CHARACTERS: &str = "ab c\né";

/// The configuration and tokenizer of a small model.
pub fn small_meta(kind: CorpusKind) -> ModelMeta {
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

/// A small untrained model.
pub fn small_model(kind: CorpusKind) -> Arc<InferenceGpt> {
    let meta = small_meta(kind);
    let weights = initial_weights(meta.config, meta.tokenizer.vocab_size(), 1);
    Arc::new(InferenceGpt::from_tensors(meta, &weights))
}

/// Generates two samples with a model and scores a sequence.
pub fn generate_and_score(model: Arc<InferenceGpt>) {
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
        let generator = Generator::new(Arc::clone(&model), options).expect("the options are valid");
        generator.sample(0);
    }
    let tokens: Vec<u32> = (0..model.meta().tokenizer.vocab_size() as u32)
        .take(20)
        .collect();
    let scores = Scorer::new(&model, ScoreOptions::default()).score_tokens(&[&tokens]);
    let [score] = &scores[..] else {
        panic!("one sequence has one score");
    };
    assert!(score.bits >= 0.0, "{score:?}");
}

/// The value of a result; an error's message is checked.
pub fn accepted<T>(read: Result<T>) -> Option<T> {
    read.map_err(|error: Error| check_message(&Failure::from(error)))
        .ok()
}

/// Asserts that a failure has a message of one line without control characters.
pub fn check_message(failure: &Failure) {
    let message = failure.message().expect("a failure has a message");
    assert!(
        !message.is_empty() && !message.contains(char::is_control),
        "{message:?}"
    );
}
