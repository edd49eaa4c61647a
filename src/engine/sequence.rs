//! A sequence in progress: its tokens, the tokens that may come next, and its end.

use super::{Distribution, Sampler};
use crate::data::ChatTokens;
use crate::infer::{Chunk, InferenceGpt, SequenceCache, Workspace};

/// The default number of tokens of a sample of continuous text.
pub const DEFAULT_CONTINUOUS_TOKENS: usize = 500;

/// The reason for which a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model or the caller ended it.
    Stop,
    /// It reached the end of the context or the maximum number of tokens.
    Length,
}

/// The tokens that may come next, so that every sample is well-formed.
#[derive(Debug)]
pub enum Grammar {
    /// Characters up to `bos`.
    Document { bos: u32 },
    /// Characters without end; never `bos`.
    Continuous { bos: u32 },
    /// Messages up to `bos`: a role, characters, `end_turn`.
    Conversation { chat: ChatTokens, in_turn: bool },
    /// Characters up to `end_turn`; never `bos`, `user` or `assistant`.
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

    /// Takes a token. Returns whether the sequence continues after it.
    fn continues_after(&mut self, token: u32) -> bool {
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

/// A sequence in progress.
pub struct Sequence {
    /// The prompt and the sampled tokens, as far as they are in the context.
    tokens: Vec<u32>,
    sampled: Vec<u32>,
    context: usize,
    grammar: Grammar,
    sampler: Sampler,
    max_tokens: usize,
}

impl Sequence {
    /// A sequence that continues a prompt for up to `max_tokens` tokens, to the end of the context, or
    /// until the grammar ends it.
    ///
    /// A continuous text does not end with the context: whenever that is full, its first half is
    /// dropped. It has [`DEFAULT_CONTINUOUS_TOKENS`] if `max_tokens` is none.
    pub fn new(
        context: usize,
        prompt: Vec<u32>,
        grammar: Grammar,
        sampler: Sampler,
        max_tokens: Option<usize>,
    ) -> Self {
        let max_tokens = match grammar {
            Grammar::Continuous { .. } => max_tokens.unwrap_or(DEFAULT_CONTINUOUS_TOKENS),
            _ => max_tokens
                .unwrap_or(usize::MAX)
                .min(context + 1 - prompt.len()),
        };
        Self {
            tokens: prompt,
            sampled: Vec::new(),
            context,
            grammar,
            sampler,
            max_tokens,
        }
    }

    /// The tokens that were sampled.
    pub fn sampled(&self) -> &[u32] {
        &self.sampled
    }

    /// The prompt and the sampled tokens, as far as they are in the context.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The last token.
    pub fn last(&self) -> u32 {
        self.tokens[self.tokens.len() - 1]
    }

    /// The tokens that the sequence's cache does not hold yet.
    pub fn uncached(&mut self, cache: &mut SequenceCache) -> &[u32] {
        if self.tokens.len() > self.context {
            // Positions are relative to the start of the context, so that the second half is
            // computed again.
            let kept = self.context.div_ceil(2);
            self.tokens.drain(..self.tokens.len() - kept);
            cache.truncate(0);
        }
        &self.tokens[cache.length()..]
    }

    /// Computes the distribution over the next token from its logits `[V]`, in the buffer `row`.
    pub fn distribution<'a>(&mut self, logits: &[f64], row: &'a mut Vec<f64>) -> Distribution<'a> {
        let grammar = &self.grammar;
        self.sampler
            .distribution(logits, |token| grammar.allows(token), row)
    }

    /// Samples the next token. `visit` gets it, and ends the sequence by returning false. Returns the
    /// reason if the sequence ended.
    pub fn advance(
        &mut self,
        next: Distribution,
        visit: impl FnOnce(u32) -> bool,
    ) -> Option<FinishReason> {
        if self.sampled.len() == self.max_tokens {
            return Some(FinishReason::Length);
        }
        let token = self.sampler.sample(next);
        self.tokens.push(token);
        self.sampled.push(token);
        if !visit(token) || !self.grammar.continues_after(token) {
            return Some(FinishReason::Stop);
        }
        (self.sampled.len() == self.max_tokens).then_some(FinishReason::Length)
    }

    /// Decodes the whole sequence by itself. `cache` may hold its first tokens. `visit` gets each token,
    /// and ends the sequence by returning false.
    pub fn decode(
        &mut self,
        model: &InferenceGpt,
        cache: &mut SequenceCache,
        workspace: &mut Workspace,
        mut visit: impl FnMut(u32) -> bool,
    ) -> FinishReason {
        let mut row = Vec::new();
        loop {
            let tokens = self.uncached(cache);
            let logits_from = tokens.len() - 1;
            let chunk = Chunk {
                cache,
                tokens,
                logits_from,
            };
            model.forward(workspace, &mut [chunk]);
            let next = self.distribution(workspace.logits(0), &mut row);
            if let Some(finish) = self.advance(next, &mut visit) {
                return finish;
            }
        }
    }
}
