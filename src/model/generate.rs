//! From a model to text: samples, and what every text that a model makes has in common.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::{Decoder, InferenceGpt, Sampler, SamplingOptions};
use crate::data::{ChatTokens, Kind, Message, Role, Tokenizer};

/// How many tokens a sample of a continuous text has unless somebody says otherwise.
pub const CONTINUOUS_TOKENS: usize = 500;

/// What a sample depends on, beside the model and its own index.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    pub sampling: SamplingOptions,
    pub seed: u64,
    /// The most tokens to sample. The context sets another limit, or, for a model of a continuous
    /// text, [`CONTINUOUS_TOKENS`] does unless this is given.
    pub max_tokens: Option<usize>,
    /// What every sample begins with. For a chat model, the beginning of the user's first message.
    pub prompt: String,
}

/// What a model makes up.
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
}

impl Generator {
    /// Errors where the prompt has characters that the model doesn't know, or doesn't fit the
    /// context, and where an option is out of range.
    pub fn new(model: Arc<InferenceGpt>, options: GenerateOptions) -> Result<Self> {
        options.sampling.validate()?;
        let tokenizer = &model.meta().tokenizer;
        let unknown = tokenizer.unknown([options.prompt.as_str()].into_iter());
        if !unknown.is_empty() {
            bail!(
                "the prompt has characters that the model doesn't know: {}",
                list_chars(&unknown)
            );
        }
        let continuous = tokenizer.kind() == Kind::Continuous;
        let mut prompt = Vec::new();
        if !continuous || options.prompt.is_empty() {
            prompt.push(tokenizer.beginning());
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
        })
    }

    /// The sample of this index. It depends on the model, the options and the index alone.
    pub fn sample(&self, index: u64) -> Sample {
        self.counted_sample(index).0
    }

    /// The sample of this index, and how many tokens were sampled for it.
    pub fn counted_sample(&self, index: u64) -> (Sample, usize) {
        let tokenizer = &self.model.meta().tokenizer;
        let mut tokens = Vec::new();
        let (sampled, _) = self.generate(index, |token| {
            tokens.push(token);
            true
        });
        let sample = match tokenizer.kind() {
            Kind::Conversations => {
                read_conversation(tokenizer, &[&self.prompt[..], &tokens].concat())
            }
            kind => {
                let text = tokens.iter().filter_map(|&token| tokenizer.char_of(token));
                let text = self.options.prompt.chars().chain(text).collect();
                match kind {
                    Kind::Continuous => Sample::Passage(text),
                    _ => Sample::Text(text),
                }
            }
        };
        (sample, sampled)
    }

    /// How many tokens the model is given before it samples any.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.len()
    }

    /// The characters that the sample of this index adds to the prompt. `visit` sees each as it is
    /// made, and ends the text by returning false.
    pub fn continuation(&self, index: u64, mut visit: impl FnMut(char) -> bool) -> Generated {
        let tokenizer = &self.model.meta().tokenizer;
        let mut text = String::new();
        let (tokens, finish) = self.generate(index, |token| match tokenizer.char_of(token) {
            Some(c) => {
                text.push(c);
                visit(c)
            }
            None => true,
        });
        Generated {
            text,
            prompt_tokens: self.prompt.len(),
            tokens,
            finish,
        }
    }

    /// Samples tokens after the prompt; gives how many there were and why they ended.
    fn generate(&self, index: u64, visit: impl FnMut(u32) -> bool) -> (usize, Finish) {
        let tokenizer = &self.model.meta().tokenizer;
        let mut limit = self.options.max_tokens.unwrap_or(usize::MAX);
        let grammar = match tokenizer.chat_tokens() {
            Some(chat) => Grammar::Conversation {
                chat,
                in_turn: self.prompt.len() > 1,
            },
            None if tokenizer.kind() == Kind::Continuous => {
                limit = self.options.max_tokens.unwrap_or(CONTINUOUS_TOKENS);
                Grammar::Continuous {
                    bos: tokenizer.bos(),
                }
            }
            None => Grammar::Document {
                bos: tokenizer.bos(),
            },
        };
        let mut sampler = Sampler::new(self.options.sampling, self.options.seed, index);
        let mut decoder = self.model.decoder();
        let decoder = &mut decoder;
        continue_text(decoder, &self.prompt, grammar, &mut sampler, limit, visit)
    }
}

/// Text that a model has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    pub text: String,
    /// How many tokens the model was given.
    pub prompt_tokens: usize,
    /// How many it sampled, the closing one included.
    pub tokens: usize,
    pub finish: Finish,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or whoever reads it did.
    Stop,
    /// There was no room for more: in the context, or in the number of tokens asked for.
    Length,
}

/// Characters as a message lists them.
pub fn list_chars(chars: &[char]) -> String {
    let mut list: Vec<String> = chars.iter().take(20).map(|c| format!("{c:?}")).collect();
    if chars.len() > list.len() {
        list.push(format!("and {} more", chars.len() - list.len()));
    }
    list.join(", ")
}

/// Which tokens may come next, so that what a model makes up can always be read.
pub(super) enum Grammar {
    /// Characters up to `bos`.
    Document { bos: u32 },
    /// Characters without end; `bos` never.
    Continuous { bos: u32 },
    /// Turns up to `bos`: a role, characters, `end_turn`.
    Conversation { chat: ChatTokens, in_turn: bool },
    /// Characters up to `end_turn`; `bos`, `user` and `assistant` never.
    Reply { chat: ChatTokens },
}

impl Grammar {
    fn allows(&self, token: u32) -> bool {
        match self {
            Grammar::Document { .. } => true,
            Grammar::Continuous { bos } => token != *bos,
            Grammar::Conversation {
                chat,
                in_turn: false,
            } => token >= chat.user && token != chat.end_turn,
            Grammar::Conversation {
                chat,
                in_turn: true,
            }
            | Grammar::Reply { chat } => token < chat.user || token == chat.end_turn,
        }
    }

    /// Takes a token, and says whether the text goes on after it.
    fn goes_on_after(&mut self, token: u32) -> bool {
        match self {
            Grammar::Document { bos } => token != *bos,
            Grammar::Continuous { .. } => true,
            Grammar::Reply { chat } => token != chat.end_turn,
            Grammar::Conversation { chat, in_turn } => {
                *in_turn = token != chat.end_turn;
                token <= chat.end_turn
            }
        }
    }
}

/// Feeds the prompt, of which the decoder may have seen the beginning, then samples: up to `limit`
/// tokens, to the end of the context, until the grammar says so, or until `visit`, which gets each
/// token, returns false. Gives how many were sampled, and why no more were.
///
/// A continuous text does not end with the context: whenever that is full, its first half is
/// forgotten.
pub(super) fn continue_text(
    decoder: &mut Decoder,
    prompt: &[u32],
    mut grammar: Grammar,
    sampler: &mut Sampler,
    mut limit: usize,
    mut visit: impl FnMut(u32) -> bool,
) -> (usize, Finish) {
    let context = decoder.context();
    let mut text = prompt.to_vec();
    if !matches!(grammar, Grammar::Continuous { .. }) {
        limit = limit.min(context + 1 - prompt.len());
    }
    for count in 1..=limit {
        if text.len() > context {
            slide(decoder, &mut text);
        }
        let (&last, rest) = text[decoder.length()..]
            .split_last()
            .expect("the text's last token was not fed yet");
        for &token in rest {
            decoder.feed(token);
        }
        let token = sampler.sample(decoder.feed(last), |token| grammar.allows(token));
        text.push(token);
        if !visit(token) || !grammar.goes_on_after(token) {
            return (count, Finish::Stop);
        }
    }
    (limit, Finish::Length)
}

/// Forgets all of a text but the second half of what the context holds.
fn slide(decoder: &mut Decoder, text: &mut Vec<u32>) {
    let kept = decoder.context().div_ceil(2);
    text.drain(..text.len() - kept);
    decoder.truncate(0);
}

/// A conversation from its tokens.
fn read_conversation(tokenizer: &Tokenizer, tokens: &[u32]) -> Sample {
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
