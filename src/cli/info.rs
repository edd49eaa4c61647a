//! `microgpt info`: what a model is.

use serde_json::json;

use super::{Failure, Words, console, open_model_dir};
use crate::data::Tokenizer;
use crate::model::{ModelConfig, ModelMeta};
use crate::train::TrainState;

pub fn run(words: &Words) -> Result<(), Failure> {
    let snapshot = open_model_dir(words)?;
    let (meta, weights) = ModelMeta::load(&snapshot)?;
    let state = TrainState::load(&snapshot);
    let size = snapshot.size_on_disk()?;
    let kind = if meta.is_chat() { "chat" } else { "text" };
    let ModelConfig {
        n_embd,
        n_head,
        n_layer,
        block_size,
    } = meta.config;
    if words.has("json") {
        let mut info = meta.to_json();
        info["kind"] = json!(kind);
        info["parameters"] = json!(meta.parameters()?);
        info["dtype"] = json!(weights.precision.name());
        info["bytes_on_disk"] = json!(size);
        info["can_resume"] = json!(state.is_ok());
        info["step"] = json!(state.ok().map(|state| state.progress.step));
        return console::print(&format!("{info}\n"));
    }
    let training = match state {
        Ok(state) => format!(
            "{} steps done, can be resumed",
            console::thousands(state.progress.step)
        ),
        Err(error) => format!("cannot be resumed: {error:#}"),
    };
    console::print(&format!(
        "model        {kind}, n_embd {n_embd}, n_head {n_head}, n_layer {n_layer}, block_size \
        {block_size}\n\
         vocabulary   {} tokens: {}\n\
         parameters   {}\n\
         weights      {}, {} bytes on disk with everything\n\
         training     {training}\n",
        meta.tokenizer.vocab_size(),
        characters(&meta.tokenizer),
        console::thousands(meta.parameters()? as u64),
        weights.precision.name(),
        console::thousands(size),
    ))
}

/// The characters that a model knows, on one line of bearable length.
fn characters(tokenizer: &Tokenizer) -> String {
    const SHOWN: usize = 100;
    let chars = tokenizer.chars();
    let shown: String = chars
        .iter()
        .take(SHOWN)
        .flat_map(|c| c.escape_debug())
        .collect();
    let more = if chars.len() > SHOWN { "…" } else { "" };
    let special = tokenizer.vocab_size() - chars.len();
    format!("{shown}{more} and {special} special")
}
