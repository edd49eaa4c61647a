//! Scores: the bits that a model needs for a line.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::Prefix;
use super::prefix_cache::{Node, PrefixCache};
use crate::data::{CorpusKind, Tokenizer, parse_conversation};
use crate::infer::{Chunk, InferenceGpt, MAX_BATCH, SequenceCache, Workspace};
use crate::kernels::softmax_f64::{neg_log2_prob, neg_log2_probs};

/// Tokens per forward pass: enough to share all weights that are read.
const TOGETHER: usize = 256;

/// The score of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// `-log2 p` of all predicted tokens together; infinite where a character is unknown.
    pub bits: f64,
    /// The number of predicted tokens: the characters, and the end.
    pub tokens: usize,
}

impl Score {
    /// The mean over the predicted tokens.
    pub fn bits_per_token(&self) -> f64 {
        self.bits / self.tokens as f64
    }
}

/// Scores texts with one model.
pub struct Scorer<'a> {
    model: &'a InferenceGpt,
    room: Workspace,
    streams: Vec<SequenceCache>,
    /// The bits of each token that may come next.
    prefix_cache: PrefixCache,
}

/// A part of a text that fits the context.
struct Window<'t> {
    text: usize,
    tokens: &'t [u32],
    /// The token after each scored one.
    targets: &'t [u32],
    /// The node at which the line left the prefix cache.
    left: Option<Node>,
}

impl<'a> Scorer<'a> {
    pub fn new(model: &'a InferenceGpt) -> Self {
        let beginning = model.meta().tokenizer.start_token();
        let prefix = Arc::new(Prefix::new(model, &[beginning], neg_log2_probs));
        Self {
            model,
            room: Workspace::default(),
            streams: Vec::new(),
            prefix_cache: PrefixCache::new(model, prefix),
        }
    }

    /// The score of each of some lines: documents, lines of a continuous text, or conversations, as
    /// the model's kind is. Errors name a line that is no conversation, counted from `first`.
    pub fn score(&mut self, lines: &[&str], first: usize) -> Result<Vec<Score>> {
        let tokenizer = &self.model.meta().tokenizer;
        let tokens = lines.iter().enumerate().map(|(number, line)| {
            tokens(tokenizer, line).with_context(|| format!("line {}", first + number))
        });
        let texts: Vec<Option<Vec<u32>>> = tokens.collect::<Result<_>>()?;
        let known: Vec<&[u32]> = texts.iter().flatten().map(Vec::as_slice).collect();
        let mut scores = self.score_tokens(&known).into_iter();
        let unknown = Score {
            bits: f64::INFINITY,
            tokens: 0,
        };
        let score = |text: &Option<_>| text.as_ref().and_then(|_| scores.next()).unwrap_or(unknown);
        Ok(texts.iter().map(score).collect())
    }

    /// The score of each of some texts, all of whose tokens but the first are predicted.
    pub fn score_tokens(&mut self, texts: &[&[u32]]) -> Vec<Score> {
        let score = |text: &&[u32]| Score {
            bits: 0.0,
            tokens: text.len().saturating_sub(1),
        };
        let mut scores: Vec<Score> = texts.iter().map(score).collect();
        let context = self.model.meta().config.block_size;
        let beginning = self.model.meta().tokenizer.start_token();
        let (mut batch, mut size) = (Vec::new(), 0);
        for (text, tokens) in texts.iter().enumerate() {
            for (number, mut window) in windows(text, tokens, context).enumerate() {
                if self.streams.len() == batch.len() {
                    self.streams.push(self.model.new_cache());
                }
                let stream = &mut self.streams[batch.len()];
                stream.truncate(0);
                if number == 0 && tokens[0] == beginning {
                    scores[text].bits += window.look_up(&mut self.prefix_cache, stream);
                }
                if window.tokens.is_empty() {
                    continue;
                }
                size += window.tokens.len();
                batch.push(window);
                if size >= TOGETHER || batch.len() == MAX_BATCH {
                    self.score_windows(&batch, &mut scores);
                    batch.clear();
                    size = 0;
                }
            }
        }
        self.score_windows(&batch, &mut scores);
        scores
    }

    /// Adds the bits of some windows, each with its stream, to the scores of their texts.
    fn score_windows(&mut self, windows: &[Window], scores: &mut [Score]) {
        let runs = windows.iter().zip(&mut self.streams);
        let runs = runs.map(|(window, stream)| Chunk {
            stream,
            tokens: window.tokens,
            logits_from: window.tokens.len() - window.targets.len(),
        });
        self.model
            .forward(&mut self.room, &mut runs.collect::<Vec<_>>());
        let mut logits = self.room.all_logits();
        for (window, stream) in windows.iter().zip(&self.streams) {
            let logits = logits.by_ref().take(window.targets.len());
            for (number, (logits, &token)) in logits.zip(window.targets).enumerate() {
                if number == 0
                    && let Some(node) = window.left
                {
                    let bits = neg_log2_probs(logits);
                    scores[window.text].bits += bits[token as usize];
                    self.prefix_cache.add(node, window.tokens[0], &bits, stream);
                } else {
                    scores[window.text].bits += neg_log2_prob(logits, token);
                }
            }
        }
    }
}

impl Window<'_> {
    /// Takes off the tokens that begin a text in a way that is remembered, which `stream` has seen
    /// then. Gives the bits of what comes after each.
    fn look_up(&mut self, prefix_cache: &mut PrefixCache, stream: &mut SequenceCache) -> f64 {
        let mut bits = 0.0;
        let mut node = prefix_cache.root();
        loop {
            bits += prefix_cache.next(node)[self.targets[0] as usize];
            (self.tokens, self.targets) = (&self.tokens[1..], &self.targets[1..]);
            let [token, ..] = self.tokens else {
                return bits;
            };
            match prefix_cache.after(node, *token) {
                Some(next) => node = next,
                None => break,
            }
        }
        prefix_cache.copy_to(node, stream);
        self.left = Some(node);
        bits
    }
}

/// A line's tokens; none where it has a character that the model doesn't know. Errors for a chat
/// model where it is no conversation.
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

/// Windows in which each token is predicted once. The first begins with the text; in the others,
/// each token of interest has at least half a context before it.
fn windows(text: usize, tokens: &[u32], context: usize) -> impl Iterator<Item = Window<'_>> {
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
            text,
            tokens: &tokens[start..end],
            targets,
            left: None,
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
                            "what comes before it"
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
