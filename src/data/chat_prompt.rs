//! The prompt of a chat model, truncated to its context.

use super::message::{Message, Role};
use super::tokenizer::{ChatTokens, Tokenizer};

/// A conversation as a prompt for the model's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatPrompt {
    /// `[bos, turns…, assistant]`.
    pub tokens: Vec<u32>,
    /// The number of tokens of the conversation that were dropped.
    pub dropped: usize,
}

/// Encodes a conversation as a prompt of at most `max_tokens` tokens, and at least 2.
///
/// Drops the earliest turns first, but keeps a system message at the start if that takes at most half
/// of the tokens. A last turn that is still too long loses characters from its front, so that the
/// model sees the end of it.
pub fn chat_prompt(
    tokenizer: &Tokenizer,
    chat: ChatTokens,
    messages: &[Message],
    max_tokens: usize,
) -> ChatPrompt {
    let encode = |message| tokenizer.encode_turn(chat, message);
    let mut turns: Vec<Vec<u32>> = messages.iter().map(encode).collect();
    let max_kept = max_tokens.saturating_sub(2);
    let total: usize = turns.iter().map(Vec::len).sum();
    let mut kept = total;
    let starts_with_system = messages
        .first()
        .is_some_and(|first| first.role == Role::System);
    let pinned = usize::from(starts_with_system && turns[0].len() <= max_kept / 2);
    let mut first = pinned;
    while kept > max_kept && first + 1 < turns.len() {
        kept -= turns[first].len();
        first += 1;
    }
    if kept > max_kept
        && let Some(turn) = turns.last_mut()
    {
        let length = turn.len();
        if max_kept < 2 {
            turn.clear();
        } else {
            // The role and the end of the turn stay.
            turn.drain(1..1 + kept - max_kept);
        }
        kept -= length - turn.len();
    }
    let mut tokens = vec![tokenizer.bos()];
    tokens.extend(turns[..pinned].iter().chain(&turns[first..]).flatten());
    tokens.push(chat.assistant);
    ChatPrompt {
        tokens,
        dropped: total - kept,
    }
}

#[cfg(test)]
mod tests {
    use super::super::corpus_kind::CorpusKind;
    use super::*;

    fn prompt(messages: &[&str], max_tokens: usize) -> (Vec<u32>, usize) {
        let tokenizer = Tokenizer::from_texts(["abcdef"].into_iter(), CorpusKind::Conversations);
        let messages: Vec<Message> = messages
            .iter()
            .enumerate()
            .map(|(i, text)| Message::new([Role::User, Role::Assistant][i % 2], *text))
            .collect();
        let prompt = chat_prompt(
            &tokenizer,
            tokenizer.chat_tokens().unwrap(),
            &messages,
            max_tokens,
        );
        (prompt.tokens, prompt.dropped)
    }

    #[test]
    fn short_conversation_is_kept() {
        assert_eq!(
            prompt(&["ab", "c", "d"], 12),
            (vec![9, 6, 0, 1, 8, 7, 2, 8, 6, 3, 8, 7], 0)
        );
    }

    #[test]
    fn early_turns_are_dropped() {
        assert_eq!(
            prompt(&["ab", "c", "d"], 11),
            (vec![9, 7, 2, 8, 6, 3, 8, 7], 4)
        );
        assert_eq!(prompt(&["ab", "c", "d"], 7), (vec![9, 6, 3, 8, 7], 7));
    }

    #[test]
    fn system_message_is_kept() {
        let tokenizer = Tokenizer::from_texts(["abcdef"].into_iter(), CorpusKind::Conversations);
        let tokenizer = tokenizer.with_system();
        let chat = tokenizer.chat_tokens().unwrap();
        let messages = [(Role::System, "a"), (Role::User, "b"), (Role::User, "cde")];
        let messages = messages.map(|(role, text)| Message::new(role, text));
        let prompt = |max_tokens| {
            let prompt = chat_prompt(&tokenizer, chat, &messages, max_tokens);
            (prompt.tokens, prompt.dropped)
        };
        assert_eq!(prompt(12), (vec![10, 8, 0, 9, 6, 2, 3, 4, 9, 7], 3));
        assert_eq!(prompt(8), (vec![10, 8, 0, 9, 6, 4, 9, 7], 5));
        // It would leave too little.
        assert_eq!(prompt(7), (vec![10, 6, 2, 3, 4, 9, 7], 6));
    }

    #[test]
    fn long_last_turn_loses_its_front() {
        assert_eq!(
            prompt(&["a", "b", "abcdef"], 6),
            (vec![9, 6, 4, 5, 8, 7], 10)
        );
        assert_eq!(prompt(&["abcdef"], 4), (vec![9, 6, 8, 7], 6));
        assert_eq!(prompt(&["abcdef"], 3), (vec![9, 7], 8));
        assert_eq!(prompt(&[], 2), (vec![9, 7], 0));
    }
}
