//! meta.json: a model's size and vocabulary.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::config::ModelConfig;
use crate::data::{CorpusKind, SPECIAL_TOKENS, SPECIAL_TOKENS_WITH_SYSTEM, Tokenizer};
use crate::store::{JsonObject, META, Snapshot, TensorFile, WEIGHTS};

/// The key of meta.json that marks a model of one continuous text.
const CONTINUOUS: &str = "continuous_text";

/// A model's size and vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelMeta {
    pub config: ModelConfig,
    pub tokenizer: Tokenizer,
}

impl ModelMeta {
    /// Reads and validates the metadata and the weights of a model directory.
    pub fn load(snapshot: &Snapshot) -> Result<(Self, TensorFile)> {
        if !snapshot.has(META) || !snapshot.has(WEIGHTS) {
            let missing = snapshot.path(if snapshot.has(META) { WEIGHTS } else { META });
            let dir = missing.parent().unwrap_or(Path::new("")).display();
            bail!(
                "{} is missing; is {dir} a model directory written by `microgpt train`?",
                missing.display()
            );
        }
        let meta = Self::from_json(&snapshot.read_json(META)?)
            .with_context(|| snapshot.path(META).display().to_string())?;
        let weights = TensorFile::new(snapshot.map(WEIGHTS)?, meta.tensors(), true)
            .with_context(|| snapshot.path(WEIGHTS).display().to_string())?;
        Ok((meta, weights))
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
            "chars": self.tokenizer.chars(),
        });
        match self.tokenizer.kind() {
            CorpusKind::Documents => {}
            CorpusKind::Continuous => meta[CONTINUOUS] = json!(true),
            CorpusKind::Conversations => {
                meta["special_tokens"] = json!(self.tokenizer.special_tokens());
            }
        }
        meta
    }

    /// Reads and validates the content of meta.json.
    pub fn from_json(meta: &JsonObject) -> Result<Self> {
        let size = |key| Ok::<usize, anyhow::Error>(meta.integer(key)?.try_into()?);
        let config = ModelConfig {
            n_embd: size("n_embd")?,
            n_head: size("n_head")?,
            n_layer: size("n_layer")?,
            block_size: size("block_size")?,
        };
        config.validate()?;
        let chars = meta
            .strings("chars")?
            .into_iter()
            .map(|text| match text.chars().collect::<Vec<_>>()[..] {
                [c] => Ok(c),
                _ => bail!("chars must hold single characters, got {text:?}"),
            })
            .collect::<Result<Vec<char>>>()?;
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
        let mut tokenizer = Tokenizer::new(chars, kind)?;
        if has_system {
            tokenizer = tokenizer.with_system();
        }
        let vocab_size = size("vocab_size")?;
        ensure!(
            vocab_size == tokenizer.vocab_size(),
            "vocab_size is {vocab_size}, but {} characters and {} special tokens make {}",
            tokenizer.chars().len(),
            tokenizer.vocab_size() - tokenizer.chars().len(),
            tokenizer.vocab_size()
        );
        config.parameters(vocab_size)?;
        Ok(Self { config, tokenizer })
    }
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
        ModelMeta::from_json(&JsonObject::parse(meta.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn round_trip_ignores_unknown_keys() {
        let meta = read(|meta| meta["author"] = json!("somebody")).unwrap();
        assert_eq!(meta.config, ModelConfig::default());
        assert_eq!(meta.tokenizer.chars(), ['a', 'b']);
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
