//! Scores: the bits per token of a line under a model.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::prefix_cache::{Node, Prefix, PrefixCache};
use crate::data::{CorpusKind, Tokenizer, parse_conversation};
use crate::infer::{Chunk, InferenceGpt, MAX_BATCH, SequenceCache, Workspace};
use crate::kernels::softmax_f64::{neg_log2_prob, neg_log2_probs};

/// Tokens per forward pass: enough to share every read of the weights.
const MAX_PASS_TOKENS: usize = 256;

/// The score of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The sum of `-log2 p` over the predicted tokens; infinite if a character is unknown.
    pub bits: f64,
    /// The number of predicted tokens: the characters and the end.
    pub tokens: usize,
}

impl Score {
    /// The mean bits of a predicted token.
    pub fn bits_per_token(&self) -> f64 {
        self.bits / self.tokens as f64
    }
}

/// Scores lines with one model.
pub struct Scorer<'a> {
    model: &'a InferenceGpt,
    workspace: Workspace,
    /// One per window of a pass.
    caches: Vec<SequenceCache>,
    /// The bits of each next token, `[V]`.
    prefix_cache: PrefixCache,
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
    pub fn new(model: &'a InferenceGpt) -> Self {
        let start = model.meta().tokenizer.start_token();
        let prefix = Arc::new(Prefix::new(model, &[start], neg_log2_probs));
        Self {
            model,
            workspace: Workspace::default(),
            caches: Vec::new(),
            prefix_cache: PrefixCache::new(model, prefix),
        }
    }

    /// Scores lines: documents, lines of a continuous text, or conversations, by the model's kind. Errors
    /// name a line that is not a conversation, counted from `first`.
    pub fn score(&mut self, lines: &[&str], first: usize) -> Result<Vec<Score>> {
        let tokenizer = &self.model.meta().tokenizer;
        let tokens = lines.iter().enumerate().map(|(number, line)| {
            tokens(tokenizer, line).with_context(|| format!("line {}", first + number))
        });
        let encoded: Vec<Option<Vec<u32>>> = tokens.collect::<Result<_>>()?;
        let known: Vec<&[u32]> = encoded.iter().flatten().map(Vec::as_slice).collect();
        let mut scores = self.score_tokens(&known).into_iter();
        let unknown = Score {
            bits: f64::INFINITY,
            tokens: 0,
        };
        let score = |line: &Option<_>| line.as_ref().and_then(|_| scores.next()).unwrap_or(unknown);
        Ok(encoded.iter().map(score).collect())
    }

    /// Scores encoded lines: all tokens of each but the first are predicted.
    pub fn score_tokens(&mut self, lines: &[&[u32]]) -> Vec<Score> {
        let score = |tokens: &&[u32]| Score {
            bits: 0.0,
            tokens: tokens.len().saturating_sub(1),
        };
        let mut scores: Vec<Score> = lines.iter().map(score).collect();
        let context = self.model.meta().config.block_size;
        let start = self.model.meta().tokenizer.start_token();
        let (mut batch, mut size) = (Vec::new(), 0);
        for (line, tokens) in lines.iter().enumerate() {
            for (number, mut window) in windows(line, tokens, context).enumerate() {
                if self.caches.len() == batch.len() {
                    self.caches.push(self.model.new_cache());
                }
                let cache = &mut self.caches[batch.len()];
                cache.truncate(0);
                if number == 0 && tokens[0] == start {
                    scores[line].bits += window.look_up(&mut self.prefix_cache, cache);
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
        let chunks = windows.iter().zip(&mut self.caches);
        let chunks = chunks.map(|(window, cache)| Chunk {
            cache,
            tokens: window.tokens,
            logits_from: window.tokens.len() - window.targets.len(),
        });
        self.model
            .forward(&mut self.workspace, &mut chunks.collect::<Vec<_>>());
        let mut logits = self.workspace.all_logits();
        for (window, cache) in windows.iter().zip(&self.caches) {
            let logits = logits.by_ref().take(window.targets.len());
            for (number, (logits, &token)) in logits.zip(window.targets).enumerate() {
                if number == 0
                    && let Some(node) = window.missed
                {
                    let bits = neg_log2_probs(logits);
                    scores[window.line].bits += bits[token as usize];
                    let prefix_cache = &mut self.prefix_cache;
                    prefix_cache.insert(node, window.tokens[0], cache, &bits);
                } else {
                    scores[window.line].bits += neg_log2_prob(logits, token);
                }
            }
        }
    }
}

impl Window<'_> {
    /// Moves the tokens that the prefix cache has to `cache`. Returns the bits of the tokens after each.
    fn look_up(&mut self, prefix_cache: &mut PrefixCache, cache: &mut SequenceCache) -> f64 {
        let mut bits = 0.0;
        let mut node = prefix_cache.root();
        loop {
            bits += prefix_cache.values(node)[self.targets[0] as usize];
            (self.tokens, self.targets) = (&self.tokens[1..], &self.targets[1..]);
            let [token, ..] = self.tokens else {
                return bits;
            };
            match prefix_cache.child(node, *token) {
                Some(child) => node = child,
                None => break,
            }
        }
        prefix_cache.copy_to(node, cache);
        self.missed = Some(node);
        bits
    }
}

/// The tokens of a line; none if it has an unknown character. Errors for a chat model if it is not a
/// conversation.
fn tokens(tokenizer: &Tokenizer, line: &str) -> Result<Option<Vec<u32>>> {
    let Some(chat) = tokenizer.chat_tokens() else {
        let tokens = match tokenizer.kind() {
            CorpusKind::Continuous => Tokenizer::encode_line,
            _ => Tokenizer::encode_document,
        };
        return Ok(tokenizer.can_encode(line).then(|| tokens(tokenizer, line)));
    };
    let messages = parse_conversation(line)
        .context("not a conversation, [{\"role\": \"user\", \"content\": \"…\"}, …]")?;
    let known = messages
        .iter()
        .all(|message| tokenizer.can_encode(&message.content));
    Ok(known.then(|| tokenizer.encode_conversation(chat, &messages)))
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
