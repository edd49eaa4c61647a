//! microgpt's own endpoints: `/microgpt/v1/…`, health and metrics.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::engine::{CompletionHandle, Engine};
use super::http::{Fields, HttpError, Response, abbreviate};
use super::metrics::Metrics;
use crate::data::{Message, Role};
use crate::engine::{GenerateOptions, Generator, PendingReply, Sample, SamplingOptions};
use crate::infer::InferenceGpt;

/// The most samples that one request gets.
const MAX_SAMPLES: u64 = 50;

/// The most tokens that one text gets: a model of a continuous text would never end it.
const MAX_TOKENS: u64 = 10_000;

/// What all requests share.
pub struct App {
    pub model: Arc<InferenceGpt>,
    /// What `GET /microgpt/v1/info` answers.
    pub info: Value,
    pub metrics: Arc<Metrics>,
    pub engine: Engine,
    /// When the server was started, in seconds since 1970.
    pub started: u64,
}

/// Now, as OpenAI's API has it.
pub fn seconds_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// `POST /microgpt/v1/generate`.
pub fn generate(app: &App, body: &[u8]) -> Result<Response, HttpError> {
    let fields = Fields::parse(body)?;
    fields.only(&[
        "num_samples",
        "temperature",
        "seed",
        "max_tokens",
        "prompt",
        "top_k",
        "top_p",
        "min_p",
    ])?;
    let count = fields
        .whole("num_samples", 1)?
        .unwrap_or(1)
        .min(MAX_SAMPLES);
    let options = GenerateOptions {
        prompt: fields.string("prompt")?.unwrap_or_default(),
        ..generate_options(&fields)?
    };
    let generator = Generator::new(Arc::clone(&app.model), options).map_err(HttpError::bad)?;
    let order = |index| app.engine.order(generator.text(index), &[]);
    // All of them are under way before the first is waited for.
    let pending: Vec<CompletionHandle> = (0..count).map(order).collect();
    let text = |pending: CompletionHandle| {
        let made = pending.wait()?;
        app.metrics.count_prompt(generator.prompt_tokens());
        Ok(match generator.sample_of(&made.sampled) {
            Sample::Text(text) | Sample::Passage(text) => text,
            Sample::Conversation(messages) => {
                let contents: Vec<String> = messages.into_iter().map(|m| m.content).collect();
                contents.join("\n")
            }
        })
    };
    let samples: Vec<String> = pending
        .into_iter()
        .map(text)
        .collect::<Result<_, HttpError>>()?;
    Ok(Response::json(&json!({ "samples": samples })))
}

/// `POST /microgpt/v1/chat`.
pub fn chat(app: &App, body: &[u8]) -> Result<Response, HttpError> {
    let fields = Fields::parse(body)?;
    fields.only(&[
        "messages",
        "temperature",
        "seed",
        "max_tokens",
        "top_k",
        "top_p",
        "min_p",
    ])?;
    let options = generate_options(&fields)?;
    let messages = messages(&fields)?
        .iter()
        .enumerate()
        .map(|(i, value)| message(i, value))
        .collect::<Result<Vec<Message>, _>>()?;
    let reply = PendingReply::new(&app.model, &messages, &options, 0).map_err(HttpError::bad)?;
    let made = app.engine.order(reply.text, &[]).wait()?;
    app.metrics.count_prompt(reply.prompt_tokens);
    Ok(Response::json(&json!({
        "role": "assistant",
        "content": made.text,
        "tokens_dropped": reply.tokens_dropped,
    })))
}

/// The options of everything that makes text; the prompt is the caller's.
pub fn generate_options(fields: &Fields) -> Result<GenerateOptions, HttpError> {
    let default = SamplingOptions::default();
    let sampling = SamplingOptions {
        temperature: fields.number("temperature")?.unwrap_or(default.temperature),
        top_k: fields.whole("top_k", 1)?.map(|k| k as usize),
        top_p: fields.number("top_p")?,
        min_p: fields.number("min_p")?,
    };
    sampling.validate().map_err(HttpError::bad)?;
    Ok(GenerateOptions {
        sampling,
        seed: fields.seed("seed")?.unwrap_or(42),
        max_tokens: max_tokens(fields, "max_tokens")?,
        prompt: String::new(),
    })
}

/// How many tokens a text is to have at most.
pub fn max_tokens(fields: &Fields, name: &str) -> Result<Option<usize>, HttpError> {
    let tokens = fields.whole(name, 1)?;
    Ok(tokens.map(|tokens| tokens.min(MAX_TOKENS) as usize))
}

/// The messages of a request, each still as it was sent.
pub fn messages(fields: &Fields) -> Result<Vec<Value>, HttpError> {
    let messages = fields.convert(
        "messages",
        |value| value.as_array().cloned(),
        || "an array of messages, {\"role\": …, \"content\": …}".to_string(),
    )?;
    match messages {
        None => Err(HttpError::bad("messages is missing")),
        Some(messages) if messages.is_empty() => Err(HttpError::bad("messages is empty")),
        Some(messages) => Ok(messages),
    }
}

/// A message, which has to be the user's or the assistant's.
fn message(index: usize, value: &Value) -> Result<Message, HttpError> {
    let role = role(index, value)?;
    match value["content"].as_str() {
        Some(content) => Ok(Message::new(role, content)),
        None => Err(wrong(index, "content", "a string", &value["content"])),
    }
}

/// The role of a message.
pub fn role(index: usize, value: &Value) -> Result<Role, HttpError> {
    match value["role"].as_str() {
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        _ => Err(wrong(index, "role", "user or assistant", &value["role"])),
    }
}

/// The error of a message's field.
pub fn wrong(index: usize, field: &str, expected: &str, found: &Value) -> HttpError {
    HttpError::bad(format!(
        "messages[{index}].{field} must be {expected}, got {}",
        abbreviate(found)
    ))
}
