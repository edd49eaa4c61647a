//! The tokenizer.json of Hugging Face's library, as far as it describes a byte-level BPE.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::BPE;

use super::byte_level_bpe::ByteLevelBpe;

/// A byte-level BPE and the ids and names of its special tokens.
pub struct TokenizerJson {
    pub(super) bpe: ByteLevelBpe,
    pub special_tokens: Vec<(u32, String)>,
}

/// The fields that decide on the ids of a text.
#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    model: Value,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// The model of a BPE.
#[derive(Deserialize)]
struct BpeModel {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// A pair of tokens. Older versions of the library write one string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Joined(String),
}

impl TokenizerJson {
    /// Errors unless the bytes are a byte-level BPE that splits words as GPT-2.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let fields: Fields =
            serde_json::from_slice(json).context("not a tokenizer of Hugging Face's library")?;
        let added = fields.added_tokens.iter();
        Ok(Self {
            bpe: ByteLevelBpe::new(fields.to_bpe()?)?,
            special_tokens: added
                .map(|token| (token.id, token.content.clone()))
                .collect(),
        })
    }
}

impl Fields {
    fn to_bpe(&self) -> Result<BPE> {
        ensure!(
            self.model["type"] == "BPE",
            "the model must be \"BPE\", got {}",
            self.model["type"]
        );
        ensure!(
            self.normalizer.is_null(),
            "a byte-level BPE has no normalizer, got {}",
            self.normalizer["type"]
        );
        let pre_tokenizer = &self.pre_tokenizer;
        let uses_regex = pre_tokenizer.get("use_regex") != Some(&Value::Bool(false));
        ensure!(
            pre_tokenizer["type"] == "ByteLevel"
                && pre_tokenizer["add_prefix_space"] == false
                && uses_regex,
            "the pre-tokenizer must be \"ByteLevel\" with add_prefix_space false and use_regex \
            true, got {}",
            pre_tokenizer["type"]
        );
        for key in [
            "dropout",
            "unk_token",
            "continuing_subword_prefix",
            "end_of_word_suffix",
            "fuse_unk",
            "byte_fallback",
            "ignore_merges",
        ] {
            let value = &self.model[key];
            let is_unset = value.is_null() || value == false || value == "";
            ensure!(is_unset, "{key} of the model must be unset, got {value}");
        }
        let BpeModel { vocab, merges } =
            BpeModel::deserialize(&self.model).context("the model is not a BPE")?;
        for merge in &merges {
            let (a, b) = match merge {
                Merge::Pair(a, b) => (&a[..], &b[..]),
                Merge::Joined(joined) => joined.split_once(' ').unwrap_or((joined, "")),
            };
            // The library would panic.
            let are_tokens = [a, b, &[a, b].concat()]
                .iter()
                .all(|token| vocab.contains_key(*token));
            ensure!(are_tokens, "{a:?} and {b:?} do not merge to a token");
        }
        BPE::deserialize(&self.model).map_err(|error| anyhow!("the model cannot be used: {error}"))
    }
}
