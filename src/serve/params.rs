//! The request fields that microgpt's and OpenAI's endpoints share.

use serde_json::Value;

use super::http::HttpError;
use crate::data::Role;
use crate::engine::{GenerateOptions, SamplingOptions};
use crate::store::{JsonError, JsonObject, required};

/// The maximum of `max_tokens`: a model of continuous text never ends a sequence.
const MAX_TOKENS: u64 = 10_000;

impl From<JsonError> for HttpError {
    fn from(error: JsonError) -> Self {
        Self::bad_request(error)
    }
}

/// The fields that [`generate_options`] reads.
pub const SAMPLING_FIELDS: [&str; 8] = [
    "temperature",
    "seed",
    "max_tokens",
    "top_k",
    "top_p",
    "min_p",
    "min_tokens",
    "pattern",
];

/// Errors unless the body is a JSON object. A byte order mark before it is skipped.
pub fn parse_body(body: &[u8]) -> Result<JsonObject, HttpError> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    JsonObject::parse(body).map_err(|error| HttpError::bad_request(format!("the body is {error}")))
}

/// The options of generation, without a prompt.
pub fn generate_options(fields: &JsonObject) -> Result<GenerateOptions, HttpError> {
    let default = GenerateOptions::default();
    let temperature = fields.get_number("temperature")?;
    let top_p = fields.get_number("top_p")?;
    // As elsewhere, 0 and -1 are no limit.
    let top_k = match fields.get("top_k").and_then(Value::as_f64) {
        Some(0.0 | -1.0) => None,
        _ => fields.get_integer_from("top_k", 1)?.map(|k| k as usize),
    };
    let sampling = SamplingOptions {
        temperature: temperature.unwrap_or(default.sampling.temperature),
        // The smallest set that reaches the probability 0 is the most likely token.
        top_k: if top_p == Some(0.0) { Some(1) } else { top_k },
        top_p: top_p.filter(|top_p| *top_p != 0.0),
        min_p: fields.get_number("min_p")?,
        ..default.sampling.clone()
    };
    sampling.validate().map_err(HttpError::bad_request)?;
    Ok(GenerateOptions {
        sampling,
        seed: fields.get_seed("seed")?.unwrap_or(default.seed),
        max_tokens: max_tokens(fields, "max_tokens")?,
        min_tokens: fields.get_integer("min_tokens")?.unwrap_or(0) as usize,
        pattern: fields.get_string("pattern")?.map(str::to_string),
        ..default
    })
}

/// A limit of sampled tokens, at most [`MAX_TOKENS`]; −1 is the context.
pub fn max_tokens(fields: &JsonObject, key: &str) -> Result<Option<usize>, HttpError> {
    if fields.get(key).and_then(Value::as_f64) == Some(-1.0) {
        return Ok(None);
    }
    let tokens = fields.get_integer(key)?;
    Ok(tokens.map(|tokens| tokens.min(MAX_TOKENS) as usize))
}

/// The messages of a conversation, unparsed. Errors where there are none.
pub fn messages(fields: &JsonObject) -> Result<&[Value], HttpError> {
    let expected = "an array of messages, {\"role\": …, \"content\": …}";
    let messages = fields.get_as("messages", expected, Value::as_array)?;
    match &required("messages", messages)?[..] {
        [] => Err(HttpError::bad_request("messages is empty")),
        messages => Ok(messages),
    }
}

/// The role of the message at `index`. A developer is OpenAI's newer name of the system.
pub fn role(index: usize, message: &Value) -> Result<Role, JsonError> {
    match message["role"].as_str() {
        Some("system" | "developer") => Ok(Role::System),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        _ => Err(JsonError::invalid(
            format_args!("messages[{index}].role"),
            "system, user or assistant",
            &message["role"],
        )),
    }
}

/// The content of the message at `index`: a string or an array of text parts. Only a user's must not
/// be null.
pub fn content(index: usize, role: Role, message: &Value) -> Result<String, JsonError> {
    let part = |part: &Value| part["text"].as_str().map(str::to_string);
    let content = &message["content"];
    let text = match content {
        Value::Null if role != Role::User => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(part).collect(),
        _ => None,
    };
    text.ok_or_else(|| {
        let key = format!("messages[{index}].content");
        JsonError::invalid(key, "a string or an array of text parts", content)
    })
}
