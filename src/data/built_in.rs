//! The texts that the program brings along, for `train` to learn from when it is given nothing else.

use anyhow::Result;

use super::{Corpus, Message};

/// First names from many languages, one a line.
pub const BUILT_IN_NAMES: &str = include_str!("names.txt");

/// Short conversations, one a line as JSON.
pub const BUILT_IN_CONVERSATIONS: &str = include_str!("conversations.jsonl");

/// How many longer conversations are made of the short ones.
const STRUNG_TOGETHER: usize = 5000;

/// About how long a longer conversation is, in tokens.
const STRUNG_TOKENS: std::ops::RangeInclusive<usize> = 60..=280;

/// The built-in conversations, and many longer ones, strung together from them at random.
///
/// From the short ones alone, a model learns to answer the first message and nothing after it, for
/// it never sees a question late in its context. Asked 300 of the questions in conversations of
/// seven turns, a model of 64/4/2/256 after 2,000 steps answered 43 as it was taught (all the first
/// ones, no others); with the longer ones, 298.
pub fn built_in_conversations() -> Result<Corpus<'static>> {
    let Corpus::Conversations(mut conversations) = Corpus::conversations(BUILT_IN_CONVERSATIONS)?
    else {
        unreachable!("conversations are conversations");
    };
    let short = conversations.len();
    let mut rng = fastrand::Rng::with_seed(0);
    for _ in 0..STRUNG_TOGETHER {
        let length = rng.usize(STRUNG_TOKENS);
        let mut messages: Vec<Message> = Vec::new();
        let mut tokens = 0;
        while tokens < length {
            let next = &conversations[rng.usize(..short)];
            tokens += next
                .iter()
                .map(|message| message.content.len() + 2)
                .sum::<usize>();
            messages.extend_from_slice(next);
        }
        // Some begin with a reply, as they do when a chat has become too long for the context.
        if rng.bool() {
            messages.remove(0);
        }
        conversations.push(messages);
    }
    Ok(Corpus::Conversations(conversations))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::Role;
    use super::*;

    #[test]
    fn the_names_are_what_the_documentation_says() {
        let names: Vec<&str> = BUILT_IN_NAMES.lines().collect();
        let different: HashSet<_> = names.iter().collect();
        assert!(different.len() >= 2000 && different.len() == names.len());
        assert!(
            names
                .iter()
                .all(|n| n.bytes().all(|b| b.is_ascii_lowercase()) && !n.is_empty())
        );
    }

    #[test]
    fn the_conversations_are_what_the_documentation_says() {
        let Corpus::Conversations(all) = built_in_conversations().unwrap() else {
            panic!("not conversations");
        };
        let short = &all[..all.len() - STRUNG_TOGETHER];
        let different: HashSet<String> = short.iter().map(|c| format!("{c:?}")).collect();
        assert!(different.len() >= 200 && different.len() == short.len());
        for conversation in short {
            let tokens: usize = conversation
                .iter()
                .map(|m| m.content.chars().count() + 2)
                .sum();
            assert!(tokens + 2 <= 128, "it is short");
            assert_eq!(conversation[0].role, Role::User);
        }
        let taking_turns = |c: &Vec<Message>| c.windows(2).all(|pair| pair[0].role != pair[1].role);
        assert!(
            all.iter()
                .all(|c| taking_turns(c) && c.last().unwrap().role == Role::Assistant)
        );
    }
}
