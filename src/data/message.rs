//! Chat messages and their JSON.

use serde::{Deserialize, Serialize};

/// The author of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    User,
    Assistant,
}

/// One turn of a conversation.
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

/// Parses a conversation: `[{"role": "user", "content": "…"}, …]`.
pub fn parse_conversation(json: &str) -> serde_json::Result<Vec<Message>> {
    serde_json::from_str(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversation_errors_name_the_field() {
        let error = |json| parse_conversation(json).unwrap_err().to_string();
        assert!(
            error(r#"[{"role": "system", "content": ""}]"#)
                .contains("expected `user` or `assistant`")
        );
        assert!(error(r#"[{"role": "user"}]"#).contains("missing field `content`"));
        assert!(error(r#"["hi"]"#).contains("expected a message"));
        let more = r#"[{"role": "user", "content": "a", "date": 1}]"#;
        assert_eq!(
            parse_conversation(more).unwrap(),
            [Message::new(Role::User, "a")]
        );
    }
}
