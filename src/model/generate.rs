//! From a model to text: samples, and replies in a chat.

use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::{Decoder, InferenceGpt, Sampler, SamplingOptions};
use crate::data::{ChatTokens, Message, Role, Tokenizer, fit_prompt};

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
        let mut tokens = self.prompt.clone();
        let mut sampler = Sampler::new(self.options.sampling, self.options.seed, index);
        let limit = self.options.max_tokens.unwrap_or(usize::MAX);
        let mut decoder = self.model.decoder();
        continue_text(
            &mut decoder,
            &self.prompt,
            grammar,
            &mut sampler,
            limit,
            |token| {
                tokens.push(token);
                true
            },
        );
        read_sample(tokenizer, &tokens)
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

/// Which tokens may come next, so that what a model makes up can always be read.
enum Grammar {
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
/// token, returns false.
fn continue_text(
    decoder: &mut Decoder,
    prompt: &[u32],
    mut grammar: Grammar,
    sampler: &mut Sampler,
    limit: usize,
    mut visit: impl FnMut(u32) -> bool,
) {
    let limit = limit.min(decoder.context() + 1 - prompt.len());
    let (&last, rest) = prompt[decoder.length()..]
        .split_last()
        .expect("the prompt's last token is always fed");
    for &token in rest {
        decoder.feed(token);
    }
    let mut token = last;
    for _ in 0..limit {
        token = sampler.sample(decoder.feed(token), |token| grammar.allows(token));
        if !visit(token) || !grammar.goes_on_after(token) {
            break;
        }
    }
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

/// What a model answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub content: String,
    /// How many of the conversation's tokens were dropped to fit the context.
    pub tokens_dropped: usize,
}

/// A chat with one model, which remembers what it has read already.
pub struct Chat<'a> {
    decoder: Decoder<'a>,
    tokenizer: &'a Tokenizer,
    tokens: ChatTokens,
    /// What the decoder has been fed.
    seen: Vec<u32>,
}

impl<'a> Chat<'a> {
    /// Errors for a model that was not trained on conversations.
    pub fn new(model: &'a InferenceGpt) -> Result<Self> {
        let tokenizer = &model.meta().tokenizer;
        let tokens = tokenizer.chat_tokens().context(
            "this model was trained on text, not on conversations; train one with \
                `microgpt train --chat`",
        )?;
        let context = model.meta().config.block_size;
        if context < 3 {
            bail!("the model's context of {context} tokens is too short to chat");
        }
        Ok(Self {
            decoder: model.decoder(),
            tokenizer,
            tokens,
            seen: Vec::new(),
        })
    }

    /// The model's reply to a conversation, which may fill three quarters of the context. `visit`
    /// sees each character as it is made, and ends the reply by returning false. `index` numbers
    /// the replies that are to be independent.
    pub fn reply(
        &mut self,
        messages: &[Message],
        options: &GenerateOptions,
        index: u64,
        mut visit: impl FnMut(char) -> bool,
    ) -> Reply {
        let context = self.decoder.context();
        let prompt = fit_prompt(self.tokenizer, self.tokens, messages, context * 3 / 4);
        // The prompt's last token is fed in any case: its logits are needed.
        let known = self
            .seen
            .iter()
            .zip(&prompt.tokens)
            .take_while(|(a, b)| a == b)
            .count();
        self.decoder.truncate(known.min(prompt.tokens.len() - 1));

        let mut sampler = Sampler::new(options.sampling, options.seed, index);
        let limit = options.max_tokens.unwrap_or(usize::MAX);
        let mut sampled = Vec::new();
        let mut content = String::new();
        let grammar = Grammar::Reply { chat: self.tokens };
        continue_text(
            &mut self.decoder,
            &prompt.tokens,
            grammar,
            &mut sampler,
            limit,
            |token| {
                sampled.push(token);
                match self.tokenizer.char_of(token) {
                    Some(c) => {
                        content.push(c);
                        visit(c)
                    }
                    None => true,
                }
            },
        );
        self.seen = prompt.tokens;
        self.seen.extend(sampled);
        self.seen.truncate(self.decoder.length());
        Reply {
            content,
            tokens_dropped: prompt.dropped,
        }
    }
}
