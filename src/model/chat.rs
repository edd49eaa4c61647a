//! A model's side of a conversation.

use anyhow::{Context, Result, bail};

use super::generate::{Grammar, continue_text};
use super::{Decoder, GenerateOptions, Generated, InferenceGpt, Sampler};
use crate::data::{ChatTokens, Message, Tokenizer, fit_prompt};

/// What a model answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub generated: Generated,
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
        let mut text = String::new();
        let grammar = Grammar::Reply { chat: self.tokens };
        let take = |token| {
            sampled.push(token);
            match self.tokenizer.char_of(token) {
                Some(c) => {
                    text.push(c);
                    visit(c)
                }
                None => true,
            }
        };
        let decoder = &mut self.decoder;
        let (tokens, finish) =
            continue_text(decoder, &prompt.tokens, grammar, &mut sampler, limit, take);
        let generated = Generated {
            text,
            prompt_tokens: prompt.tokens.len(),
            tokens,
            finish,
        };
        self.seen = prompt.tokens;
        self.seen.extend(sampled);
        self.seen.truncate(self.decoder.length());
        Reply {
            generated,
            tokens_dropped: prompt.dropped,
        }
    }
}
