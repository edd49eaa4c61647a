//! Replies to conversations.

use anyhow::{Context, Result, bail};

use super::sequence::{FinishReason, Grammar, Limits, Sequence};
use super::{GenerateOptions, Sampler};
use crate::data::{ChatTokens, Message, TextDecoder, chat_prompt};
use crate::infer::{InferenceGpt, SequenceCache, Workspace};

/// A reply of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub text: String,
    /// The number of tokens of the conversation that were dropped to fit the context.
    pub tokens_dropped: usize,
}

/// A reply before its first step.
pub struct PendingReply {
    pub sequence: Sequence,
    pub prompt_tokens: usize,
    pub tokens_dropped: usize,
}

/// The special tokens of a chat model. Errors if the model was not trained on conversations, or if its
/// context is too short for one.
pub fn chat_tokens(model: &InferenceGpt) -> Result<ChatTokens> {
    let tokens = model.meta().tokenizer.chat_tokens().context(
        "this model was trained on text, not on conversations; train one with \
            `microgpt train --chat --output DIR`",
    )?;
    let context = model.meta().config.block_size;
    if context < 3 {
        bail!("the model's context, {context}, is too short to chat");
    }
    Ok(tokens)
}

impl PendingReply {
    /// A reply to a conversation, which is truncated to three quarters of the context. Replies of
    /// different `index` have independent random numbers. Errors as [`chat_tokens`].
    pub fn new(
        model: &InferenceGpt,
        messages: &[Message],
        options: &GenerateOptions,
        index: u64,
    ) -> Result<Self> {
        let chat = chat_tokens(model)?;
        let context = model.meta().config.block_size;
        let prompt = chat_prompt(&model.meta().tokenizer, chat, messages, context * 3 / 4);
        let sampler = Sampler::new(options.sampling.clone(), options.seed, index);
        let grammar = Grammar::Reply { chat };
        let max_tokens =
            Limits::max_tokens(false, context, prompt.tokens.len(), options.max_tokens);
        let limits = options.limits(&model.meta().tokenizer, max_tokens, "")?;
        Ok(Self {
            prompt_tokens: prompt.tokens.len(),
            tokens_dropped: prompt.dropped,
            sequence: Sequence::new(context, prompt.tokens, grammar, sampler, limits),
        })
    }
}

/// A chat with one model, which keeps the KV cache of the conversation.
pub struct Chat<'a> {
    model: &'a InferenceGpt,
    cache: SequenceCache,
    workspace: Workspace,
    /// The tokens in the cache.
    cached: Vec<u32>,
}

impl<'a> Chat<'a> {
    /// Errors as [`chat_tokens`].
    pub fn new(model: &'a InferenceGpt) -> Result<Self> {
        chat_tokens(model)?;
        Ok(Self {
            model,
            cache: model.new_cache(),
            workspace: Workspace::default(),
            cached: Vec::new(),
        })
    }

    /// Replies to a conversation. `visit` gets the text of each token as it is generated, and ends the
    /// reply by returning false. Errors as [`chat_tokens`].
    pub fn reply(
        &mut self,
        messages: &[Message],
        options: &GenerateOptions,
        index: u64,
        mut visit: impl FnMut(&str) -> bool,
    ) -> Result<Reply> {
        let mut reply = PendingReply::new(self.model, messages, options, index)?;
        let prompt = reply.sequence.tokens();
        let common = self.cached.iter().zip(prompt).take_while(|(a, b)| a == b);
        // The prompt's last token is computed again in any case: its logits are needed.
        self.cache.truncate(common.count().min(prompt.len() - 1));
        let mut text = String::new();
        let mut decoder = TextDecoder::default();
        let mut take_text = |part: String| {
            text += &part;
            part.is_empty() || visit(&part)
        };
        let take = |token: u32| {
            let bytes = self.model.meta().tokenizer.bytes_of(token);
            bytes.is_none_or(|bytes| take_text(decoder.push(bytes)))
        };
        let _: FinishReason =
            reply
                .sequence
                .decode(self.model, &mut self.cache, &mut self.workspace, take);
        take_text(decoder.finish());
        self.cached.clear();
        let tokens = &reply.sequence.tokens()[..self.cache.length()];
        self.cached.extend_from_slice(tokens);
        Ok(Reply {
            text,
            tokens_dropped: reply.tokens_dropped,
        })
    }
}
