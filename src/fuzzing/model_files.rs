//! The files of a model directory.

use std::sync::Arc;
use std::sync::LazyLock;

use candle_core::Device;

use super::support::{CHARACTERS, accepted, generate_and_score, small_meta};
use crate::data::{Corpus, CorpusKind, Dataset, Tokenizer, TokenizerJson};
use crate::infer::InferenceGpt;
use crate::model::{ModelMeta, initial_weights};
use crate::store::{FileBytes, JsonObject, Precision, TensorFile, encode_tensors};
use crate::train::{Checkpoint, TrainConfig, TrainState, Trainer};

/// weights.safetensors: accepted weights can generate, and survive writing and reading unchanged.
pub fn weights(input: &[u8]) {
    let meta = small_meta(CorpusKind::Documents);
    let read = |bytes: FileBytes| TensorFile::new(bytes, meta.tensors(), true);
    let Some(file) = accepted(read(input.to_vec().into())) else {
        return;
    };
    let tensors = file.to_tensors();
    let written = encode_tensors(&tensors, Precision::F32).expect("they are finite");
    let again = read(written.into()).expect("a written file is valid");
    assert_eq!(again.to_tensors(), tensors);
    accepted(encode_tensors(&tensors, Precision::F16));
    generate_and_score(Arc::new(InferenceGpt::new(meta.clone(), file)));
}

/// meta.json: an accepted file survives writing and reading unchanged, and its tokenizer encodes
/// every character of its vocabulary.
pub fn meta(input: &[u8]) {
    /// Weights that match few meta.json files.
    static WEIGHTS: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let meta = small_meta(CorpusKind::Documents);
        let weights = initial_weights(meta.config, meta.tokenizer.vocab_size(), 1);
        encode_tensors(&weights, Precision::F32).expect("they are finite")
    });
    let read = |bytes: &[u8]| ModelMeta::from_json(&JsonObject::parse(bytes)?, None);
    let Some(meta) = accepted(read(input)) else {
        return;
    };
    let written = meta.to_json().to_string();
    assert_eq!(
        read(written.as_bytes()).expect("a written file is valid"),
        meta
    );
    meta.parameters()
        .expect("they were counted when it was read");
    assert!(meta.config.head_dim() >= 1);
    let tokenizer = &meta.tokenizer;
    let text: String = tokenizer.chars().into_iter().flatten().collect();
    let ids = tokenizer.encode(&text);
    assert!(ids.iter().copied().eq(0..tokenizer.text_tokens() as u32));
    for tokens in [
        tokenizer.encode_document(&text),
        tokenizer.encode_line(&text),
    ] {
        assert!(
            tokens
                .iter()
                .all(|&t| (t as usize) < tokenizer.vocab_size())
        );
    }
    let weights = TensorFile::new(WEIGHTS.clone().into(), meta.tensors(), true);
    if let Some(weights) = accepted(weights) {
        generate_and_score(Arc::new(InferenceGpt::new(meta, weights)));
    }
}

/// tokenizer.json: an accepted file survives writing and reading unchanged, and any text is encoded and
/// decoded unchanged.
pub fn tokenizer(input: &[u8]) {
    let kind = CorpusKind::Documents;
    let Some(json) = accepted(TokenizerJson::parse(input)) else {
        return;
    };
    let tokenizer = Tokenizer::from_json(json, kind);
    let written = tokenizer
        .to_json()
        .expect("it is no vocabulary of characters");
    let again = TokenizerJson::parse(written.to_string().as_bytes());
    let again = Tokenizer::from_json(again.expect("a written file is valid"), kind);
    assert_eq!(again, tokenizer);
    let text = String::from_utf8_lossy(input);
    assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text);
}

/// train_state.json: an accepted file survives writing and reading unchanged, and a run resumes from
/// it or fails with an error.
pub fn train_state(input: &[u8]) {
    let read = |bytes: &[u8]| TrainState::from_json(&JsonObject::parse(bytes)?);
    let Some(state) = accepted(read(input)) else {
        return;
    };
    let written = state.to_json().to_string();
    assert_eq!(
        read(written.as_bytes()).expect("a written file is valid"),
        state
    );
    // Larger batches only take longer.
    if state.hyperparameters.batch_size <= 32 {
        accepted(resume(state));
    }
}

/// Trains for two steps.
fn resume(state: TrainState) -> anyhow::Result<()> {
    let meta = small_meta(CorpusKind::Documents);
    let hyperparameters = state.hyperparameters;
    let config = TrainConfig {
        steps: 2,
        hyperparameters,
        threads: 1,
    };
    let corpus = Corpus::documents(CHARACTERS)?;
    let mut dataset = Dataset::new(
        &corpus,
        &meta.tokenizer,
        meta.config.block_size,
        hyperparameters.seed,
    )?;
    if hyperparameters.validation_fraction > 0.0 {
        dataset.split_validation(hyperparameters.validation_fraction)?;
    }
    let weights = initial_weights(meta.config, meta.tokenizer.vocab_size(), 1);
    let mut checkpoint = Checkpoint::untrained(meta, weights);
    checkpoint.state = state;
    let mut trainer = Trainer::new(config, checkpoint, dataset, &Device::Cpu)?;
    while !trainer.is_done() {
        trainer.step()?;
    }
    Ok(())
}
