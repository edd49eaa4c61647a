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

/// Errors unless the body is a JSON object.
pub fn parse_body(body: &[u8]) -> Result<JsonObject, HttpError> {
    JsonObject::parse(body).map_err(|error| HttpError::bad_request(format!("the body is {error}")))
}

/// The options of generation, without a prompt.
pub fn generate_options(fields: &JsonObject) -> Result<GenerateOptions, HttpError> {
    let default = GenerateOptions::default();
    let temperature = fields.get_number("temperature")?;
    let sampling = SamplingOptions {
        temperature: temperature.unwrap_or(default.sampling.temperature),
        top_k: fields.get_integer_from("top_k", 1)?.map(|k| k as usize),
        top_p: fields.get_number("top_p")?,
        min_p: fields.get_number("min_p")?,
        ..default.sampling.clone()
    };
    sampling.validate().map_err(HttpError::bad_request)?;
    Ok(GenerateOptions {
        sampling,
        seed: fields.get_seed("seed")?.unwrap_or(default.seed),
        max_tokens: max_tokens(fields, "max_tokens")?,
        ..default
    })
}

/// A limit of sampled tokens, at most [`MAX_TOKENS`].
pub fn max_tokens(fields: &JsonObject, key: &str) -> Result<Option<usize>, HttpError> {
    let tokens = fields.get_integer_from(key, 1)?;
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

/// The role of the message at `index`: the user's or the assistant's.
pub fn role(index: usize, message: &Value) -> Result<Role, JsonError> {
    match message["role"].as_str() {
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        _ => Err(JsonError::invalid(
            format_args!("messages[{index}].role"),
            "user or assistant",
            &message["role"],
        )),
    }
}

/// The error of a message without content, or with content of the wrong type.
pub fn invalid_content(index: usize, expected: &str, content: &Value) -> JsonError {
    JsonError::invalid(format_args!("messages[{index}].content"), expected, content)
}
