//! Stop sequences, before which a generated text ends.

use std::sync::Arc;

use crate::data::Tokenizer;

/// Finds the first stop sequence in the bytes of tokens.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Arc<[String]>,
    tokenizer: Tokenizer,
    /// The bytes of the tokens since the last special token.
    text: Vec<u8>,
    /// The start of the stop sequence in `text`.
    found: Option<usize>,
}

impl StopMatcher {
    /// `None` without stop sequences.
    pub fn new(stops: &[String], tokenizer: &Tokenizer) -> Option<Self> {
        let stops: Arc<[String]> = stops
            .iter()
            .filter(|stop| !stop.is_empty())
            .cloned()
            .collect();
        (!stops.is_empty()).then(|| Self {
            stops,
            tokenizer: tokenizer.clone(),
            text: Vec::new(),
            found: None,
        })
    }

    /// Takes a token. No stop sequence extends over a special token.
    pub fn push(&mut self, token: u32) {
        let Some(bytes) = self.tokenizer.bytes_of(token) else {
            self.text.clear();
            return;
        };
        let length = self.text.len();
        self.text.extend_from_slice(bytes);
        let find = |stop: &String| {
            let from = (length + 1).saturating_sub(stop.len());
            let mut windows = self.text[from..].windows(stop.len());
            let start = from + windows.position(|window| window == stop.as_bytes())?;
            Some((start + stop.len(), start))
        };
        // Of those that end first, the longest.
        let first = self.stops.iter().filter_map(find).min();
        self.found = first.map(|(_, start)| start);
    }

    pub fn is_stopped(&self) -> bool {
        self.found.is_some()
    }

    /// Removes the text from the stop sequence on.
    pub fn truncate(&self, tokens: &mut Vec<u32>) {
        if let Some(start) = self.found {
            self.tokenizer.truncate(tokens, self.text.len() - start);
        }
    }
}

/// Passes text on up to the first stop sequence, and holds back a suffix that may become one.
pub struct StopFilter {
    stops: Vec<String>,
    /// A suffix that may be the beginning of a stop sequence.
    held: String,
    /// The text before any stop sequence.
    pub text: String,
    /// Set once a stop sequence was found.
    pub stopped: bool,
}

impl StopFilter {
    pub fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            held: String::new(),
            text: String::new(),
            stopped: false,
        }
    }

    /// Takes a character. Returns the text that can no longer belong to a stop sequence.
    pub fn push(&mut self, c: char) -> String {
        self.held.push(c);
        let ended = self
            .stops
            .iter()
            .filter(|stop| self.held.ends_with(stop.as_str()));
        let certain = if let Some(longest) = ended.map(String::len).max() {
            self.stopped = true;
            self.held.len() - longest
        } else {
            // The earliest position from which the held text may still become a stop sequence.
            let mut starts = self.held.char_indices().map(|(at, _)| at);
            let may_stop = |at: &usize| {
                self.stops
                    .iter()
                    .any(|stop| stop.starts_with(&self.held[*at..]))
            };
            starts.find(may_stop).unwrap_or(self.held.len())
        };
        let rest = self.held.split_off(certain);
        let certain = std::mem::replace(
            &mut self.held,
            if self.stopped { String::new() } else { rest },
        );
        self.text += &certain;
        certain
    }

    /// Returns the held text at the end of generation.
    pub fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.held);
        self.text += &rest;
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(stops: &[&str], text: &str) -> (Vec<String>, String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut filter = StopFilter::new(stops);
        let mut parts = Vec::new();
        for c in text.chars() {
            parts.push(filter.push(c));
            if filter.stopped {
                break;
            }
        }
        parts.push(filter.finish());
        parts.retain(|part| !part.is_empty());
        (parts, filter.text, filter.stopped)
    }

    #[test]
    fn text_is_held_back_only_while_it_may_become_a_stop_sequence() {
        let parts = |parts: &[&str]| parts.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        assert_eq!(filter(&[], "ab"), (parts(&["a", "b"]), "ab".into(), false));
        assert_eq!(
            filter(&["ló"], "hello, lóng"),
            (
                parts(&["h", "e", "l", "lo", ",", " "]),
                "hello, ".into(),
                true
            )
        );
        assert_eq!(filter(&["aab"], "aaab"), (parts(&["a"]), "a".into(), true));
        assert_eq!(
            filter(&["xyz", "y"], "wxyz"),
            (parts(&["w", "x"]), "wx".into(), true)
        );
        assert_eq!(
            filter(&["xyz"], "wxy"),
            (parts(&["w", "xy"]), "wxy".into(), false)
        );
    }
}
