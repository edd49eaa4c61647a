//! Regular expressions that a generated text must match, as an automaton over tokens.
//!
//! The automaton is that of the expression over bytes, with a transition per token of the vocabulary.
//! For each state and each number of tokens it knows whether a match can be completed with exactly so
//! many. A token that leads to no match within the limits is masked, so that every sample matches and
//! none is discarded.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;

use anyhow::{Result, bail, ensure};
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};

use crate::data::Tokenizer;

/// The maximum size of the automaton over bytes, and of its construction.
const MAX_DFA_BYTES: usize = 4 << 20;

/// The maximum number of elements of each table.
const MAX_TABLE: usize = 8 << 20;

/// No state: the token cannot belong to a match.
const DEAD: u32 = u32::MAX;

/// A regular expression over the tokens of one vocabulary.
#[derive(Debug)]
pub struct Pattern {
    /// The number of tokens, special ones not counted.
    tokens: usize,
    /// `[states, tokens]`: the state after each token, or [`DEAD`]. State 0 is the start.
    next: Vec<u32>,
    /// `[states, words]`: bit `n` is set if `n` more tokens can complete a match.
    completions: Vec<u64>,
    words: usize,
}

/// The state of a text that may become a match.
pub type PatternState = u32;

impl Pattern {
    pub const START: PatternState = 0;

    /// Compiles an expression, which matches whole texts of up to `max_tokens` tokens. Errors if it is
    /// malformed or too large.
    pub fn new(expression: &str, tokenizer: &Tokenizer, max_tokens: usize) -> Result<Self> {
        let config = dense::Config::new()
            // All matches of a text, not the leftmost-first one, so that the longest counts.
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Anchored)
            .dfa_size_limit(Some(MAX_DFA_BYTES))
            .determinize_size_limit(Some(MAX_DFA_BYTES));
        let dfa = dense::Builder::new().configure(config).build(expression);
        let dfa = dfa.map_err(|error| anyhow::anyhow!(describe(&error)))?;
        let start = dfa.start_state(&start::Config::new().anchored(Anchored::Yes));
        let Ok(start) = start else {
            bail!("it cannot be matched from the start of a text");
        };
        let (next, accepting) = tabulate(&dfa, start, tokenizer)?;
        let tokens = tokenizer.text_tokens();
        let words = max_tokens / 64 + 1;
        ensure!(
            accepting.len().saturating_mul(words) <= MAX_TABLE,
            "it is too large for samples of {max_tokens} tokens"
        );
        let completions = completions(&next, &accepting, tokens, max_tokens);
        Ok(Self {
            tokens,
            next,
            completions,
            words,
        })
    }

    /// The state after a token, if a match can still follow.
    pub fn advance(&self, state: PatternState, token: u32) -> Option<PatternState> {
        let next = self.next[state as usize * self.tokens..][..self.tokens].get(token as usize);
        next.copied().filter(|next| *next != DEAD)
    }

    /// Returns whether the text so far is a match.
    pub fn is_match(&self, state: PatternState) -> bool {
        self.completions[state as usize * self.words] & 1 == 1
    }

    /// Returns whether a number of more tokens in this range can complete a match.
    pub fn can_complete(&self, state: PatternState, lengths: RangeInclusive<usize>) -> bool {
        let bits = &self.completions[state as usize * self.words..][..self.words];
        let (first, last) = lengths.into_inner();
        let last = last.min(64 * self.words - 1);
        (first / 64..self.words).any(|word| {
            let low = first.saturating_sub(64 * word);
            let Some(high) = last.checked_sub(64 * word) else {
                return false;
            };
            let mask = (u64::MAX << low) & (u64::MAX >> (63 - high.min(63)));
            low < 64 && bits[word] & mask != 0
        })
    }
}

/// The message of a malformed expression on one line.
fn describe(error: &dense::BuildError) -> String {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = cause.to_string();
        source = cause.source();
    }
    // A syntax error shows the expression and a mark below it before its last line.
    let last = message.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_string()
}

/// The transitions `[states, tokens]` from the start by each token, and the accepting states.
fn tabulate(
    dfa: &dense::DFA<Vec<u32>>,
    start: StateID,
    tokenizer: &Tokenizer,
) -> Result<(Vec<u32>, Vec<bool>)> {
    let mut states = vec![start];
    let mut indices = HashMap::from([(start, 0)]);
    let (mut next, mut accepting) = (Vec::new(), Vec::new());
    while let Some(&state) = states.get(accepting.len()) {
        accepting.push(dfa.is_match_state(dfa.next_eoi_state(state)));
        for token in 0..tokenizer.text_tokens() as u32 {
            let bytes = tokenizer.bytes_of(token).unwrap_or_default().iter();
            let after = bytes.fold(state, |state, &byte| dfa.next_state(state, byte));
            if dfa.is_dead_state(after) || dfa.is_quit_state(after) {
                next.push(DEAD);
                continue;
            }
            let index = *indices.entry(after).or_insert_with(|| {
                states.push(after);
                states.len() as u32 - 1
            });
            next.push(index);
        }
        ensure!(next.len() <= MAX_TABLE, "it has too many states");
    }
    Ok((next, accepting))
}

/// For each state the set of numbers of tokens that complete a match, as bits.
fn completions(next: &[u32], accepting: &[bool], tokens: usize, max_tokens: usize) -> Vec<u64> {
    // Most tokens of a state lead to a few states.
    let distinct = |next: &[u32]| {
        let live = next.iter().copied().filter(|after| *after != DEAD);
        Vec::from_iter(BTreeSet::from_iter(live))
    };
    let successors: Vec<Vec<u32>> = next.chunks(tokens.max(1)).map(distinct).collect();
    let words = max_tokens / 64 + 1;
    let mut bits = vec![0; accepting.len() * words];
    let mut reachable: Vec<bool> = accepting.to_vec();
    for length in 0..=max_tokens {
        for (state, _) in reachable.iter().enumerate().filter(|(_, can)| **can) {
            bits[state * words + length / 64] |= 1 << (length % 64);
        }
        let is_reachable = |state: usize| {
            let mut after = successors.get(state).into_iter().flatten();
            after.any(|&after| reachable[after as usize])
        };
        reachable = (0..accepting.len()).map(is_reachable).collect();
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::CorpusKind;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_texts(["abc019é-"].into_iter(), CorpusKind::Documents)
    }

    /// The state after a text, or none.
    fn state(pattern: &Pattern, text: &str) -> Option<PatternState> {
        let tokenizer = tokenizer();
        let mut tokens = tokenizer.encode(text).into_iter();
        tokens.try_fold(Pattern::START, |state, token| pattern.advance(state, token))
    }

    #[track_caller]
    fn lengths(expression: &str, text: &str) -> Vec<usize> {
        let pattern = Pattern::new(expression, &tokenizer(), 70).unwrap();
        let state = state(&pattern, text).expect("a prefix of a match");
        let lengths = (0..=70).filter(|&n| pattern.can_complete(state, n..=n));
        lengths.collect()
    }

    #[test]
    fn pattern_knows_the_lengths_of_completions() {
        assert_eq!(lengths("a|abc", ""), [1, 3]);
        assert_eq!(lengths("a|abc", "a"), [0, 2]);
        assert_eq!(lengths("(ab)*c", "ab")[..3], [1, 3, 5]);
        assert_eq!(lengths("(ab)*c", "").len(), 35);
        assert_eq!(lengths(r"\d{3}-\d", "01"), [3]);
        assert_eq!(lengths("^é+$", "é")[..2], [0, 1]);
        assert_eq!(lengths("[xyz]", ""), [0; 0]);
    }

    #[test]
    fn ranges_of_lengths_cross_words() {
        let pattern = Pattern::new("a{65}", &tokenizer(), 200).unwrap();
        assert!(pattern.can_complete(Pattern::START, 0..=65));
        assert!(pattern.can_complete(Pattern::START, 65..=1000));
        assert!(!pattern.can_complete(Pattern::START, 0..=64));
        assert!(!pattern.can_complete(Pattern::START, 66..=200));
        assert!(!pattern.can_complete(Pattern::START, 500..=600));
    }

    #[test]
    fn pattern_matches_whole_texts() {
        let pattern = Pattern::new("ab?|c", &tokenizer(), 9).unwrap();
        for (text, expected) in [("a", Some(true)), ("ab", Some(true)), ("", Some(false))] {
            let state = state(&pattern, text);
            assert_eq!(state.map(|s| pattern.is_match(s)), expected, "{text:?}");
        }
        // Dead ends are found where no completion is left, if not before.
        for text in ["abc", "b", "cc"] {
            let state = state(&pattern, text);
            assert!(
                state.is_none_or(|s| !pattern.can_complete(s, 0..=9)),
                "{text:?}"
            );
        }
    }

    #[test]
    fn malformed_and_huge_patterns_are_errors_of_one_line() {
        for (expression, expected) in [
            ("a(b", "unclosed group"),
            ("[b-a]", "invalid character class range"),
            (r"(a|b)*a(a|b){40}", "size limit"),
        ] {
            let error = Pattern::new(expression, &tokenizer(), 9)
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
