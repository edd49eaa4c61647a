//! Continuous batching: many sequences share each forward pass, and each joins and leaves by itself.

use std::ops::Range;
use std::sync::Arc;

use super::prefix_cache::{Node, Prefix, PrefixCache};
use super::{Distribution, FinishReason, Sequence, TokenLogprob};
use crate::infer::{Chunk, InferenceGpt, SequenceCache, Workspace};

/// Decode steps of the same sequences in a row, if there are more than fit a batch: their KV caches
/// are loaded into the CPU's caches once for all of these steps.
const STEPS_PER_TURN: usize = 8;

/// The maximum number of prompt tokens per step, so that a long prompt does not delay the sequences
/// that are being decoded.
const MAX_PREFILL_TOKENS: usize = 64;

/// Sequences that are decoded together. The tokens of one do not depend on the others. Each carries an
/// `owner`, which the callbacks get.
pub struct DecodeBatch<'a, T> {
    model: &'a InferenceGpt,
    workspace: Workspace,
    slots: Vec<Slot<T>>,
    /// The first slot of the current turn, and the decode steps left of it.
    first: usize,
    steps_left: usize,
    /// The caches of sequences that have ended, for reuse.
    spare_caches: Vec<SequenceCache>,
    prefix_cache: Option<PrefixCache>,
    /// The buffer of the distribution of the sequence that advances.
    row: Vec<f64>,
}

/// A sequence of a batch.
struct Slot<T> {
    owner: T,
    sequence: Sequence,
    cache: SequenceCache,
    lookup: Lookup,
    finish: Option<FinishReason>,
}

/// The relation of a sequence to the prefix cache.
enum Lookup {
    /// Not looked up yet.
    Pending,
    /// Its last token has no node; its parent would be this one.
    Missed(Node),
    Finished,
}

impl<'a, T> DecodeBatch<'a, T> {
    /// A batch without sequences. If there is a prefix, it must be the prompt of all of them, and their
    /// sampling options must be equal.
    pub fn new(model: &'a InferenceGpt, prefix: Option<Arc<Prefix>>) -> Self {
        Self {
            model,
            workspace: Workspace::default(),
            slots: Vec::new(),
            first: 0,
            steps_left: STEPS_PER_TURN,
            spare_caches: Vec::new(),
            prefix_cache: prefix.map(|prefix| PrefixCache::new(model, prefix)),
            row: Vec::new(),
        }
    }

    #[cfg(test)]
    pub fn prefix_cache(&mut self) -> &mut Option<PrefixCache> {
        &mut self.prefix_cache
    }

    /// The number of sequences in progress.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds a sequence, which joins at the next step.
    pub fn add(&mut self, owner: T, sequence: Sequence) {
        let spare = self.spare_caches.pop();
        let mut cache = spare.unwrap_or_else(|| self.model.new_cache());
        cache.truncate(0);
        self.slots.push(Slot {
            owner,
            sequence,
            cache,
            lookup: Lookup::Pending,
            finish: None,
        });
    }

    /// Decodes one token of each sequence whose turn it is, except that prompts take as many steps as
    /// `MAX_PREFILL_TOKENS` requires. `visit` gets each token, and ends its sequence by returning
    /// false; `finished` gets the sequences that ended.
    pub fn step(
        &mut self,
        mut visit: impl FnMut(&mut T, u32, Option<&TokenLogprob>) -> bool,
        mut finished: impl FnMut(T, Sequence, FinishReason),
    ) {
        if let Some(prefix_cache) = &mut self.prefix_cache {
            for slot in &mut self.slots {
                slot.look_up(prefix_cache, &mut visit);
            }
        }
        self.remove_finished(&mut finished);
        let with_logits = self.forward();
        for (logits, index) in with_logits.into_iter().enumerate() {
            let slot = &mut self.slots[index];
            let logits = self.workspace.logits(logits);
            let next = slot.sequence.distribution(logits, &mut self.row);
            if let Some(prefix_cache) = &mut self.prefix_cache {
                slot.insert(prefix_cache, next);
            }
            let visit = |token, logprob: Option<&_>| visit(&mut slot.owner, token, logprob);
            slot.finish = slot.sequence.advance(next, visit);
        }
        self.remove_finished(&mut finished);
    }

    /// Runs the forward pass of a step. Returns the slots that have logits, in the logits' order: all of
    /// the turn but those whose prompt is not complete yet.
    fn forward(&mut self) -> Vec<usize> {
        let turn = self.turn();
        let mut prefill_budget = MAX_PREFILL_TOKENS;
        let mut with_logits = Vec::with_capacity(self.slots.len());
        let mut chunks = Vec::with_capacity(self.slots.len());
        let slots = self.slots.iter_mut().enumerate();
        for (index, slot) in slots.skip(turn.start).take(turn.len()) {
            let uncached = slot.sequence.uncached(&mut slot.cache);
            let mut tokens = uncached;
            if uncached.len() > 1 {
                tokens = &uncached[..uncached.len().min(prefill_budget)];
                prefill_budget -= tokens.len();
            }
            let is_complete = tokens.len() == uncached.len();
            if is_complete {
                with_logits.push(index);
            }
            if !tokens.is_empty() {
                chunks.push(Chunk {
                    cache: &mut slot.cache,
                    tokens,
                    logits_from: tokens.len() - usize::from(is_complete),
                });
            }
        }
        self.model.forward(&mut self.workspace, &mut chunks);
        with_logits
    }

    /// The slots that take part in this step.
    fn turn(&mut self) -> Range<usize> {
        let batch_size = self.model.decode_batch_size();
        if self.steps_left == 0 {
            self.first += batch_size;
            self.steps_left = STEPS_PER_TURN;
        }
        if self.first >= self.slots.len() {
            self.first = 0;
        }
        self.steps_left -= 1;
        self.first..self.first + batch_size
    }

    fn remove_finished(&mut self, finished: &mut impl FnMut(T, Sequence, FinishReason)) {
        let mut index = 0;
        while index < self.slots.len() {
            let Some(finish) = self.slots[index].finish else {
                index += 1;
                continue;
            };
            let slot = self.slots.swap_remove(index);
            self.spare_caches.push(slot.cache);
            finished(slot.owner, slot.sequence, finish);
        }
    }
}

impl<T> Slot<T> {
    /// Advances a new sequence as far as the prefix cache has its tokens.
    fn look_up(
        &mut self,
        prefix_cache: &mut PrefixCache,
        visit: &mut impl FnMut(&mut T, u32, Option<&TokenLogprob>) -> bool,
    ) {
        let Lookup::Pending = self.lookup else { return };
        let mut node = prefix_cache.root();
        loop {
            let next = Distribution::from_row(prefix_cache.values(node));
            self.finish = self.sequence.advance(next, |token, logprob| {
                visit(&mut self.owner, token, logprob)
            });
            if self.finish.is_some() {
                return;
            }
            match prefix_cache.child(node, self.sequence.last()) {
                Some(child) => node = child,
                None => break,
            }
        }
        prefix_cache.copy_to(node, &mut self.cache);
        self.lookup = Lookup::Missed(node);
    }

    /// Inserts the distribution after the token that missed the prefix cache.
    fn insert(&mut self, prefix_cache: &mut PrefixCache, next: Distribution) {
        if let Lookup::Missed(node) = std::mem::replace(&mut self.lookup, Lookup::Finished)
            // Otherwise the prefix was dropped with the first half of the context.
            && self.cache.length() == node.length() + 1
        {
            let token = self.sequence.last();
            prefix_cache.insert(node, token, &self.cache, next.row());
        }
    }
}
