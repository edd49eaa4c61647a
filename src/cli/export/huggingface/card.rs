//! The model card, README.md.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::cli::console;
use crate::data::CorpusKind;
use crate::model::{ModelConfig, ModelMeta};
use crate::store::Precision;
use crate::train::{TrainState, nats_to_bits};

/// Returns the model card. `state` is that of the training, where it is known.
pub fn card(meta: &ModelMeta, precision: Precision, state: Option<&TrainState>) -> Result<String> {
    let ModelConfig {
        n_embd,
        n_head,
        n_layer,
        block_size,
    } = meta.config;
    let subject = match meta.tokenizer.kind() {
        CorpusKind::Documents => "documents of one line each",
        CorpusKind::Continuous => "one continuous text",
        CorpusKind::Conversations => "conversations",
    };
    let mut rows = vec![
        (
            "Parameters",
            console::group_thousands(meta.parameters()? as u64),
        ),
        (
            "Width, heads, layers",
            format!("{n_embd}, {n_head}, {n_layer}"),
        ),
        ("Context", format!("{block_size} tokens")),
        (
            "Vocabulary",
            format!("{} tokens", meta.tokenizer.vocab_size()),
        ),
        ("Weights", precision.name().to_string()),
    ];
    match state {
        Some(state) => rows.extend(training(state)),
        None => rows.push(("Training", "not recorded".to_string())),
    }
    let mut table = String::from("| | |\n|---|---|\n");
    for (name, value) in rows {
        let _ = writeln!(table, "| {name} | {value} |");
    }
    let usage = match meta.is_chat() {
        true => include_str!("usage_chat.md"),
        false => include_str!("usage_text.md"),
    };
    Ok(format!(
        include_str!("README.md"),
        subject = subject,
        table = table,
        usage = usage,
        tokens = match meta.tokenizer.chars() {
            Some(_) =>
                "A token is a character. A character that is not in the vocabulary is left out.",
            None => "A token is a sequence of bytes that is frequent in the training text.",
        },
        version = env!("CARGO_PKG_VERSION"),
        block_size = block_size,
    ))
}

/// The rows about the training. Of the input only the file's name: its folder is the author's affair.
fn training(state: &TrainState) -> Vec<(&'static str, String)> {
    let hyperparameters = &state.hyperparameters;
    let input = match state.input.as_deref() {
        None => "the text built into microgpt".to_string(),
        Some("-") => "standard input".to_string(),
        Some(path) => {
            let name = Path::new(path).file_name().unwrap_or_default();
            format!(
                "`{}`",
                name.to_string_lossy().replace(['`', '|', '\n', '\r'], "_")
            )
        }
    };
    let schedule = json!(hyperparameters.schedule);
    let schedule = schedule.as_str().unwrap_or_default();
    let mut rows = vec![
        ("Trained on", input),
        ("Steps", console::group_thousands(state.step)),
        ("Documents per step", hyperparameters.batch_size.to_string()),
        (
            "Learning rate",
            format!("{}, {schedule}", hyperparameters.lr),
        ),
        ("Seed", hyperparameters.seed.to_string()),
    ];
    if let Some(loss) = state.validation_loss {
        let bits = nats_to_bits(loss);
        rows.push((
            "Validation loss",
            format!("{loss:.4} nats, {bits:.4} bits per token"),
        ));
    }
    rows
}
