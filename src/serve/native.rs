//! microgpt's own endpoints, `/microgpt/v1/…`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::app_state::AppState;
use super::handler::HandlerOutput;
use super::http::{HttpError, Response};
use super::params::{SAMPLING_FIELDS, content, generate_options, messages, parse_body, role};
use crate::data::Message;
use crate::engine::{CompletionHandle, GenerateOptions, Generator, PendingReply, Sample};

/// The maximum of `num_samples`.
const MAX_SAMPLES: u64 = 50;

/// `POST /microgpt/v1/generate`.
pub fn generate(app: &AppState, body: &[u8]) -> Result<HandlerOutput, HttpError> {
    let fields = parse_body(body)?;
    fields.reject_unknown(&[&["num_samples", "prompt"], &SAMPLING_FIELDS[..]].concat())?;
    let count = fields.get_integer_from("num_samples", 1)?.unwrap_or(1);
    let options = GenerateOptions {
        prompt: fields.get_string("prompt")?.unwrap_or_default().to_string(),
        ..positive_max_tokens(generate_options(&fields)?)?
    };
    let generator =
        Generator::new(Arc::clone(&app.model), options).map_err(HttpError::bad_request)?;
    let submit = |index| app.decode_pool.submit(generator.sequence(index), &[]);
    // All samples are queued before the first is waited for.
    let pending: Vec<CompletionHandle> = (0..count.min(MAX_SAMPLES)).map(submit).collect();
    let mut samples = Vec::with_capacity(pending.len());
    for handle in pending {
        let completion = handle.wait()?;
        app.metrics.count_prompt(generator.prompt().len());
        samples.push(match generator.decode(&completion.tokens) {
            Sample::Text(text) => text,
            Sample::Conversation(messages) => {
                let contents: Vec<String> = messages.into_iter().map(|m| m.content).collect();
                contents.join("\n")
            }
        });
    }
    let response = Response::json(&json!({ "samples": samples }));
    Ok(HandlerOutput::Full(response))
}

/// `POST /microgpt/v1/chat`.
pub fn chat(app: &AppState, body: &[u8]) -> Result<HandlerOutput, HttpError> {
    let fields = parse_body(body)?;
    fields.reject_unknown(&[&["messages"], &SAMPLING_FIELDS[..]].concat())?;
    let options = positive_max_tokens(generate_options(&fields)?)?;
    let messages = messages(&fields)?.iter().enumerate();
    let messages: Vec<Message> = messages
        .map(|(index, value)| message(index, value))
        .collect::<Result<_, _>>()?;
    let reply =
        PendingReply::new(&app.model, &messages, &options, 0).map_err(HttpError::bad_request)?;
    let completion = app.decode_pool.submit(reply.sequence, &[]).wait()?;
    app.metrics.count_prompt(reply.prompt_tokens);
    Ok(HandlerOutput::Full(Response::json(&json!({
        "role": "assistant",
        "content": completion.text,
        "tokens_dropped": reply.tokens_dropped,
    }))))
}

fn message(index: usize, value: &Value) -> Result<Message, HttpError> {
    let role = role(index, value)?;
    Ok(Message::new(role, content(index, role, value)?))
}

fn positive_max_tokens(options: GenerateOptions) -> Result<GenerateOptions, HttpError> {
    match options.max_tokens {
        Some(0) => Err(HttpError::bad_request("max_tokens must be >= 1, got 0")),
        _ => Ok(options),
    }
}
