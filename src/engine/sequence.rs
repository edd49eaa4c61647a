//! A sequence in progress: its tokens, the tokens that may come next, and its end.

use std::sync::Arc;

use super::logprobs::TokenLogprob;
use super::pattern::{Pattern, PatternState};
use super::sampler::{Distribution, History, Sampler};
use super::stop::StopMatcher;
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

    /// Returns whether the sequence ends after a token.
    fn is_end(&self, token: u32) -> bool {
        match self {
            Grammar::Document { bos } => token == *bos,
            Grammar::Continuous { .. } => false,
            Grammar::Reply { chat } => token == chat.end_turn,
            Grammar::Conversation { chat, .. } => token > chat.end_turn,
        }
    }

    /// Takes a token.
    fn advance(&mut self, token: u32) {
        if let Grammar::Conversation { chat, in_turn } = self {
            *in_turn = token != chat.end_turn;
        }
    }
}

/// The limits of the generated tokens.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    pub max_tokens: usize,
    /// No end before so many tokens.
    pub min_tokens: usize,
    /// The expression that the text must match, and its state after the prompt.
    pub pattern: Option<(Arc<Pattern>, PatternState)>,
    /// Strings that end the sequence.
    pub stop: Option<StopMatcher>,
}

impl Limits {
    /// The maximum number of tokens after a prompt: `max_tokens` or the rest of the context; for
    /// continuous text, whose context moves along, [`DEFAULT_CONTINUOUS_TOKENS`] unless it is given.
    pub fn max_tokens(
        is_continuous: bool,
        context: usize,
        prompt: usize,
        max_tokens: Option<usize>,
    ) -> usize {
        match is_continuous {
            true => max_tokens.unwrap_or(DEFAULT_CONTINUOUS_TOKENS),
            false => max_tokens.unwrap_or(usize::MAX).min(context + 1 - prompt),
        }
    }

    /// Returns whether a token may follow `sampled` generated ones.
    fn allow(&self, grammar: &Grammar, sampled: usize, token: u32) -> bool {
        if grammar.is_end(token) {
            let pattern = self.pattern.as_ref();
            let is_match = pattern.is_none_or(|(pattern, state)| pattern.is_match(*state));
            return is_match && sampled >= self.min_tokens;
        }
        let Some((pattern, state)) = &self.pattern else {
            return true;
        };
        let min = self.min_tokens.saturating_sub(sampled + 1);
        let lengths = min..=self.max_tokens.saturating_sub(sampled + 1);
        let next = pattern.advance(*state, token);
        next.is_some_and(|next| pattern.can_complete(next, lengths))
    }

    fn is_stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(StopMatcher::is_stopped)
    }

    fn advance(&mut self, token: u32) {
        if let Some((pattern, state)) = &mut self.pattern {
            // An end token leaves the state as it is.
            *state = pattern.advance(*state, token).unwrap_or(*state);
        }
        if let Some(stop) = &mut self.stop {
            stop.push(token);
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
    limits: Limits,
    recorder: Option<Recorder>,
}

/// The log-probabilities of the sampled tokens.
struct Recorder {
    top_count: usize,
    /// The logits of the next token, `[V]`.
    logits: Vec<f64>,
    logprobs: Vec<TokenLogprob>,
}

impl Sequence {
    /// A sequence that continues a prompt until the grammar or a limit ends it. Whenever the context of a
    /// continuous text is full, its first half is dropped.
    pub fn new(
        context: usize,
        prompt: Vec<u32>,
        grammar: Grammar,
        sampler: Sampler,
        limits: Limits,
    ) -> Self {
        Self {
            tokens: prompt,
            sampled: Vec::new(),
            context,
            grammar,
            sampler,
            limits,
            recorder: None,
        }
    }

    /// Records the log-probability of every sampled token, beside the `top_count` most likely ones.
    pub fn record_logprobs(&mut self, top_count: usize) {
        self.recorder = Some(Recorder {
            top_count,
            logits: Vec::new(),
            logprobs: Vec::new(),
        });
    }

    /// The log-probabilities of the sampled tokens, if they are recorded.
    pub fn into_logprobs(self) -> Vec<TokenLogprob> {
        self.recorder
            .map_or_else(Vec::new, |recorder| recorder.logprobs)
    }

    /// The tokens that were sampled.
    pub fn sampled(&self) -> &[u32] {
        &self.sampled
    }

    /// The sampled tokens up to a stop sequence, if there is one.
    pub fn sampled_before_stop(&self) -> Vec<u32> {
        let mut tokens = self.sampled.clone();
        if let Some(stop) = &self.limits.stop {
            stop.truncate(&mut tokens);
        }
        tokens
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
        let Self {
            grammar,
            limits,
            sampler,
            sampled,
            recorder,
            ..
        } = self;
        if let Some(recorder) = recorder {
            recorder.logits.clear();
            recorder.logits.extend_from_slice(logits);
        }
        let history = History {
            context: &self.tokens,
            generated: sampled,
        };
        let allows = |token| grammar.allows(token) && limits.allow(grammar, sampled.len(), token);
        sampler.distribution(logits, history, allows, row)
    }

    /// Returns whether no token can extend the match of a pattern in a text that has no end token.
    fn is_complete(&self) -> bool {
        let Some((pattern, state)) = &self.limits.pattern else {
            return false;
        };
        let rest = self.limits.max_tokens - self.sampled.len();
        matches!(self.grammar, Grammar::Continuous { .. })
            && !pattern.can_complete(*state, 1..=rest)
    }

    /// Samples the next token. `visit` gets it, with its log-probability if that is recorded, and ends the
    /// sequence by returning false. Returns the reason if the sequence ended.
    pub fn advance(
        &mut self,
        next: Distribution,
        visit: impl FnOnce(u32, Option<&TokenLogprob>) -> bool,
    ) -> Option<FinishReason> {
        if self.sampled.len() == self.limits.max_tokens {
            return Some(FinishReason::Length);
        }
        if self.is_complete() {
            return Some(FinishReason::Stop);
        }
        let token = self.sampler.sample(next);
        self.tokens.push(token);
        self.sampled.push(token);
        self.grammar.advance(token);
        self.limits.advance(token);
        let logprob = self.recorder.as_mut().map(|recorder| {
            let logprob = TokenLogprob::new(&recorder.logits, token, recorder.top_count);
            recorder.logprobs.push(logprob);
            &recorder.logprobs[recorder.logprobs.len() - 1]
        });
        if !visit(token, logprob) || self.grammar.is_end(token) || self.limits.is_stopped() {
            return Some(FinishReason::Stop);
        }
        (self.sampled.len() == self.limits.max_tokens).then_some(FinishReason::Length)
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
            if let Some(finish) = self.advance(next, |token, _| visit(token)) {
                return finish;
            }
        }
    }
}
