//! Scores: the bits per token of a line under a model.

use std::borrow::Cow;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};

use super::prefix_cache::{Node, Prefix, PrefixCache};
use crate::data::{CorpusKind, Tokenizer, parse_conversation};
use crate::infer::{Chunk, InferenceGpt, MAX_BATCH, SequenceCache, Workspace};
use crate::kernels::softmax_f64::{neg_log2_prob, neg_log2_probs};

/// Tokens per forward pass: enough to share every read of the weights.
const MAX_PASS_TOKENS: usize = 256;

/// Tokens of a long line that a thread scores at a time: some 20 ms of a small model, beside which the
/// start of a thread is nothing. A line with more than that per thread is long.
const PART_TOKENS: usize = 16 << 10;

/// The scoring of a character that the model does not know. In each case the model does not see it:
/// the character after it is predicted from those before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UnknownCost {
    /// Scored with these bits, as one more predicted token.
    Bits(f64),
    /// Left out.
    Skip,
}

impl Default for UnknownCost {
    /// `-log2` of a probability of 2⁻¹⁰ that a character is unknown, spread over the 2²⁰ of Unicode.
    /// With it, the probabilities of all characters sum to 1 + 2⁻¹⁰. To normalize them would add the
    /// same 0.0014 bits to each predicted token, which changes no comparison.
    fn default() -> Self {
        Self::Bits(30.0)
    }
}

/// The options of a [`Scorer`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ScoreOptions {
    pub unknown: UnknownCost,
    /// Fill [`Score::token_bits`].
    pub keep_token_bits: bool,
    /// Threads that share a long line; none but the caller's if fewer than two.
    pub threads: usize,
}

/// The score of a line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// The sum of `-log2 p` over the predicted tokens.
    pub bits: f64,
    /// The number of predicted tokens: those of the text and the end.
    pub tokens: usize,
    /// The number of bytes that they stand for, one for each special token. It does not depend on the
    /// vocabulary.
    pub bytes: usize,
    /// The number of unknown characters.
    pub unknown: usize,
    /// The bits of each predicted token.
    pub token_bits: Vec<TokenBits>,
}

/// `-log2 p` of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenBits {
    /// As a tokenizer that [keeps unknown characters](Tokenizer::keeping_unknown) encodes it.
    pub token: u32,
    pub bits: f64,
}

/// The unit of text over which bits are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScoreUnit {
    #[default]
    Token,
    /// Comparable between models with different vocabularies.
    Byte,
}

impl Score {
    /// The mean bits of a unit of the line.
    pub fn bits_per(&self, unit: ScoreUnit) -> f64 {
        let count = match unit {
            ScoreUnit::Token => self.tokens,
            ScoreUnit::Byte => self.bytes,
        };
        // An empty line has no tokens if the vocabulary has no line break.
        self.bits / count.max(1) as f64
    }

    fn add(&mut self, token: u32, bits: f64, options: ScoreOptions) {
        self.bits += bits;
        self.tokens += 1;
        if options.keep_token_bits {
            self.token_bits.push(TokenBits { token, bits });
        }
    }
}

/// Scores lines with one model.
pub struct Scorer<'a> {
    model: &'a InferenceGpt,
    options: ScoreOptions,
    /// The model's, but keeps unknown characters.
    tokenizer: Tokenizer,
    buffers: Buffers,
    /// Those of the threads that share a long line.
    thread_buffers: Vec<Buffers>,
    /// The bits of each next token, `[V]`.
    prefix_cache: PrefixCache,
}

/// The buffers of one thread's forward passes.
#[derive(Default)]
struct Buffers {
    workspace: Workspace,
    /// One per window of a pass.
    caches: Vec<SequenceCache>,
}

/// A part of a line that fits the context.
pub(super) struct Window<'t> {
    line: usize,
    pub tokens: &'t [u32],
    /// The tokens to score: each follows one of `tokens`, up to the last.
    pub targets: &'t [u32],
    /// The prefix cache has no child of this node for the first token.
    missed: Option<Node>,
}

impl<'a> Scorer<'a> {
    pub fn new(model: &'a InferenceGpt, options: ScoreOptions) -> Self {
        let tokenizer = model.meta().tokenizer.clone().keeping_unknown();
        let prefix = Prefix::new(model, &[tokenizer.start_token()], neg_log2_probs);
        Self {
            model,
            options,
            tokenizer,
            buffers: Buffers::default(),
            thread_buffers: Vec::new(),
            prefix_cache: PrefixCache::new(model, Arc::new(prefix)),
        }
    }

    /// The tokenizer that decodes [`TokenBits::token`].
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Scores lines: documents, lines of a continuous text, or conversations, by the model's kind. Errors
    /// name a line that is not a conversation, counted from `first`.
    pub fn score(&mut self, lines: &[&str], first: usize) -> Result<Vec<Score>> {
        let encoded = lines.iter().enumerate().map(|(number, line)| {
            encode(&self.tokenizer, line).with_context(|| format!("line {}", first + number))
        });
        let encoded = encoded.collect::<Result<Vec<_>>>()?;
        let is_known = |&token: &u32| (token as usize) < self.tokenizer.vocab_size();
        let known = encoded.iter().map(|line| match line.iter().all(is_known) {
            true => Cow::Borrowed(&line[..]),
            false => line.iter().copied().filter(is_known).collect(),
        });
        let known: Vec<Cow<[u32]>> = known.collect();
        let slices: Vec<&[u32]> = known.iter().map(|line| &**line).collect();
        let mut scores = self.score_tokens(&slices);
        for ((score, line), known) in scores.iter_mut().zip(&encoded).zip(&known) {
            let bytes_of = |&id: &u32| self.tokenizer.bytes_of(id).map_or(1, <[u8]>::len);
            score.bytes = known.iter().skip(1).map(bytes_of).sum();
            if line.len() > known.len() {
                self.add_unknown(score, line);
            }
        }
        Ok(scores)
    }

    /// Adds the unknown characters of an encoded line to the score of the others.
    fn add_unknown(&self, score: &mut Score, line: &[u32]) {
        let vocab_size = self.tokenizer.vocab_size();
        let is_unknown = |&token: &u32| token as usize >= vocab_size;
        score.unknown = line.iter().copied().filter(is_unknown).count();
        let UnknownCost::Bits(bits) = self.options.unknown else {
            return;
        };
        score.bits += score.unknown as f64 * bits;
        score.tokens += score.unknown;
        let unknown = line
            .iter()
            .filter_map(|&id| self.tokenizer.unknown_char(id));
        score.bytes += unknown.map(char::len_utf8).sum::<usize>();
        if self.options.keep_token_bits {
            let mut known = std::mem::take(&mut score.token_bits).into_iter();
            let all = line[1..].iter().map(|&token| match is_unknown(&token) {
                true => TokenBits { token, bits },
                false => known.next().expect("each known token has bits"),
            });
            score.token_bits = all.collect();
        }
    }

    /// Scores encoded lines: all tokens of each but the first are predicted.
    pub fn score_tokens(&mut self, lines: &[&[u32]]) -> Vec<Score> {
        let mut scores = vec![Score::default(); lines.len()];
        let context = self.model.meta().config.block_size;
        let start = self.tokenizer.start_token();
        let (mut batch, mut size) = (Vec::new(), 0);
        for (line, tokens) in lines.iter().enumerate() {
            if self.options.threads > 1 && tokens.len() > self.options.threads * PART_TOKENS {
                self.score_long_line(tokens, &mut scores[line]);
                continue;
            }
            for (number, mut window) in windows(line, tokens, context).enumerate() {
                let cache = self.buffers.cache(self.model, batch.len());
                if number == 0 && tokens[0] == start {
                    let score = |token, bits| scores[line].add(token, bits, self.options);
                    window.look_up(&mut self.prefix_cache, cache, score);
                }
                if window.tokens.is_empty() {
                    continue;
                }
                size += window.tokens.len();
                batch.push(window);
                if size >= MAX_PASS_TOKENS || batch.len() == MAX_BATCH {
                    self.score_windows(&batch, &mut scores);
                    batch.clear();
                    size = 0;
                }
            }
        }
        self.score_windows(&batch, &mut scores);
        scores
    }

    /// Adds the bits of windows, each with its cache, to the scores of their lines.
    fn score_windows(&mut self, windows: &[Window], scores: &mut [Score]) {
        self.buffers.forward(self.model, windows);
        let Buffers { workspace, caches } = &mut self.buffers;
        let mut logits = workspace.all_logits();
        for (window, cache) in windows.iter().zip(&*caches) {
            let logits = logits.by_ref().take(window.targets.len());
            for (number, (logits, &token)) in logits.zip(window.targets).enumerate() {
                let bits = if number == 0
                    && let Some(node) = window.missed
                {
                    let bits = neg_log2_probs(logits);
                    let prefix_cache = &mut self.prefix_cache;
                    prefix_cache.insert(node, window.tokens[0], cache, &bits);
                    bits[token as usize]
                } else {
                    neg_log2_prob(logits, token)
                };
                scores[window.line].add(token, bits, self.options);
            }
        }
    }

    /// Scores a line with all threads, each of which scores windows that follow one another. The prefix
    /// cache would save nothing.
    fn score_long_line(&mut self, tokens: &[u32], score: &mut Score) {
        let (model, context) = (self.model, self.model.meta().config.block_size);
        let threads = self.options.threads;
        self.thread_buffers.resize_with(threads, Buffers::default);
        let mut windows = windows(0, tokens, context);
        let part_windows = (2 * PART_TOKENS / context).max(1);
        loop {
            let part = |_| windows.by_ref().take(part_windows).collect();
            let parts: Vec<Vec<Window>> = (0..threads).map(part).collect();
            if parts[0].is_empty() {
                return;
            }
            thread::scope(|scope| {
                let buffers = self.thread_buffers.iter_mut();
                let scored = buffers
                    .zip(&parts)
                    .map(|(buffers, part)| scope.spawn(move || buffers.score(model, part)));
                let running: Vec<_> = scored.collect();
                for (part, thread) in parts.iter().zip(running) {
                    let bits = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
                    let targets = part.iter().flat_map(|window| window.targets);
                    for (&token, bits) in targets.zip(bits) {
                        score.add(token, bits, self.options);
                    }
                }
            });
        }
    }
}

impl Buffers {
    /// An empty cache for the window of this index in a pass.
    fn cache(&mut self, model: &InferenceGpt, index: usize) -> &mut SequenceCache {
        if self.caches.len() == index {
            self.caches.push(model.new_cache());
        }
        let cache = &mut self.caches[index];
        cache.truncate(0);
        cache
    }

    /// Computes the logits of the targets of windows, each with its cache.
    fn forward(&mut self, model: &InferenceGpt, windows: &[Window]) {
        let chunks = windows.iter().zip(&mut self.caches);
        let chunks = chunks.map(|(window, cache)| Chunk {
            cache,
            tokens: window.tokens,
            logits_from: window.tokens.len() - window.targets.len(),
        });
        model.forward(&mut self.workspace, &mut chunks.collect::<Vec<_>>());
    }

    /// Returns the bits of the targets of windows of one line.
    fn score(&mut self, model: &InferenceGpt, windows: &[Window]) -> Vec<f64> {
        let context = model.meta().config.block_size;
        let mut bits = Vec::with_capacity(windows.len() * context);
        for windows in windows.chunks(MAX_PASS_TOKENS.div_ceil(context).min(MAX_BATCH)) {
            for index in 0..windows.len() {
                self.cache(model, index);
            }
            self.forward(model, windows);
            let targets = windows.iter().flat_map(|window| window.targets);
            let logits = self.workspace.all_logits().zip(targets);
            bits.extend(logits.map(|(logits, &token)| neg_log2_prob(logits, token)));
        }
        bits
    }
}

impl Window<'_> {
    /// Moves the tokens that the prefix cache has to `cache`, and scores the token after each.
    fn look_up(
        &mut self,
        prefix_cache: &mut PrefixCache,
        cache: &mut SequenceCache,
        mut score: impl FnMut(u32, f64),
    ) {
        let mut node = prefix_cache.root();
        loop {
            let target = self.targets[0];
            score(target, prefix_cache.values(node)[target as usize]);
            (self.tokens, self.targets) = (&self.tokens[1..], &self.targets[1..]);
            let [token, ..] = self.tokens else {
                return;
            };
            match prefix_cache.child(node, *token) {
                Some(child) => node = child,
                None => break,
            }
        }
        prefix_cache.copy_to(node, cache);
        self.missed = Some(node);
    }
}

/// Encodes a line. Errors for a chat model if it is not a conversation.
fn encode(tokenizer: &Tokenizer, line: &str) -> Result<Vec<u32>> {
    let Some(chat) = tokenizer.chat_tokens() else {
        return Ok(match tokenizer.kind() {
            CorpusKind::Continuous => tokenizer.encode_line(line),
            _ => tokenizer.encode_document(line),
        });
    };
    let messages = parse_conversation(line)
        .context("not a conversation, [{\"role\": \"user\", \"content\": \"…\"}, …]")?;
    Ok(tokenizer.encode_conversation(chat, &messages))
}

/// Windows in which each token is predicted once. The first begins with the line; in the others, each
/// target has at least half a context before it.
pub(super) fn windows(
    line: usize,
    tokens: &[u32],
    context: usize,
) -> impl Iterator<Item = Window<'_>> {
    let inputs = tokens.len().saturating_sub(1);
    let step = (context / 2).max(1);
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == inputs {
            return None;
        }
        let start = if done == 0 {
            0
        } else {
            done - (context - step)
        };
        let end = inputs.min(start + context);
        let targets = &tokens[done + 1..=end];
        done = end;
        Some(Window {
            line,
            tokens: &tokens[start..end],
            targets,
            missed: None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_predict_each_token_once_with_half_a_context_before_it() {
        for context in [1, 2, 3, 5, 8, 16] {
            for length in 0..70 {
                let tokens: Vec<u32> = (0..length).collect();
                let mut next = 1;
                for window in windows(0, &tokens, context) {
                    assert!(window.tokens.len() <= context);
                    for (i, &target) in window.targets.iter().enumerate() {
                        assert_eq!(target, next);
                        let before = window.tokens.len() - window.targets.len() + i + 1;
                        assert_eq!(
                            window.tokens[before - 1],
                            target - 1,
                            "the token before the target"
                        );
                        assert!(before == target as usize || 2 * before >= context);
                        next += 1;
                    }
                }
                assert_eq!(next, length.max(1));
            }
        }
    }
}
