//! `--format huggingface`: a directory that transformers loads, with the program of the model in Python.

mod card;
mod tokenizer;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::data::Tokenizer;
use crate::engine::SamplingOptions;
use crate::model::{ModelMeta, huggingface};
use crate::store::{
    CONFIG, DirectoryLock, HUGGINGFACE_FILES, HUGGINGFACE_WEIGHTS, META, Precision, Snapshot,
    TOKENIZER, TRAIN_STATE, Tensors, WEIGHTS, encode_weights, save,
};
use crate::train::TrainState;

/// Checks that the export would overwrite no other files than those of an earlier one.
pub fn check(output: &Path) -> Result<()> {
    if !output.exists() {
        return Ok(());
    }
    let snapshot = Snapshot::open(output)?;
    ensure!(
        ![META, WEIGHTS, TRAIN_STATE]
            .iter()
            .any(|name| snapshot.has(name)),
        "{} holds a model of another format; choose another --output",
        output.display()
    );
    let mut names = HUGGINGFACE_FILES.into_iter();
    if let Some(name) = names.find(|name| output.join(name).exists()) {
        ensure!(
            huggingface::read_config(&snapshot).is_ok(),
            "{} is not of a model of microgpt, and the export would overwrite it; choose another --output",
            output.join(name).display()
        );
    }
    Ok(())
}

/// Writes the directory. Returns the size of its weights.
pub fn write(
    snapshot: &Snapshot,
    meta: &ModelMeta,
    weights: Tensors,
    precision: Precision,
    output: &Path,
) -> Result<usize> {
    let renamed = weights.into_iter();
    let renamed = renamed.map(|(name, tensor)| (huggingface::tensor_name(&name), tensor));
    let weights = encode_weights(&renamed.collect(), precision);
    let weights = weights.context("cannot export the weights")?;
    let state = match snapshot.has(TRAIN_STATE) {
        true => Some(TrainState::load(snapshot)?),
        false => None,
    };
    std::fs::create_dir_all(output)
        .with_context(|| format!("cannot create {}", output.display()))?;
    let _lock = DirectoryLock::acquire(output)?;
    let is_written = |name: &&str| meta.is_chat() || *name != "chat_template.jinja";
    let names: Vec<&str> = HUGGINGFACE_FILES.into_iter().filter(is_written).collect();
    save(output, &names, |name| {
        let json = |value: Value| format!("{value:#}\n");
        let content = match name {
            HUGGINGFACE_WEIGHTS => return Ok(weights.clone()),
            CONFIG => json(config(meta, precision)),
            "configuration_microgpt.py" => {
                include_str!("huggingface/configuration_microgpt.py").to_string()
            }
            "modeling_microgpt.py" => include_str!("huggingface/modeling_microgpt.py").to_string(),
            TOKENIZER => json(tokenizer::tokenizer(&meta.tokenizer)),
            "tokenizer_config.json" => json(tokenizer::config(meta)),
            "chat_template.jinja" => chat_template(&meta.tokenizer),
            "generation_config.json" => json(generation_config(meta)),
            _ => card::card(meta, precision, state.as_ref())?,
        };
        Ok(content.into_bytes())
    })?;
    Ok(weights.len())
}

/// config.json: the keys of meta.json and those of transformers.
fn config(meta: &ModelMeta, precision: Precision) -> Value {
    let mut config = meta.to_json();
    for (key, value) in huggingface::architecture() {
        config[key] = value;
    }
    config["architectures"] = json!(["MicrogptForCausalLM"]);
    config["auto_map"] = json!({
        "AutoConfig": "configuration_microgpt.MicrogptConfig",
        "AutoModel": "modeling_microgpt.MicrogptModel",
        "AutoModelForCausalLM": "modeling_microgpt.MicrogptForCausalLM",
    });
    config["dtype"] = json!(match precision {
        Precision::F32 => "float32",
        Precision::F16 => "float16",
        Precision::BF16 => "bfloat16",
    });
    config["bos_token_id"] = json!(meta.tokenizer.bos());
    config["eos_token_id"] = json!(tokenizer::end_token(&meta.tokenizer));
    config["pad_token_id"] = json!(meta.tokenizer.bos());
    config
}

/// generation_config.json: the defaults of `microgpt generate` and `chat`.
fn generation_config(meta: &ModelMeta) -> Value {
    let tokenizer = &meta.tokenizer;
    let end = tokenizer::end_token(tokenizer);
    // All special tokens but the end: a text or a reply has none.
    let text_tokens = tokenizer.text_tokens() as u32;
    let special = text_tokens..tokenizer.vocab_size() as u32;
    let suppressed: Vec<u32> = special.filter(|token| Some(*token) != end).collect();
    let mut config = json!({
        "bos_token_id": tokenizer.bos(),
        "eos_token_id": end,
        "pad_token_id": tokenizer.bos(),
        "do_sample": true,
        "temperature": SamplingOptions::default().temperature,
        "top_k": 0,
        // The last token takes no part of the context.
        "max_length": meta.config.block_size + 1,
    });
    if !suppressed.is_empty() {
        config["suppress_tokens"] = json!(suppressed);
    }
    config
}

/// chat_template.jinja. System messages are left out for a model that was trained without any.
fn chat_template(tokenizer: &Tokenizer) -> String {
    let roles = match tokenizer.chat_tokens().and_then(|chat| chat.system) {
        Some(_) => "['system', 'user', 'assistant']",
        None => "['user', 'assistant']",
    };
    include_str!("huggingface/chat_template.jinja").replace("ROLES", roles)
}
