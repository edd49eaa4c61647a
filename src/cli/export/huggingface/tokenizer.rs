//! tokenizer.json and tokenizer_config.json: a vocabulary for the tokenizers library.

use serde_json::{Map, Value, json};

use crate::data::{CorpusKind, Tokenizer};
use crate::model::ModelMeta;

/// The name of [`Tokenizer::bos`] in the files.
const BOS: &str = "<bos>";

/// tokenizer.json: that of a byte-level BPE, or one for a vocabulary of characters.
pub fn tokenizer(tokenizer: &Tokenizer) -> Value {
    let mut json = match (tokenizer.chars(), tokenizer.to_json()) {
        (Some(chars), _) => characters(tokenizer, chars),
        (None, json) => json.expect("a vocabulary without characters is a byte-level BPE"),
    };
    if let Some(post_processor) = post_processor(tokenizer) {
        json["post_processor"] = post_processor;
    }
    json
}

/// The characters are a BPE model without merges: it drops unknown characters, as ours does.
fn characters(tokenizer: &Tokenizer, chars: &[char]) -> Value {
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
        "post_processor": null,
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
fn post_processor(tokenizer: &Tokenizer) -> Option<Value> {
    if tokenizer.kind() == CorpusKind::Continuous {
        return None;
    }
    let bos = json!({ "SpecialToken": { "id": BOS, "type_id": 0 } });
    let sequence = |id| json!({ "Sequence": { "id": id, "type_id": 0 } });
    Some(json!({
        "type": "TemplateProcessing",
        "single": [bos, sequence("A")],
        "pair": [bos, sequence("A"), bos, sequence("B")],
        "special_tokens": { BOS: { "id": BOS, "ids": [tokenizer.bos()], "tokens": [BOS] } },
    }))
}

/// tokenizer_config.json.
pub fn config(meta: &ModelMeta) -> Value {
    let tokenizer = &meta.tokenizer;
    let end = end_token(tokenizer).map_or(BOS.to_string(), |id| tokenizer.name_of(id));
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

/// The token that ends a document or a reply; `None` for a continuous text.
pub fn end_token(tokenizer: &Tokenizer) -> Option<u32> {
    match (tokenizer.kind(), tokenizer.chat_tokens()) {
        (CorpusKind::Continuous, _) => None,
        (_, Some(chat)) => Some(chat.end_turn),
        (_, None) => Some(tokenizer.bos()),
    }
}
