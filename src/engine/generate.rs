//! Samples: the sequences of a prompt, and their text.

use std::sync::{Arc, OnceLock};

use anyhow::{Result, bail};

use super::prefix_cache::Prefix;
use super::sequence::{Grammar, Sequence};
use super::{Sampler, SamplingOptions};
use crate::data::{CorpusKind, Message, quote_chars};
use crate::infer::{InferenceGpt, Workspace};

/// The options of generation. A sample depends on them, the model and its index alone.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    pub sampling: SamplingOptions,
    pub seed: u64,
    /// The maximum number of tokens to sample. The context limits documents and conversations, too; for
    /// continuous text the default is [`DEFAULT_CONTINUOUS_TOKENS`](super::DEFAULT_CONTINUOUS_TOKENS).
    pub max_tokens: Option<usize>,
    /// The beginning of every sample. For a chat model, the beginning of the user's first message.
    pub prompt: String,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            sampling: SamplingOptions::default(),
            seed: 42,
            max_tokens: None,
            prompt: String::new(),
        }
    }
}

/// A generated text or conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    /// A document or a passage of continuous text, the prompt included.
    Text(String),
    /// A conversation of a chat model.
    Conversation(Vec<Message>),
}

/// The samples of one model and prompt. `Send + Sync`.
pub struct Generator {
    model: Arc<InferenceGpt>,
    options: GenerateOptions,
    prompt: Vec<u32>,
    prefix: OnceLock<Arc<Prefix>>,
}

impl Generator {
    /// Errors if the prompt has unknown characters or exceeds the context, or if an option is out of
    /// range.
    pub fn new(model: Arc<InferenceGpt>, options: GenerateOptions) -> Result<Self> {
        options.sampling.validate()?;
        let tokenizer = &model.meta().tokenizer;
        let unknown = tokenizer.unknown_chars([options.prompt.as_str()].into_iter());
        if !unknown.is_empty() {
            bail!(
                "the prompt has characters that the model doesn't know: {}",
                quote_chars(&unknown)
            );
        }
        let continuous = tokenizer.kind() == CorpusKind::Continuous;
        let mut prompt = Vec::new();
        if !continuous || options.prompt.is_empty() {
            prompt.push(tokenizer.start_token());
        }
        if let Some(chat) = tokenizer.chat_tokens()
            && !options.prompt.is_empty()
        {
            prompt.push(chat.user);
        }
        prompt.extend(tokenizer.encode(&options.prompt));
        let context = model.meta().config.block_size;
        if prompt.len() > context && !continuous {
            bail!(
                "the prompt takes {} tokens, more than the model's context of {context}",
                prompt.len()
            );
        }
        Ok(Self {
            model,
            options,
            prompt,
            prefix: OnceLock::new(),
        })
    }

    pub fn model(&self) -> &InferenceGpt {
        &self.model
    }

    /// The number of tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.len()
    }

    /// The sequence of the sample with this index, before its first step.
    pub fn sequence(&self, index: u64) -> Sequence {
        let tokenizer = &self.model.meta().tokenizer;
        let grammar = match (tokenizer.chat_tokens(), tokenizer.kind()) {
            (Some(chat), _) => Grammar::Conversation {
                chat,
                in_turn: self.prompt.len() > 1,
            },
            (None, CorpusKind::Continuous) => Grammar::Continuous {
                bos: tokenizer.bos(),
            },
            (None, _) => Grammar::Document {
                bos: tokenizer.bos(),
            },
        };
        let sampler = Sampler::new(self.options.sampling, self.options.seed, index);
        let context = self.model.meta().config.block_size;
        let limit = self.options.max_tokens;
        Sequence::new(context, self.prompt.clone(), grammar, sampler, limit)
    }

    /// The prefilled prompt, which all samples share; none if the prompt of a continuous text exceeds
    /// the context.
    pub fn prefix(&self) -> Option<Arc<Prefix>> {
        let fits = self.prompt.len() <= self.model.meta().config.block_size;
        let prefix = || {
            let distribution = |logits: &[f64]| {
                let mut row = Vec::new();
                self.sequence(0).distribution(logits, &mut row);
                row
            };
            Arc::new(Prefix::new(&self.model, &self.prompt, distribution))
        };
        fits.then(|| Arc::clone(self.prefix.get_or_init(prefix)))
    }

    /// Decodes the sampled tokens to a sample.
    pub fn decode(&self, sampled: &[u32]) -> Sample {
        let tokenizer = &self.model.meta().tokenizer;
        match tokenizer.kind() {
            CorpusKind::Conversations => {
                let tokens = [&self.prompt[..], sampled].concat();
                Sample::Conversation(tokenizer.decode_conversation(&tokens))
            }
            CorpusKind::Documents | CorpusKind::Continuous => {
                Sample::Text(self.options.prompt.clone() + &tokenizer.decode(sampled))
            }
        }
    }

    /// Generates the sample with this index on this thread.
    pub fn sample(&self, index: u64) -> Sample {
        let mut sequence = self.sequence(index);
        let (mut cache, mut workspace) = (self.model.new_cache(), Workspace::default());
        sequence.decode(&self.model, &mut cache, &mut workspace, |_| true);
        self.decode(sequence.sampled())
    }
}
