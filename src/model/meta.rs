//! meta.json: a model's size and vocabulary.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::config::ModelConfig;
use super::huggingface;
use crate::data::{
    CorpusKind, SPECIAL_TOKENS, SPECIAL_TOKENS_WITH_SYSTEM, Tokenizer, TokenizerJson,
};
use crate::store::{CONFIG, JsonObject, META, Snapshot, TOKENIZER, TensorFile, WEIGHTS};

/// The key of meta.json that marks a model of one continuous text.
const CONTINUOUS: &str = "continuous_text";

/// The key of meta.json for the tokenizer of a model without `chars`, and its only value.
const TOKENIZER_KIND: (&str, &str) = ("tokenizer", "byte_level_bpe");

/// A model's size and vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelMeta {
    pub config: ModelConfig,
    pub tokenizer: Tokenizer,
}

impl ModelMeta {
    /// Reads and validates the metadata and the weights of a model directory.
    pub fn load(snapshot: &Snapshot) -> Result<(Self, TensorFile)> {
        if snapshot.is_huggingface() {
            let meta = Self::read(snapshot, CONFIG, &huggingface::read_config(snapshot)?)?;
            let weights = huggingface::read_weights(snapshot, meta.tensors())?;
            return Ok((meta, weights));
        }
        if !snapshot.has(META) || !snapshot.has(WEIGHTS) {
            let missing = snapshot.path(if snapshot.has(META) { WEIGHTS } else { META });
            let dir = missing.parent().unwrap_or(Path::new("")).display();
            bail!(
                "{} is missing; is {dir} a model directory written by `microgpt train`?",
                missing.display()
            );
        }
        let meta = Self::read(snapshot, META, &snapshot.read_json(META)?)?;
        let weights = TensorFile::new(snapshot.map(WEIGHTS)?, meta.tensors(), true)
            .with_context(|| snapshot.path(WEIGHTS).display().to_string())?;
        Ok((meta, weights))
    }

    /// Validates the metadata, the content of `file`, and reads its tokenizer.
    fn read(snapshot: &Snapshot, file: &str, json: &JsonObject) -> Result<Self> {
        let tokenizer = match json.get(TOKENIZER_KIND.0) {
            None => None,
            Some(_) => Some(read_tokenizer(snapshot)?),
        };
        Self::from_json(json, tokenizer).with_context(|| snapshot.path(file).display().to_string())
    }

    /// Iterates over the names and shapes `[out, in]` of the weights.
    pub fn tensors(&self) -> impl Iterator<Item = (String, [usize; 2])> + use<> {
        self.config.tensors(self.tokenizer.vocab_size())
    }

    /// Returns the number of weights.
    pub fn parameters(&self) -> Result<usize> {
        self.config.parameters(self.tokenizer.vocab_size())
    }

    /// Returns whether the model was trained on conversations.
    pub fn is_chat(&self) -> bool {
        self.tokenizer.kind() == CorpusKind::Conversations
    }

    /// Returns the names of its files.
    pub fn files(&self) -> &'static [&'static str] {
        match self.tokenizer.chars() {
            Some(_) => &[META],
            None => &[META, TOKENIZER],
        }
    }

    /// Returns the content of one of its files.
    pub fn encode(&self, file: &str) -> Result<Vec<u8>> {
        let json = match file {
            META => Some(self.to_json()),
            TOKENIZER => self.tokenizer.to_json(),
            _ => None,
        };
        let json = json.with_context(|| format!("the model has no {file}"))?;
        Ok(json.to_string().into_bytes())
    }

    /// Returns the content of meta.json.
    pub fn to_json(&self) -> serde_json::Value {
        let ModelConfig {
            n_embd,
            n_head,
            n_layer,
            block_size,
        } = self.config;
        let mut meta = json!({
            "vocab_size": self.tokenizer.vocab_size(),
            "n_embd": n_embd,
            "n_head": n_head,
            "n_layer": n_layer,
            "block_size": block_size,
        });
        match self.tokenizer.chars() {
            Some(chars) => meta["chars"] = json!(chars),
            None => meta[TOKENIZER_KIND.0] = json!(TOKENIZER_KIND.1),
        }
        match self.tokenizer.kind() {
            CorpusKind::Documents => {}
            CorpusKind::Continuous => meta[CONTINUOUS] = json!(true),
            CorpusKind::Conversations => {
                meta["special_tokens"] = json!(self.tokenizer.special_tokens());
            }
        }
        meta
    }

    /// Reads and validates the content of meta.json, and its agreement with the content of
    /// tokenizer.json.
    pub fn from_json(meta: &JsonObject, bpe: Option<TokenizerJson>) -> Result<Self> {
        let size = |key| Ok::<usize, anyhow::Error>(meta.integer(key)?.try_into()?);
        let config = ModelConfig {
            n_embd: size("n_embd")?,
            n_head: size("n_head")?,
            n_layer: size("n_layer")?,
            block_size: size("block_size")?,
        };
        config.validate()?;
        let special = meta.get_strings("special_tokens")?.unwrap_or_default();
        let has_system = special == SPECIAL_TOKENS_WITH_SYSTEM;
        ensure!(
            special.is_empty() || special == SPECIAL_TOKENS || has_system,
            "special_tokens must be {SPECIAL_TOKENS:?}, {SPECIAL_TOKENS_WITH_SYSTEM:?} or missing, \
            got {special:?}"
        );
        let kind = match (special.is_empty(), meta.get_bool(CONTINUOUS)?) {
            (false, _) => CorpusKind::Conversations,
            (true, Some(true)) => CorpusKind::Continuous,
            (true, _) => CorpusKind::Documents,
        };
        let added_tokens = bpe.as_ref().map(|json| json.special_tokens.clone());
        let mut tokenizer = match meta.get_string(TOKENIZER_KIND.0)? {
            None => Tokenizer::new(chars(meta)?, kind)?,
            Some(name) => {
                let (key, expected) = TOKENIZER_KIND;
                ensure!(name == expected, "{key} must be {expected:?}, got {name:?}");
                Tokenizer::from_json(bpe.context("tokenizer.json is missing")?, kind)
            }
        };
        if has_system {
            tokenizer = tokenizer.with_system();
        }
        let vocab_size = size("vocab_size")?;
        ensure!(
            vocab_size == tokenizer.vocab_size(),
            "vocab_size is {vocab_size}, but {} {} and {} special tokens make {}",
            tokenizer.text_tokens(),
            match tokenizer.chars() {
                Some(_) => "characters",
                None => "tokens of tokenizer.json",
            },
            tokenizer.vocab_size() - tokenizer.text_tokens(),
            tokenizer.vocab_size()
        );
        if let Some(found) = added_tokens {
            let expected = tokenizer.added_tokens();
            ensure!(
                found == expected,
                "the added tokens of tokenizer.json must be {expected:?}, got {found:?}"
            );
        }
        config.parameters(vocab_size)?;
        Ok(Self { config, tokenizer })
    }
}

/// Reads tokenizer.json.
fn read_tokenizer(snapshot: &Snapshot) -> Result<TokenizerJson> {
    let json = snapshot.read(TOKENIZER)?;
    TokenizerJson::parse(&json).with_context(|| snapshot.path(TOKENIZER).display().to_string())
}

/// The characters of a vocabulary.
fn chars(meta: &JsonObject) -> Result<Vec<char>> {
    let texts = meta.strings("chars")?.into_iter();
    let single = texts.map(|text| match text.chars().collect::<Vec<_>>()[..] {
        [c] => Ok(c),
        _ => bail!("chars must hold single characters, got {text:?}"),
    });
    single.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: impl Fn(&mut serde_json::Value)) -> Result<ModelMeta> {
        let tokenizer = Tokenizer::from_texts(["ab"].into_iter(), CorpusKind::Conversations);
        let mut meta = ModelMeta {
            config: ModelConfig::default(),
            tokenizer,
        }
        .to_json();
        change(&mut meta);
        ModelMeta::from_json(
            &JsonObject::parse(meta.to_string().as_bytes()).unwrap(),
            None,
        )
    }

    #[test]
    fn round_trip_ignores_unknown_keys() {
        let meta = read(|meta| meta["author"] = json!("somebody")).unwrap();
        assert_eq!(meta.config, ModelConfig::default());
        assert_eq!(meta.tokenizer.chars().unwrap(), ['a', 'b']);
        assert!(meta.is_chat());
        let chat = read(|meta| {
            meta["special_tokens"] = json!(["user", "assistant", "system", "end_turn"]);
            meta["vocab_size"] = json!(7);
        });
        let chat = chat.unwrap().tokenizer.chat_tokens().unwrap();
        assert_eq!((chat.system, chat.end_turn), (Some(4), 5));
        let text = read(|meta| {
            meta["special_tokens"] = json!(null);
            meta["vocab_size"] = json!(3);
        });
        assert_eq!(text.unwrap().tokenizer.kind(), CorpusKind::Documents);
        let text = read(|meta| {
            meta["special_tokens"] = json!(null);
            meta["vocab_size"] = json!(3);
            meta["continuous_text"] = json!(true);
        });
        assert_eq!(text.unwrap().tokenizer.kind(), CorpusKind::Continuous);
    }

    #[test]
    fn errors_name_the_key_and_the_value() {
        let error = |key: &str, value: serde_json::Value| {
            read(|m| m[key] = value.clone()).unwrap_err().to_string()
        };
        assert!(error("vocab_size", json!(7)).contains("vocab_size is 7"));
        assert!(error("n_head", json!(0)).contains("n_head must be >= 1, got 0"));
        assert!(
            error("n_embd", json!("16")).contains("n_embd must be a whole number >= 0, got \"16\"")
        );
        assert!(error("chars", json!(["a", "a"])).contains("repeats the character 'a'"));
        assert!(error("chars", json!(["ab"])).contains("\"ab\""));
        assert!(error("special_tokens", json!(["x"])).contains("special_tokens"));
        assert!(error("n_embd", json!(1u64 << 40)).contains("more weights than"));
    }
}
