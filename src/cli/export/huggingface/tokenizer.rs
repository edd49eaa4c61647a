//! tokenizer.json and tokenizer_config.json: a vocabulary for the tokenizers library.

use serde_json::{Map, Value, json};

use crate::data::{CorpusKind, Tokenizer};
use crate::model::ModelMeta;

/// The name of [`Tokenizer::bos`] in the files.
const BOS: &str = "<bos>";

/// tokenizer.json. The characters are a BPE model without merges: it drops unknown characters, as ours does.
pub fn tokenizer(tokenizer: &Tokenizer) -> Value {
    let chars = tokenizer.chars();
    let vocabulary: Map<String, Value> = (0u32..)
        .zip(chars)
        .map(|(id, c)| (c.to_string(), json!(id)))
        .collect();
    let added = (chars.len() as u32..tokenizer.vocab_size() as u32).map(|id| {
        json!({
            "id": id,
            "content": tokenizer.name_of(id),
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": true,
        })
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": post_processor(tokenizer),
        "decoder": { "type": "Fuse" },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocabulary,
            "merges": [],
        },
    })
}

/// Puts `bos` before a text, unless it is part of a continuous one.
fn post_processor(tokenizer: &Tokenizer) -> Value {
    if tokenizer.kind() == CorpusKind::Continuous {
        return Value::Null;
    }
    let bos = json!({ "SpecialToken": { "id": BOS, "type_id": 0 } });
    let sequence = |id| json!({ "Sequence": { "id": id, "type_id": 0 } });
    json!({
        "type": "TemplateProcessing",
        "single": [bos, sequence("A")],
        "pair": [bos, sequence("A"), bos, sequence("B")],
        "special_tokens": { BOS: { "id": BOS, "ids": [tokenizer.bos()], "tokens": [BOS] } },
    })
}

/// tokenizer_config.json.
pub fn config(meta: &ModelMeta) -> Value {
    let tokenizer = &meta.tokenizer;
    let end = super::end_token(tokenizer).map_or(BOS.to_string(), |id| tokenizer.name_of(id));
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": end,
        "pad_token": BOS,
        "padding_side": "left",
        "model_max_length": meta.config.block_size,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": false,
    })
}
