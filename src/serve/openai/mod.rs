//! The endpoints of OpenAI's API: chat completions, completions and the list of models
//! (<https://platform.openai.com/docs/api-reference>).
//!
//! - `request`: the fields of a request, and the refusal of what the model cannot do.
//! - `response`: the choices, log-probabilities and usage of a response or of its events.
//!
//! The `model` of a request is ignored: there is one. So are system and developer messages, if the model
//! was trained without any. A request without a seed gets a random one.

mod request;
mod response;

use std::io;

#[cfg(test)]
pub use request::request_fields;
use request::{CompletionRequest, Prompts};
use response::{Choice, Echo, Format, LoggedToken, Usage};
use serde_json::{Value, json};

use super::app_state::AppState;
use super::handler::HandlerOutput;
use super::http::{HttpError, Response};
use crate::engine::{Completion, FinishReason, Sequence, TokenLogprob};

/// The name of the served model.
const MODEL: &str = "microgpt";

/// `POST /v1/chat/completions`.
pub fn chat_completions(app: &AppState, body: &[u8]) -> Result<HandlerOutput, HttpError> {
    CompletionRequest::parse_chat(app, body)?.run(app)
}

/// `POST /v1/completions`.
pub fn completions(app: &AppState, body: &[u8]) -> Result<HandlerOutput, HttpError> {
    CompletionRequest::parse_text(app, body)?.run(app)
}

impl CompletionRequest {
    fn run(self, app: &AppState) -> Result<HandlerOutput, HttpError> {
        match self.options.stream {
            true => Ok(HandlerOutput::Events(Box::new(move |app, send| {
                self.stream(app, send)
            }))),
            false => self.respond(app).map(HandlerOutput::Full),
        }
    }

    fn format(&self) -> Format {
        match (&self.prompts, self.options.stream) {
            (Prompts::Conversation(_), false) => Format::Chat,
            (Prompts::Conversation(_), true) => Format::ChatEvent,
            (Prompts::Texts(_), _) => Format::Text,
        }
    }

    /// A choice's sequence, which records log-probabilities if they are asked for, and the length of its
    /// prompt in tokens.
    fn sequence(&self, app: &AppState, index: u64) -> Result<(Sequence, usize), HttpError> {
        let (mut sequence, prompt_tokens) = self.plain_sequence(app, index)?;
        if let Some(top_count) = self.options.top_logprobs {
            sequence.record_logprobs(top_count);
        }
        Ok((sequence, prompt_tokens))
    }

    /// The prompt of a choice, if it is to be repeated before the generated text: the same for all choices
    /// of the prompt.
    fn echo(&self, index: u64) -> Echo {
        match self.generator(index) {
            Some(generator) if self.options.echo => Echo::new(generator, self.options.top_logprobs),
            _ => Echo::default(),
        }
    }

    /// The response with all choices.
    fn respond(&self, app: &AppState) -> Result<Response, HttpError> {
        let submit = |index| {
            let (sequence, prompt_tokens) = self.sequence(app, index)?;
            let is_generated = !self.options.only_echo;
            let stop = &self.options.stop;
            let handle = is_generated.then(|| app.decode_pool.submit(sequence, stop));
            Ok((handle, prompt_tokens))
        };
        // All choices are queued before the first is waited for.
        let pending = (0..self.choices()).map(submit);
        let pending: Vec<_> = pending.collect::<Result<_, HttpError>>()?;
        let (mut usage, mut echo) = (Usage::default(), Echo::default());
        let mut choices = Vec::with_capacity(pending.len());
        for (index, (handle, prompt_tokens)) in (0..).zip(pending) {
            let completion = match handle {
                Some(handle) => handle.wait()?,
                None => Completion::empty(),
            };
            app.metrics.count_prompt(prompt_tokens);
            usage.add(self.is_first_choice(index), prompt_tokens, &completion);
            if self.is_first_choice(index) {
                echo = self.echo(index);
            }
            let choice = self.choice(app, index, echo.clone(), completion);
            choices.push(choice.to_json(self.format()));
        }
        let mut body = self.format().envelope(MODEL);
        body["choices"] = Value::Array(choices);
        body["usage"] = usage.to_json();
        Ok(Response::json(&body))
    }

    fn choice<'a>(
        &self,
        app: &'a AppState,
        index: u64,
        echo: Echo,
        completion: Completion,
    ) -> Choice<'a> {
        let Echo {
            mut text,
            mut tokens,
        } = echo;
        let tokenizer = &app.model.meta().tokenizer;
        let end = self.end_token(app, &completion);
        // The tokens of a stop sequence are not part of the text.
        let text_tokens = completion.logprobs.into_iter();
        let text_tokens = text_tokens.take(completion.text_tokens);
        tokens.extend(text_tokens.map(LoggedToken::from));
        tokens.extend(end);
        text += &completion.text;
        Choice {
            index,
            text: Some(text),
            logprobs: self.options.top_logprobs.map(|_| (tokenizer, 0, tokens)),
            finish: Some(completion.finish),
        }
    }

    /// The log-probability of the token with which a text completion ended by itself, which is a
    /// generated token without text.
    fn end_token(&self, app: &AppState, completion: &Completion) -> Option<LoggedToken> {
        let last = completion.logprobs.last()?;
        let is_end = app.model.meta().tokenizer.bytes_of(last.token).is_none();
        (is_end && self.format() == Format::Text).then(|| LoggedToken::from(last.clone()))
    }

    /// Decodes the choices in turn and passes each event to `send` as it is generated. Errors where
    /// `send` does, which cancels the rest.
    fn stream(
        &self,
        app: &AppState,
        send: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> io::Result<()> {
        let include_usage = self.options.include_usage;
        let format = self.format();
        let envelope = format.envelope(MODEL);
        let mut send_event = |choices: Value, usage: Value| {
            let mut event = envelope.clone();
            event["choices"] = choices;
            if include_usage {
                event["usage"] = usage;
            }
            send(&event.to_string())
        };
        let tokenizer = &app.model.meta().tokenizer;
        let (mut usage, mut echo) = (Usage::default(), Echo::default());
        for index in 0..self.choices() {
            if format == Format::ChatEvent {
                send_event(json!([Choice::first_event(index)]), Value::Null)?;
            }
            let mut offset = 0;
            let mut send_text = |text: String, tokens: Vec<LoggedToken>| {
                let length = text.chars().count();
                let choice = Choice {
                    index,
                    text: Some(text),
                    logprobs: self
                        .options
                        .top_logprobs
                        .map(|_| (tokenizer, offset, tokens)),
                    finish: None,
                };
                offset += length;
                send_event(json!([choice.to_json(format)]), Value::Null)
            };
            let (sequence, prompt_tokens) = self.sequence(app, index).map_err(stream_error)?;
            if self.is_first_choice(index) {
                echo = self.echo(index);
            }
            if !echo.text.is_empty() {
                send_text(echo.text.clone(), echo.tokens.clone())?;
            }
            let mut sent = Ok(());
            let visit = |text: &str, logprobs: &[TokenLogprob]| {
                let tokens = logprobs.iter().cloned().map(LoggedToken::from);
                sent = send_text(text.to_string(), tokens.collect());
                sent.is_ok()
            };
            let completion = match self.options.only_echo {
                true => Ok(Some(Completion::empty())),
                false => app.decode_pool.stream(sequence, &self.options.stop, visit),
            };
            sent?;
            if let Some(completion) = completion.map_err(|lost| stream_error(lost.into()))? {
                let end = self.end_token(app, &completion);
                let last = Choice {
                    index,
                    text: None,
                    logprobs: end.map(|end| (tokenizer, offset, vec![end])),
                    finish: Some(completion.finish),
                };
                send_event(json!([last.to_json(format)]), Value::Null)?;
                app.metrics.count_prompt(prompt_tokens);
                usage.add(self.is_first_choice(index), prompt_tokens, &completion);
            }
        }
        if include_usage {
            send_event(json!([]), usage.to_json())?;
        }
        send("[DONE]")
    }
}

impl Completion {
    /// The completion of a request that only repeats its prompt.
    fn empty() -> Self {
        Self {
            text: String::new(),
            text_tokens: 0,
            tokens: Vec::new(),
            logprobs: Vec::new(),
            finish: FinishReason::Length,
        }
    }
}

fn stream_error(error: HttpError) -> io::Error {
    io::Error::other(error.message)
}

/// `GET /v1/models`, and `GET /v1/models/{name}`.
pub fn models(app: &AppState, name: Option<&str>) -> Result<Response, HttpError> {
    let created = app.started;
    let model = json!({ "id": MODEL, "object": "model", "created": created, "owned_by": MODEL });
    match name {
        None => Ok(Response::json(
            &json!({ "object": "list", "data": [model] }),
        )),
        Some(MODEL) => Ok(Response::json(&model)),
        Some(name) => Err(HttpError::new(
            404,
            format!("no model {name:?}; there is {MODEL:?}"),
        )),
    }
}
