//! From a model to text: samples, and what every text that a model makes has in common.

use std::sync::{Arc, OnceLock};

use anyhow::{Result, bail};

use super::sequence::{Grammar, Sequence};
use super::{Prefix, Sampler, SamplingOptions};
use crate::data::{CorpusKind, Message, Role, Tokenizer};
use crate::infer::{InferenceGpt, Workspace};

/// The options of generation. A sample depends on them, the model and its index alone.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    pub sampling: SamplingOptions,
    pub seed: u64,
    /// The most tokens to sample. The context sets another limit, or, for a model of a continuous
    /// text, [`DEFAULT_CONTINUOUS_TOKENS`](super::DEFAULT_CONTINUOUS_TOKENS) does unless this is given.
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

/// A generated document, passage or conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    /// A text model's document, the prompt included.
    Text(String),
    /// A passage of a continuous text, the prompt included.
    Passage(String),
    /// A chat model's conversation.
    Conversation(Vec<Message>),
}

/// Makes samples of one model, on any number of threads.
pub struct Generator {
    model: Arc<InferenceGpt>,
    options: GenerateOptions,
    prompt: Vec<u32>,
    prefix: OnceLock<Arc<Prefix>>,
}

impl Generator {
    /// Errors where the prompt has characters that the model doesn't know, or doesn't fit the
    /// context, and where an option is out of range.
    pub fn new(model: Arc<InferenceGpt>, options: GenerateOptions) -> Result<Self> {
        options.sampling.validate()?;
        let tokenizer = &model.meta().tokenizer;
        let unknown = tokenizer.unknown_chars([options.prompt.as_str()].into_iter());
        if !unknown.is_empty() {
            bail!(
                "the prompt has characters that the model doesn't know: {}",
                list_chars(&unknown)
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

    /// The text of this index, still to be made. It depends on the model, the options and the index
    /// alone.
    pub fn text(&self, index: u64) -> Sequence {
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
            let weights = |logits: &[f64]| self.text(0).weigh(logits).to_vec();
            Arc::new(Prefix::new(&self.model, &self.prompt, weights))
        };
        fits.then(|| Arc::clone(self.prefix.get_or_init(prefix)))
    }

    /// Decodes the sampled tokens to a sample.
    pub fn sample_of(&self, sampled: &[u32]) -> Sample {
        let tokenizer = &self.model.meta().tokenizer;
        match tokenizer.kind() {
            CorpusKind::Conversations => {
                read_conversation(tokenizer, &[&self.prompt[..], sampled].concat())
            }
            CorpusKind::Continuous => {
                Sample::Passage(self.options.prompt.clone() + &self.chars(sampled))
            }
            CorpusKind::Documents => {
                Sample::Text(self.options.prompt.clone() + &self.chars(sampled))
            }
        }
    }

    /// The characters among some tokens.
    pub fn chars(&self, tokens: &[u32]) -> String {
        let tokenizer = &self.model.meta().tokenizer;
        let chars = tokens.iter().filter_map(|&token| tokenizer.char_of(token));
        chars.collect()
    }

    /// The sample of this index.
    pub fn sample(&self, index: u64) -> Sample {
        let mut text = self.text(index);
        let (mut stream, mut room) = (self.model.new_cache(), Workspace::default());
        text.run(&self.model, &mut stream, &mut room, |_| true);
        self.sample_of(text.sampled())
    }
}

/// Characters as a message lists them.
pub fn list_chars(chars: &[char]) -> String {
    let mut list: Vec<String> = chars.iter().take(20).map(|c| format!("{c:?}")).collect();
    if chars.len() > list.len() {
        list.push(format!("and {} more", chars.len() - list.len()));
    }
    list.join(", ")
}

/// A conversation from its tokens.
pub fn read_conversation(tokenizer: &Tokenizer, tokens: &[u32]) -> Sample {
    let chat = tokenizer.chat_tokens().expect("it is a chat model's");
    let mut messages: Vec<Message> = Vec::new();
    for &token in tokens {
        if token == chat.user {
            messages.push(Message::new(Role::User, ""));
        } else if token == chat.assistant {
            messages.push(Message::new(Role::Assistant, ""));
        } else if let (Some(c), Some(message)) = (tokenizer.char_of(token), messages.last_mut()) {
            message.content.push(c);
        }
    }
    Sample::Conversation(messages)
}
