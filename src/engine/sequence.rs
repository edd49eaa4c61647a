//! Texts in the making: what may come next, when they end, and many of them together.

use std::ops::Range;
use std::sync::Arc;

use super::prefix_cache::{Node, PrefixCache};
use super::{Prefix, Sampler};
use crate::data::ChatTokens;
use crate::infer::{Chunk, InferenceGpt, SequenceCache, Workspace};

/// The default number of tokens of a sample of continuous text.
pub const DEFAULT_CONTINUOUS_TOKENS: usize = 500;

/// For how many steps it is the turn of the same texts, where there are more than are best made
/// together: what the model remembers of them is fetched once for all of these.
const TURN: usize = 8;

/// The most tokens of prompts that a step takes along with the texts that are being made, so that
/// these do not have to wait for a long prompt.
const PROMPT_TOKENS: usize = 64;

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or whoever reads it did.
    Stop,
    /// There was no room for more: in the context, or in the number of tokens asked for.
    Length,
}

/// Which tokens may come next, so that what a model makes up can always be read.
#[derive(Debug)]
pub enum Grammar {
    /// Characters up to `bos`.
    Document { bos: u32 },
    /// Characters without end; `bos` never.
    Continuous { bos: u32 },
    /// Turns up to `bos`: a role, characters, `end_turn`.
    Conversation { chat: ChatTokens, in_turn: bool },
    /// Characters up to `end_turn`; `bos`, `user` and `assistant` never.
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

    /// Takes a token, and says whether the text goes on after it.
    fn goes_on_after(&mut self, token: u32) -> bool {
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

/// A text in the making: its tokens so far, and how it goes on.
pub struct Sequence {
    /// The tokens in the cache, and those to append.
    tokens: Vec<u32>,
    sampled: Vec<u32>,
    context: usize,
    grammar: Grammar,
    sampler: Sampler,
    limit: usize,
}

impl Sequence {
    /// A text that goes on from a prompt for up to `limit` tokens, to the end of the context, or
    /// until the grammar says so.
    ///
    /// A continuous text does not end with the context: whenever that is full, its first half is
    /// forgotten. Without a limit it has [`DEFAULT_CONTINUOUS_TOKENS`].
    pub fn new(
        context: usize,
        prompt: Vec<u32>,
        grammar: Grammar,
        sampler: Sampler,
        limit: Option<usize>,
    ) -> Self {
        let limit = match grammar {
            Grammar::Continuous { .. } => limit.unwrap_or(DEFAULT_CONTINUOUS_TOKENS),
            _ => limit.unwrap_or(usize::MAX).min(context + 1 - prompt.len()),
        };
        Self {
            tokens: prompt,
            sampled: Vec::new(),
            context,
            grammar,
            sampler,
            limit,
        }
    }

    /// The tokens that were sampled.
    pub fn sampled(&self) -> &[u32] {
        &self.sampled
    }

    /// The prompt and the tokens that were sampled, as far as they are not forgotten.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The last token.
    fn last(&self) -> u32 {
        self.tokens[self.tokens.len() - 1]
    }

    /// The tokens that the model has not seen yet.
    fn unseen(&mut self, stream: &mut SequenceCache) -> &[u32] {
        if self.tokens.len() > self.context {
            // All is forgotten but the second half of what the context holds.
            let kept = self.context.div_ceil(2);
            self.tokens.drain(..self.tokens.len() - kept);
            stream.truncate(0);
        }
        &self.tokens[stream.length()..]
    }

    /// Takes the logits `[V]` of the next token. Gives the sampler's weights, `[V + 1]`.
    pub fn weigh(&mut self, logits: &[f64]) -> &[f64] {
        let grammar = &self.grammar;
        self.sampler.weigh(logits, |token| grammar.allows(token));
        self.sampler.weights()
    }

    /// Samples the next token by the sampler's weights; `visit` sees it and may end the text by returning
    /// false. Says why the text ended, if it did.
    fn go_on(&mut self, visit: impl FnOnce(u32) -> bool) -> Option<FinishReason> {
        if self.sampled.len() == self.limit {
            return Some(FinishReason::Length);
        }
        let token = self.sampler.draw();
        self.tokens.push(token);
        self.sampled.push(token);
        if !visit(token) || !self.grammar.goes_on_after(token) {
            return Some(FinishReason::Stop);
        }
        (self.sampled.len() == self.limit).then_some(FinishReason::Length)
    }

    /// Makes the text alone, in a stream that may have seen its beginning; `visit` sees each token,
    /// and ends the text by returning false.
    pub fn run(
        &mut self,
        model: &InferenceGpt,
        stream: &mut SequenceCache,
        room: &mut Workspace,
        mut visit: impl FnMut(u32) -> bool,
    ) -> FinishReason {
        loop {
            let tokens = self.unseen(stream);
            let logits_from = tokens.len() - 1;
            let run = Chunk {
                stream,
                tokens,
                logits_from,
            };
            model.forward(room, &mut [run]);
            self.weigh(room.logits(0));
            if let Some(finish) = self.go_on(&mut visit) {
                return finish;
            }
        }
    }
}

/// Texts that are made together, each going its own way. What a text becomes does not depend on
/// which others there are.
pub struct DecodeBatch<'a, T> {
    model: &'a InferenceGpt,
    room: Workspace,
    texts: Vec<Member<T>>,
    /// The first sequence of the current turn, and the decode steps left of it.
    first: usize,
    steps_left: usize,
    /// Streams of texts that have ended, to be used again.
    spare: Vec<SequenceCache>,
    /// The prefix cache of sequences that begin with the same prefix.
    prefix_cache: Option<PrefixCache>,
}

/// A text of a batch.
struct Member<T> {
    owner: T,
    text: Sequence,
    stream: SequenceCache,
    place: Place,
    finish: Option<FinishReason>,
}

/// The relation of a sequence to the prefix cache.
enum Place {
    /// It has not been looked up yet.
    New,
    /// Its last token leads away from there.
    Leaving(Node),
    Away,
}

impl<'a, T> DecodeBatch<'a, T> {
    /// For texts that have their prompt, where it is the prefix, and their sampling options in common.
    pub fn new(model: &'a InferenceGpt, prefix: Option<Arc<Prefix>>) -> Self {
        Self {
            model,
            room: Workspace::default(),
            texts: Vec::new(),
            first: 0,
            steps_left: TURN,
            spare: Vec::new(),
            prefix_cache: prefix.map(|prefix| PrefixCache::new(model, prefix)),
        }
    }

    #[cfg(test)]
    pub fn prefix_cache(&mut self) -> &mut Option<PrefixCache> {
        &mut self.prefix_cache
    }

    /// The number of sequences in progress.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Adds a text.
    pub fn add(&mut self, owner: T, text: Sequence) {
        let mut stream = self.spare.pop().unwrap_or_else(|| self.model.new_cache());
        stream.truncate(0);
        self.texts.push(Member {
            owner,
            text,
            stream,
            place: Place::New,
            finish: None,
        });
    }

    /// Makes about one token of each text whose turn it is. `visit` sees it, and may end the text by
    /// returning false; `done` gets the texts that ended.
    pub fn step(
        &mut self,
        mut visit: impl FnMut(&mut T, u32) -> bool,
        mut done: impl FnMut(T, Sequence, FinishReason),
    ) {
        if let Some(prefix_cache) = &mut self.prefix_cache {
            for member in &mut self.texts {
                member.look_up(prefix_cache, &mut visit);
            }
        }
        self.take_out_finished(&mut done);

        let mut prompt_tokens = PROMPT_TOKENS;
        let mut complete = Vec::with_capacity(self.texts.len());
        let mut runs = Vec::with_capacity(self.texts.len());
        let turn = self.turn();
        let texts = self.texts.iter_mut().enumerate();
        for (index, member) in texts.skip(turn.start).take(turn.len()) {
            let unseen = member.text.unseen(&mut member.stream);
            let mut tokens = unseen;
            if unseen.len() > 1 {
                tokens = &unseen[..unseen.len().min(prompt_tokens)];
                prompt_tokens -= tokens.len();
            }
            let whole = tokens.len() == unseen.len();
            if whole {
                complete.push(index);
            }
            if !tokens.is_empty() {
                runs.push(Chunk {
                    stream: &mut member.stream,
                    tokens,
                    logits_from: tokens.len() - usize::from(whole),
                });
            }
        }
        self.model.forward(&mut self.room, &mut runs);
        for (logits, index) in complete.into_iter().enumerate() {
            let member = &mut self.texts[index];
            member.text.weigh(self.room.logits(logits));
            if let Some(prefix_cache) = &mut self.prefix_cache {
                member.remember(prefix_cache);
            }
            let visit = |token| visit(&mut member.owner, token);
            member.finish = member.text.go_on(visit);
        }
        self.take_out_finished(&mut done);
    }

    /// Which texts take part in this step.
    fn turn(&mut self) -> Range<usize> {
        let together = self.model.decode_batch_size();
        if self.steps_left == 0 {
            self.first += together;
            self.steps_left = TURN;
        }
        if self.first >= self.texts.len() {
            self.first = 0;
        }
        self.steps_left -= 1;
        self.first..self.first + together
    }

    fn take_out_finished(&mut self, done: &mut impl FnMut(T, Sequence, FinishReason)) {
        let mut index = 0;
        while index < self.texts.len() {
            let Some(finish) = self.texts[index].finish else {
                index += 1;
                continue;
            };
            let member = self.texts.swap_remove(index);
            self.spare.push(member.stream);
            done(member.owner, member.text, finish);
        }
    }
}

impl<T> Member<T> {
    /// Lets a new text go on as far as is remembered.
    fn look_up(
        &mut self,
        prefix_cache: &mut PrefixCache,
        visit: &mut impl FnMut(&mut T, u32) -> bool,
    ) {
        let Place::New = self.place else { return };
        let mut node = prefix_cache.root();
        loop {
            self.text.sampler.set_weights(prefix_cache.next(node));
            self.finish = self.text.go_on(|token| visit(&mut self.owner, token));
            if self.finish.is_some() {
                return;
            }
            match prefix_cache.after(node, self.text.last()) {
                Some(next) => node = next,
                None => break,
            }
        }
        prefix_cache.copy_to(node, &mut self.stream);
        self.place = Place::Leaving(node);
    }

    /// Remembers the weights after the token with which a text leaves what is remembered.
    fn remember(&mut self, prefix_cache: &mut PrefixCache) {
        if let Place::Leaving(node) = std::mem::replace(&mut self.place, Place::Away)
            // Otherwise the beginning was forgotten, as the context is full.
            && self.stream.length() == node.length() + 1
        {
            let (token, weights) = (self.text.last(), self.text.sampler.weights());
            prefix_cache.add(node, token, weights, &self.stream);
        }
    }
}
