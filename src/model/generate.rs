//! From a model to text: samples, and what every text that a model makes has in common.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::{Decoder, InferenceGpt, Sampler, SamplingOptions};
use crate::data::{ChatTokens, Message, Role, Tokenizer};

/// What a sample depends on, beside the model and its own index.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    pub sampling: SamplingOptions,
    pub seed: u64,
    /// The most tokens to sample; the context sets another limit.
    pub max_tokens: Option<usize>,
    /// What every sample begins with. For a chat model, the beginning of the user's first message.
    pub prompt: String,
}

/// What a model makes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    /// A text model's document, the prompt included.
    Text(String),
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
        let mut prompt = vec![tokenizer.bos()];
        if let Some(chat) = tokenizer.chat_tokens()
            && !options.prompt.is_empty()
        {
            prompt.push(chat.user);
        }
        prompt.extend(tokenizer.encode(&options.prompt));
        let context = model.meta().config.block_size;
        if prompt.len() > context {
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
        let mut tokens = self.prompt.clone();
        let (sampled, _) = self.generate(index, |token| {
            tokens.push(token);
            true
        });
        (read_sample(&self.model.meta().tokenizer, &tokens), sampled)
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
        let grammar = match tokenizer.chat_tokens() {
            None => Grammar::Document {
                bos: tokenizer.bos(),
            },
            Some(chat) => Grammar::Conversation {
                chat,
                in_turn: self.prompt.len() > 1,
            },
        };
        let mut sampler = Sampler::new(self.options.sampling, self.options.seed, index);
        let limit = self.options.max_tokens.unwrap_or(usize::MAX);
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
    /// Turns up to `bos`: a role, characters, `end_turn`.
    Conversation { chat: ChatTokens, in_turn: bool },
    /// Characters up to `end_turn`; `bos`, `user` and `assistant` never.
    Reply { chat: ChatTokens },
}

impl Grammar {
    fn allows(&self, token: u32) -> bool {
        match self {
            Grammar::Document { .. } => true,
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
pub(super) fn continue_text(
    decoder: &mut Decoder,
    prompt: &[u32],
    mut grammar: Grammar,
    sampler: &mut Sampler,
    limit: usize,
    mut visit: impl FnMut(u32) -> bool,
) -> (usize, Finish) {
    let limit = limit.min(decoder.context() + 1 - prompt.len());
    let (&last, rest) = prompt[decoder.length()..]
        .split_last()
        .expect("the prompt's last token is always fed");
    for &token in rest {
        decoder.feed(token);
    }
    let mut token = last;
    for count in 1..=limit {
        token = sampler.sample(decoder.feed(token), |token| grammar.allows(token));
        if !visit(token) || !grammar.goes_on_after(token) {
            return (count, Finish::Stop);
        }
    }
    (limit, Finish::Length)
}

/// A sample from its tokens, of which the first is `bos`.
fn read_sample(tokenizer: &Tokenizer, tokens: &[u32]) -> Sample {
    let Some(chat) = tokenizer.chat_tokens() else {
        return Sample::Text(
            tokens
                .iter()
                .filter_map(|&token| tokenizer.char_of(token))
                .collect(),
        );
    };
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
