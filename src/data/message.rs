//! Chat messages and their JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The author of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    #[serde(alias = "human")]
    User,
    #[serde(alias = "gpt")]
    Assistant,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "a message, {\"role\": …, \"content\": …}")]
pub struct Message {
    #[serde(alias = "from")]
    pub role: Role,
    #[serde(alias = "value")]
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

/// An object that holds a conversation, among other keys.
#[derive(Deserialize)]
#[serde(expecting = "a conversation, {\"messages\": […]}")]
struct Conversation {
    /// Called so by OpenAI's API, and `conversations` by ShareGPT, whose messages have the keys `from`
    /// and `value`.
    #[serde(alias = "conversations")]
    messages: Vec<Message>,
}

/// Parses a conversation: `[{"role": "user", "content": "…"}, …]`, `{"messages": […]}`, or ShareGPT's
/// `{"conversations": [{"from": "human", "value": "…"}, …]}`.
pub fn parse_conversation(json: &str) -> serde_json::Result<Vec<Message>> {
    match json.trim_start().starts_with('{') {
        true => Ok(serde_json::from_str::<Conversation>(json)?.messages),
        false => serde_json::from_str(json),
    }
}

/// Returns whether a line is JSON in one of the forms of a conversation, valid or not.
pub fn is_like_conversation(line: &str) -> bool {
    let first = match serde_json::from_str::<Value>(line) {
        Ok(Value::Array(messages)) => messages.first().cloned(),
        Ok(Value::Object(object)) => ["messages", "conversations"]
            .iter()
            .find_map(|key| object.get(*key)?.as_array()?.first().cloned()),
        _ => None,
    };
    first.is_some_and(|first| first.get("role").or(first.get("from")).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversation_errors_name_the_field() {
        let error = |json| parse_conversation(json).unwrap_err().to_string();
        let unknown = error(r#"[{"role": "tool", "content": ""}]"#);
        assert!(
            unknown.contains("unknown variant `tool`, expected one of `system`, "),
            "{unknown}"
        );
        assert!(error(r#"{"text": "hi"}"#).contains("missing field `messages`"));
        assert!(error(r#"[{"role": "user"}]"#).contains("missing field `content`"));
        assert!(error(r#"["hi"]"#).contains("expected a message"));
        let more = r#"[{"role": "user", "content": "a", "date": 1}]"#;
        assert_eq!(
            parse_conversation(more).unwrap(),
            [Message::new(Role::User, "a")]
        );
    }

    #[test]
    fn invalid_conversations_are_like_conversations() {
        assert!(is_like_conversation(r#"{"messages": [{"role": "tool"}]}"#));
        for line in [
            "",
            "[1]",
            "[]",
            "{}",
            r#"{"text": "a"}"#,
            r#"{"messages": "a"}"#,
            "[a]",
        ] {
            assert!(!is_like_conversation(line), "{line}");
        }
    }

    #[test]
    fn formats_of_openai_and_sharegpt_are_conversations() {
        let expected = [
            Message::new(Role::System, "s"),
            Message::new(Role::User, "hi"),
            Message::new(Role::Assistant, "yo"),
        ];
        for json in [
            r#"[{"role":"system","content":"s"},{"role":"user","content":"hi"},
                {"role":"assistant","content":"yo"}]"#,
            r#" {"id": 1, "messages": [{"role":"system","content":"s"},
                {"role":"user","content":"hi"},{"role":"assistant","content":"yo"}]}"#,
            r#"{"conversations":[{"from":"system","value":"s"},{"from":"human","value":"hi"},
                {"from":"gpt","value":"yo","weight":1}]}"#,
        ] {
            assert_eq!(parse_conversation(json).unwrap(), expected);
            assert!(is_like_conversation(json));
        }
    }
}
