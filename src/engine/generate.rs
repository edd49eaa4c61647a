//! Samples: the sequences of a prompt, and their text.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail};

use super::pattern::Pattern;
use super::prefix_cache::Prefix;
use super::sequence::{Grammar, Limits, Sequence};
use super::stop::StopMatcher;
use super::{Sampler, SamplingOptions};
use crate::data::{CorpusKind, Message, Tokenizer, quote_chars};
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
    /// No sample ends before so many tokens.
    pub min_tokens: usize,
    /// A regular expression that every whole sample, or reply, matches.
    pub pattern: Option<String>,
    /// Strings before which a sample ends.
    pub stop: Vec<String>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            sampling: SamplingOptions::default(),
            seed: 42,
            max_tokens: None,
            prompt: String::new(),
            min_tokens: 0,
            pattern: None,
            stop: Vec::new(),
        }
    }
}

impl GenerateOptions {
    /// The limits of up to `max_tokens` tokens after `prompt`, a part of the text that the pattern must
    /// match. Errors if no text of known characters is within them.
    pub fn limits(&self, tokenizer: &Tokenizer, max_tokens: usize, prompt: &str) -> Result<Limits> {
        let min_tokens = self.min_tokens;
        if min_tokens > max_tokens {
            bail!("at most {max_tokens} tokens fit after the prompt, not {min_tokens}");
        }
        let state = |expression: &String| -> Result<_> {
            let pattern = Pattern::new(expression, tokenizer, max_tokens)
                .with_context(|| format!("cannot use the pattern {expression:?}"))?;
            let mut tokens = tokenizer.encode(prompt).into_iter();
            let state =
                tokens.try_fold(Pattern::START, |state, token| pattern.advance(state, token));
            match state {
                Some(state) if pattern.can_complete(state, min_tokens..=max_tokens) => {
                    Ok((Arc::new(pattern), state))
                }
                _ => bail!(
                    "no text of the model's characters matches the pattern {expression:?}{} within \
                    {min_tokens} to {max_tokens} tokens",
                    match prompt {
                        "" => String::new(),
                        prompt => format!(" after {prompt:?}"),
                    }
                ),
            }
        };
        Ok(Limits {
            max_tokens,
            min_tokens,
            pattern: self.pattern.as_ref().map(state).transpose()?,
            stop: StopMatcher::new(&self.stop, tokenizer),
        })
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
    /// The number of tokens before those of the caller.
    start_tokens: usize,
    /// Samples are whole conversations of a chat model.
    is_conversation: bool,
    limits: Limits,
    prefix: OnceLock<Arc<Prefix>>,
}

impl Generator {
    /// The samples that continue the prompt of the options. Errors if the prompt has unknown characters
    /// or exceeds the context, or if an option is out of range.
    pub fn new(model: Arc<InferenceGpt>, options: GenerateOptions) -> Result<Self> {
        let tokenizer = &model.meta().tokenizer;
        if tokenizer.chat_tokens().is_some() && options.pattern.is_some() {
            bail!("a pattern is for a text or a reply, not for the conversations of a chat model");
        }
        let mut start = start_tokens(tokenizer, &options.prompt);
        if let Some(chat) = tokenizer.chat_tokens()
            && !options.prompt.is_empty()
        {
            start.push(chat.user);
        }
        let prompt = encode(tokenizer, &options.prompt)?;
        let is_conversation = tokenizer.kind() == CorpusKind::Conversations;
        Self::with_prompt(model, options, start, prompt, is_conversation)
    }

    /// The texts that continue the prompt of the options, also from a chat model, whose roles and turns
    /// are left to the prompt's characters. Errors as [`Self::new`].
    pub fn for_completion(model: Arc<InferenceGpt>, options: GenerateOptions) -> Result<Self> {
        let tokenizer = &model.meta().tokenizer;
        let start = start_tokens(tokenizer, &options.prompt);
        let prompt = encode(tokenizer, &options.prompt)?;
        Self::with_prompt(model, options, start, prompt, false)
    }

    /// The texts that continue tokens, as they are. Errors if a token is not in the vocabulary, and as
    /// [`Self::new`].
    pub fn for_tokens(
        model: Arc<InferenceGpt>,
        options: GenerateOptions,
        tokens: &[u32],
    ) -> Result<Self> {
        let tokenizer = &model.meta().tokenizer;
        let vocab_size = tokenizer.vocab_size();
        if let Some(unknown) = tokens.iter().find(|token| **token as usize >= vocab_size) {
            bail!("the prompt has the token {unknown}, but the vocabulary has {vocab_size}");
        }
        let start = match tokens {
            [] => vec![tokenizer.start_token()],
            _ => Vec::new(),
        };
        let options = GenerateOptions {
            prompt: tokenizer.decode(tokens),
            ..options
        };
        Self::with_prompt(model, options, start, tokens.to_vec(), false)
    }

    fn with_prompt(
        model: Arc<InferenceGpt>,
        options: GenerateOptions,
        mut start: Vec<u32>,
        prompt: Vec<u32>,
        is_conversation: bool,
    ) -> Result<Self> {
        let start_tokens = start.len();
        start.extend(prompt);
        let prompt = start;
        options.sampling.validate()?;
        let tokenizer = &model.meta().tokenizer;
        let context = model.meta().config.block_size;
        let is_continuous = tokenizer.kind() == CorpusKind::Continuous;
        if prompt.len() > context && !is_continuous {
            bail!(
                "the prompt takes {} tokens, more than the model's context of {context}",
                prompt.len()
            );
        }
        let max = options.max_tokens;
        let max_tokens = Limits::max_tokens(is_continuous, context, prompt.len(), max);
        let limits = options.limits(tokenizer, max_tokens, &options.prompt)?;
        Ok(Self {
            model,
            options,
            prompt,
            start_tokens,
            is_conversation,
            limits,
            prefix: OnceLock::new(),
        })
    }

    /// The number of tokens before those of the caller's prompt.
    pub fn start_tokens(&self) -> usize {
        self.start_tokens
    }

    /// The prompt's tokens.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    pub fn model(&self) -> &Arc<InferenceGpt> {
        &self.model
    }

    /// The sequence of the sample with this index, before its first step.
    pub fn sequence(&self, index: u64) -> Sequence {
        let tokenizer = &self.model.meta().tokenizer;
        let grammar = match (tokenizer.chat_tokens(), tokenizer.kind()) {
            (Some(chat), _) if self.is_conversation => Grammar::Conversation {
                chat,
                in_turn: self.prompt.len() > 1,
            },
            (Some(chat), _) => Grammar::Reply { chat },
            (None, CorpusKind::Continuous) => Grammar::Continuous {
                bos: tokenizer.bos(),
            },
            (None, _) => Grammar::Document {
                bos: tokenizer.bos(),
            },
        };
        let sampler = Sampler::new(self.options.sampling.clone(), self.options.seed, index);
        let context = self.model.meta().config.block_size;
        let (prompt, limits) = (self.prompt.clone(), self.limits.clone());
        Sequence::new(context, prompt, grammar, sampler, limits)
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
        if self.is_conversation {
            let tokens = [&self.prompt[..], sampled].concat();
            return Sample::Conversation(tokenizer.decode_conversation(&tokens));
        }
        Sample::Text(self.options.prompt.clone() + &tokenizer.decode(sampled))
    }

    /// Generates the sample with this index on this thread.
    pub fn sample(&self, index: u64) -> Sample {
        let mut sequence = self.sequence(index);
        let (mut cache, mut workspace) = (self.model.new_cache(), Workspace::default());
        sequence.decode(&self.model, &mut cache, &mut workspace, |_| true);
        self.decode(&sequence.sampled_before_stop())
    }
}

/// The tokens before a prompt: [`Tokenizer::start_token`], unless a continuous text has a prompt.
fn start_tokens(tokenizer: &Tokenizer, prompt: &str) -> Vec<u32> {
    match tokenizer.kind() {
        CorpusKind::Continuous if !prompt.is_empty() => Vec::new(),
        _ => vec![tokenizer.start_token()],
    }
}

/// Encodes a prompt. Errors name its unknown characters.
fn encode(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    let unknown = tokenizer.unknown_chars([prompt].into_iter());
    if !unknown.is_empty() {
        bail!(
            "the prompt has characters that the model doesn't know: {}",
            quote_chars(&unknown)
        );
    }
    Ok(tokenizer.encode(prompt))
}
