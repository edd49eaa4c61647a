//! A model's side of a conversation.

use anyhow::{Context, Result, bail};

use super::sequence::{FinishReason, Grammar, Sequence};
use super::{GenerateOptions, Sampler};
use crate::data::{ChatTokens, Message, chat_prompt};
use crate::infer::{InferenceGpt, SequenceCache, Workspace};

/// The reply of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub text: String,
    /// The number of tokens of the conversation that were dropped to fit the context.
    pub tokens_dropped: usize,
}

/// A reply that is still to be made.
pub struct PendingReply {
    pub text: Sequence,
    pub prompt_tokens: usize,
    pub tokens_dropped: usize,
}

/// The special tokens of a model that chats. Errors for a model that was not trained on
/// conversations, or has no room for one.
pub fn chat_tokens(model: &InferenceGpt) -> Result<ChatTokens> {
    let tokens = model.meta().tokenizer.chat_tokens().context(
        "this model was trained on text, not on conversations; train one with \
            `microgpt train --chat --output DIR`",
    )?;
    let context = model.meta().config.block_size;
    if context < 3 {
        bail!("the model's context of {context} tokens is too short to chat");
    }
    Ok(tokens)
}

impl PendingReply {
    /// A reply to a conversation, which may fill three quarters of the context. `index` numbers the
    /// replies that are to be independent. Errors as [`chat_tokens`].
    pub fn new(
        model: &InferenceGpt,
        messages: &[Message],
        options: &GenerateOptions,
        index: u64,
    ) -> Result<Self> {
        let chat = chat_tokens(model)?;
        let context = model.meta().config.block_size;
        let prompt = chat_prompt(&model.meta().tokenizer, chat, messages, context * 3 / 4);
        let sampler = Sampler::new(options.sampling, options.seed, index);
        let grammar = Grammar::Reply { chat };
        Ok(Self {
            prompt_tokens: prompt.tokens.len(),
            tokens_dropped: prompt.dropped,
            text: Sequence::new(context, prompt.tokens, grammar, sampler, options.max_tokens),
        })
    }
}

/// A chat with one model, which remembers what it has read already.
pub struct Chat<'a> {
    model: &'a InferenceGpt,
    stream: SequenceCache,
    room: Workspace,
    /// The tokens in the cache.
    seen: Vec<u32>,
}

impl<'a> Chat<'a> {
    /// Errors as [`chat_tokens`].
    pub fn new(model: &'a InferenceGpt) -> Result<Self> {
        chat_tokens(model)?;
        Ok(Self {
            model,
            stream: model.new_cache(),
            room: Workspace::default(),
            seen: Vec::new(),
        })
    }

    /// The model's reply to a conversation. `visit` sees each character as it is made, and ends the
    /// reply by returning false. Errors as [`chat_tokens`].
    pub fn reply(
        &mut self,
        messages: &[Message],
        options: &GenerateOptions,
        index: u64,
        mut visit: impl FnMut(char) -> bool,
    ) -> Result<Reply> {
        let mut reply = PendingReply::new(self.model, messages, options, index)?;
        let prompt = reply.text.tokens();
        let known = self.seen.iter().zip(prompt).take_while(|(a, b)| a == b);
        // The prompt's last token is seen again in any case: its logits are needed.
        self.stream.truncate(known.count().min(prompt.len() - 1));
        let mut text = String::new();
        let take = |token| match self.model.meta().tokenizer.char_of(token) {
            Some(c) => {
                text.push(c);
                visit(c)
            }
            None => true,
        };
        let _: FinishReason = reply
            .text
            .run(self.model, &mut self.stream, &mut self.room, take);
        self.seen.clear();
        self.seen
            .extend_from_slice(&reply.text.tokens()[..self.stream.length()]);
        Ok(Reply {
            text,
            tokens_dropped: reply.tokens_dropped,
        })
    }
}
