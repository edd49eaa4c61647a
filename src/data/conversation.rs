//! Conversations: the messages of a chat, and how one is cut to fit a model's context.

use serde::{Deserialize, Serialize};

use super::{ChatTokens, Tokenizer};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    User,
    Assistant,
}

/// What one side says in its turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "a message, {\"role\": …, \"content\": …}")]
pub struct Message {
    pub role: Role,
    pub content: String,
}

impl Message {
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// A conversation from its JSON: `[{"role": "user", "content": "…"}, …]`.
pub fn parse_conversation(json: &str) -> serde_json::Result<Vec<Message>> {
    serde_json::from_str(json)
}

/// A conversation made ready for the model to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatPrompt {
    /// `bos`, the turns that fit, and the `assistant` token that asks for a reply.
    pub tokens: Vec<u32>,
    /// How many tokens of the conversation were dropped to fit.
    pub dropped: usize,
}

/// Fits a conversation into a prompt of at most `budget` tokens, and at least the two that every
/// prompt has.
///
/// Whole turns are dropped, the earliest first. Where the last turn alone is too long, it is
/// shortened from its front, so that the model sees what was said last.
pub fn chat_prompt(
    tokenizer: &Tokenizer,
    chat: ChatTokens,
    messages: &[Message],
    budget: usize,
) -> ChatPrompt {
    let mut turns: Vec<Vec<u32>> = messages
        .iter()
        .map(|m| tokenizer.encode_turn(chat, m))
        .collect();
    let room = budget.saturating_sub(2);
    let all: usize = turns.iter().map(Vec::len).sum();
    let mut kept = all;
    let mut first = 0;
    while kept > room && first + 1 < turns.len() {
        kept -= turns[first].len();
        first += 1;
    }
    if kept > room
        && let Some(turn) = turns.last_mut()
    {
        if room < 2 {
            turn.clear();
        } else {
            // The role and the end of the turn stay; the characters between them go, from the
            // front.
            turn.drain(1..1 + kept - room);
        }
        kept = turn.len();
    }
    let mut tokens = vec![tokenizer.bos()];
    tokens.extend(turns[first..].iter().flatten());
    tokens.push(chat.assistant);
    ChatPrompt {
        tokens,
        dropped: all - kept,
    }
}

#[cfg(test)]
mod tests {
    use super::super::CorpusKind;
    use super::*;

    fn fit(messages: &[&str], budget: usize) -> (Vec<u32>, usize) {
        let tokenizer = Tokenizer::from_texts(["abcdef"].into_iter(), CorpusKind::Conversations);
        let messages: Vec<Message> = messages
            .iter()
            .enumerate()
            .map(|(i, text)| Message::new([Role::User, Role::Assistant][i % 2], *text))
            .collect();
        let fitted = chat_prompt(
            &tokenizer,
            tokenizer.chat_tokens().unwrap(),
            &messages,
            budget,
        );
        (fitted.tokens, fitted.dropped)
    }

    #[test]
    fn a_conversation_that_fits_is_kept_whole() {
        assert_eq!(
            fit(&["ab", "c", "d"], 12),
            (vec![9, 6, 0, 1, 8, 7, 2, 8, 6, 3, 8, 7], 0)
        );
    }

    #[test]
    fn early_turns_are_dropped_whole() {
        assert_eq!(
            fit(&["ab", "c", "d"], 11),
            (vec![9, 7, 2, 8, 6, 3, 8, 7], 4)
        );
        assert_eq!(fit(&["ab", "c", "d"], 7), (vec![9, 6, 3, 8, 7], 7));
    }

    #[test]
    fn a_single_turn_that_is_too_long_loses_its_front() {
        assert_eq!(fit(&["a", "b", "abcdef"], 6), (vec![9, 6, 4, 5, 8, 7], 10));
        assert_eq!(fit(&["abcdef"], 4), (vec![9, 6, 8, 7], 6));
        assert_eq!(fit(&["abcdef"], 3), (vec![9, 7], 8));
        assert_eq!(fit(&[], 2), (vec![9, 7], 0));
    }

    #[test]
    fn messages_say_what_is_wrong_with_them() {
        let wrong = |json| parse_conversation(json).unwrap_err().to_string();
        assert!(
            wrong(r#"[{"role": "system", "content": ""}]"#)
                .contains("expected `user` or `assistant`")
        );
        assert!(wrong(r#"[{"role": "user"}]"#).contains("missing field `content`"));
        assert!(wrong(r#"["hi"]"#).contains("expected a message"));
        let more = r#"[{"role": "user", "content": "a", "date": 1}]"#;
        assert_eq!(
            parse_conversation(more).unwrap(),
            [Message::new(Role::User, "a")]
        );
    }
}
