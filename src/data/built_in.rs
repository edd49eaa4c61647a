//! The built-in training texts.

use std::ops::RangeInclusive;

use anyhow::Result;

use super::message::{Message, parse_conversation};

/// First names from many languages, one per line.
pub const BUILT_IN_NAMES: &str = include_str!("names.txt");

/// Short conversations as JSON, one per line.
const SHORT_CONVERSATIONS: &str = include_str!("conversations.jsonl");

/// The number of long conversations joined from short ones.
const LONG_CONVERSATIONS: usize = 5000;

/// The length of a long conversation in tokens, give or take a short one.
const LONG_TOKENS: RangeInclusive<usize> = 60..=280;

/// Returns the built-in conversations as JSON, one per line.
pub fn built_in_conversations() -> Result<String> {
    let mut text = String::new();
    for conversation in conversations()? {
        text += &serde_json::to_string(&conversation)?;
        text.push('\n');
    }
    Ok(text)
}

/// Returns the short conversations, and long ones joined from them at random.
///
/// Short conversations alone teach a model to answer the first message only, because it never sees a
/// question late in its context. Asked 300 of the questions in conversations of seven turns, a model
/// of 64/4/2/256 after 2,000 steps gave 43 of the trained answers, all to first messages; with the
/// long conversations, 298.
fn conversations() -> Result<Vec<Vec<Message>>> {
    let mut conversations = SHORT_CONVERSATIONS
        .lines()
        .map(parse_conversation)
        .collect::<serde_json::Result<Vec<_>>>()?;
    let short = conversations.len();
    let mut rng = fastrand::Rng::with_seed(0);
    for _ in 0..LONG_CONVERSATIONS {
        let min_tokens = rng.usize(LONG_TOKENS);
        let mut messages: Vec<Message> = Vec::new();
        let mut tokens = 0;
        while tokens < min_tokens {
            let next = &conversations[rng.usize(..short)];
            tokens += next
                .iter()
                .map(|message| message.content.len() + 2)
                .sum::<usize>();
            messages.extend_from_slice(next);
        }
        // Half of them begin with a reply, like a chat truncated to the context.
        if rng.bool() {
            messages.remove(0);
        }
        conversations.push(messages);
    }
    Ok(conversations)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::message::Role;
    use super::*;

    #[test]
    fn names_match_the_documentation() {
        let names: Vec<&str> = BUILT_IN_NAMES.lines().collect();
        let distinct: HashSet<_> = names.iter().collect();
        assert!(distinct.len() >= 2000 && distinct.len() == names.len());
        assert!(
            names
                .iter()
                .all(|n| n.bytes().all(|b| b.is_ascii_lowercase()) && !n.is_empty())
        );
    }

    #[test]
    fn conversations_match_the_documentation() {
        let all = conversations().unwrap();
        let short = &all[..all.len() - LONG_CONVERSATIONS];
        let distinct: HashSet<String> = short.iter().map(|c| format!("{c:?}")).collect();
        assert!(distinct.len() >= 200 && distinct.len() == short.len());
        for conversation in short {
            let tokens: usize = conversation
                .iter()
                .map(|m| m.content.chars().count() + 2)
                .sum();
            assert!(tokens + 2 <= 128);
            assert_eq!(conversation[0].role, Role::User);
        }
        let alternates = |c: &Vec<Message>| c.windows(2).all(|pair| pair[0].role != pair[1].role);
        assert!(
            all.iter()
                .all(|c| alternates(c) && c.last().unwrap().role == Role::Assistant)
        );
    }
}
