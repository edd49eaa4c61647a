//! Log-probabilities of tokens under the model's own distribution: temperature 1, without filters.

use crate::infer::{Chunk, InferenceGpt, Workspace};
use crate::kernels::softmax_f64::neg_log2_probs;

/// The log-probability of a token, and the most likely tokens at its position.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    pub token: u32,
    /// In nats.
    pub logprob: f64,
    /// The most likely tokens with theirs, by falling probability.
    pub top: Vec<(u32, f64)>,
}

impl TokenLogprob {
    /// The log-probability of a token from the logits `[V]` at its position, beside the `top_count` most
    /// likely ones.
    pub fn new(logits: &[f64], token: u32, top_count: usize) -> Self {
        let bits = neg_log2_probs(logits);
        let logprob = |token: u32| -bits[token as usize] * std::f64::consts::LN_2;
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| bits[a as usize].total_cmp(&bits[b as usize]));
        order.truncate(top_count);
        Self {
            token,
            logprob: logprob(token),
            top: order.into_iter().map(|top| (top, logprob(top))).collect(),
        }
    }
}

/// The log-probabilities of all tokens of a prompt but the first, in windows as
/// [`Scorer`](super::Scorer) has them.
pub fn prompt_logprobs(
    model: &InferenceGpt,
    tokens: &[u32],
    top_count: usize,
) -> Vec<TokenLogprob> {
    let (mut cache, mut workspace) = (model.new_cache(), Workspace::default());
    let mut logprobs = Vec::with_capacity(tokens.len().saturating_sub(1));
    for window in super::score::windows(0, tokens, model.meta().config.block_size) {
        cache.truncate(0);
        let chunk = Chunk {
            cache: &mut cache,
            tokens: window.tokens,
            logits_from: window.tokens.len() - window.targets.len(),
        };
        model.forward(&mut workspace, &mut [chunk]);
        let targets = window.targets.iter().enumerate();
        let logprob = |(i, &token)| TokenLogprob::new(workspace.logits(i), token, top_count);
        logprobs.extend(targets.map(logprob));
    }
    logprobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_normalized_and_ordered() {
        let logits = [1.0, 3.0, 2.0, 3.0];
        let sum: f64 = logits.iter().map(|logit: &f64| logit.exp()).sum();
        let found = TokenLogprob::new(&logits, 2, 3);
        assert!((found.logprob - (2.0 - sum.ln())).abs() < 1e-12);
        let order: Vec<u32> = found.top.iter().map(|(token, _)| *token).collect();
        assert_eq!(order, [1, 3, 2]);
        assert!((found.top[0].1 - (3.0 - sum.ln())).abs() < 1e-12);
        assert!(TokenLogprob::new(&logits, 0, 0).top.is_empty());
        assert_eq!(TokenLogprob::new(&logits, 0, 9).top.len(), 4);
    }
}
