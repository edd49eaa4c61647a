//! `microgpt info`: the size, vocabulary and state of a model.

use anyhow::Result;
use serde_json::{Value, json};

use super::failure::Failure;
use super::flags::InfoArgs;
use super::{console, model_dir};
use crate::data::{CorpusKind, Tokenizer};
use crate::model::{ModelConfig, ModelMeta};
use crate::store::{Precision, Snapshot};
use crate::train::Checkpoint;

/// Runs `microgpt info`.
pub fn run(args: InfoArgs) -> Result<(), Failure> {
    let snapshot = model_dir::open(args.model_dir.as_deref())?;
    let (meta, weights) = ModelMeta::load(&snapshot)?;
    if args.json {
        let info = to_json(&snapshot, &meta, weights.precision)?;
        return console::print(&format!("{info}\n"));
    }
    let training = match Checkpoint::load(&snapshot) {
        Ok(checkpoint) => format!(
            "{} done, can be resumed",
            console::pluralize(checkpoint.state.step, "step")
        ),
        Err(error) => format!("cannot be resumed: {error:#}"),
    };
    let ModelConfig {
        n_embd,
        n_head,
        n_layer,
        block_size,
    } = meta.config;
    console::print(&format!(
        "model        {}, n_embd {n_embd}, n_head {n_head}, n_layer {n_layer}, block_size \
        {block_size}\n\
         vocabulary   {} tokens: {}\n\
         parameters   {}\n\
         weights      {}, {} bytes on disk with everything\n\
         training     {training}\n",
        kind(&meta),
        meta.tokenizer.vocab_size(),
        describe_tokens(&meta.tokenizer),
        console::group_thousands(meta.parameters()? as u64),
        weights.precision.name(),
        console::group_thousands(snapshot.size_on_disk()?),
    ))
}

/// The JSON object of a model, with its metadata and state.
pub fn to_json(snapshot: &Snapshot, meta: &ModelMeta, precision: Precision) -> Result<Value> {
    let checkpoint = Checkpoint::load(snapshot);
    let mut info = meta.to_json();
    info["kind"] = json!(kind(meta));
    info["parameters"] = json!(meta.parameters()?);
    info["dtype"] = json!(precision.name());
    info["bytes_on_disk"] = json!(snapshot.size_on_disk()?);
    info["can_resume"] = json!(checkpoint.is_ok());
    info["step"] = json!(checkpoint.ok().map(|checkpoint| checkpoint.state.step));
    Ok(info)
}

fn kind(meta: &ModelMeta) -> &'static str {
    match meta.tokenizer.kind() {
        CorpusKind::Documents => "text",
        CorpusKind::Continuous => "continuous text",
        CorpusKind::Conversations => "chat",
    }
}

/// The tokens of a vocabulary on one line, at most 100 of its characters.
fn describe_tokens(tokenizer: &Tokenizer) -> String {
    const MAX_CHARS: usize = 100;
    let special = tokenizer.vocab_size() - tokenizer.text_tokens();
    let Some(chars) = tokenizer.chars() else {
        let learned = console::group_thousands(tokenizer.text_tokens() as u64);
        return format!("{learned} of byte-level BPE and {special} special");
    };
    let shown: String = chars
        .iter()
        .take(MAX_CHARS)
        .flat_map(|c| c.escape_debug())
        .collect();
    let more = if chars.len() > MAX_CHARS { "…" } else { "" };
    format!("{shown}{more} and {special} special")
}
