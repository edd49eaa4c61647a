//! The endpoints of OpenAI's API: chat completions, completions and the list of models
//! (<https://platform.openai.com/docs/api-reference>).
//!
//! The `model` of a request is ignored: there is one. System and developer messages are ignored:
//! the model has no token for them. A request without a seed gets a random one.

use std::io;
use std::sync::Arc;

use serde_json::{Value, json};

use super::app_state::{AppState, unix_time};
use super::handler::HandlerOutput;
use super::http::{HttpError, Response};
use super::params::{generate_options, invalid_content, max_tokens, messages, parse_body, role};
use crate::data::Message;
use crate::engine::{
    FinishReason, GenerateOptions, Generator, PendingReply, Sequence, chat_tokens,
};
use crate::store::JsonObject;

/// The name of the served model.
const MODEL: &str = "microgpt";

/// The maximum number of choices per request.
const MAX_CHOICES: u64 = 50;

/// A valid request of either endpoint.
struct CompletionRequest {
    prompts: Prompts,
    options: CompletionOptions,
}

enum Prompts {
    /// The one prompt of a chat completion.
    Conversation(Vec<Message>),
    /// The prompts of text completions.
    Texts(Vec<Generator>),
}

struct CompletionOptions {
    generate: GenerateOptions,
    /// The number of choices per prompt.
    n: u64,
    stop: Vec<String>,
    stream: bool,
    include_usage: bool,
}

/// `POST /v1/chat/completions`.
pub fn chat_completions(app: &AppState, body: &[u8]) -> Result<HandlerOutput, HttpError> {
    let fields = parse_body(body)?;
    let mut conversation = Vec::new();
    for (index, message) in messages(&fields)?.iter().enumerate() {
        if !matches!(message["role"].as_str(), Some("system" | "developer")) {
            let role = role(index, message)?;
            conversation.push(Message::new(role, content(index, &message["content"])?));
        }
    }
    chat_tokens(&app.model).map_err(HttpError::bad_request)?;
    let request = CompletionRequest {
        prompts: Prompts::Conversation(conversation),
        options: CompletionOptions::parse(&fields, 1)?,
    };
    request.run(app)
}

/// `POST /v1/completions`.
pub fn completions(app: &AppState, body: &[u8]) -> Result<HandlerOutput, HttpError> {
    let fields = parse_body(body)?;
    if app.model.meta().is_chat() {
        let message = "this is a chat model; use /v1/chat/completions";
        return Err(HttpError::bad_request(message));
    }
    let prompts = strings(&fields, "prompt")?.unwrap_or_else(|| vec![String::new()]);
    let options = CompletionOptions::parse(&fields, prompts.len())?;
    let prompt = |prompt| {
        let options = GenerateOptions {
            prompt,
            ..options.generate.clone()
        };
        Generator::new(Arc::clone(&app.model), options).map_err(HttpError::bad_request)
    };
    let generators = prompts.into_iter().map(prompt).collect::<Result<_, _>>()?;
    let prompts = Prompts::Texts(generators);
    CompletionRequest { prompts, options }.run(app)
}

/// An optional string or array of strings.
fn strings(fields: &JsonObject, key: &str) -> Result<Option<Vec<String>>, HttpError> {
    let string = |value: &Value| value.as_str().map(str::to_string);
    let convert = |value: &Value| match value {
        Value::Array(values) => values.iter().map(string).collect(),
        value => string(value).map(|string| vec![string]),
    };
    Ok(fields.get_as(key, "a string or an array of strings", convert)?)
}

/// The content of a message: a string, or an array of text parts.
fn content(index: usize, content: &Value) -> Result<String, HttpError> {
    let part = |part: &Value| part["text"].as_str().map(str::to_string);
    let text = match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(part).collect(),
        _ => None,
    };
    let expected = "a string or an array of text parts";
    text.ok_or_else(|| invalid_content(index, expected, content).into())
}

impl CompletionOptions {
    fn parse(fields: &JsonObject, prompts: usize) -> Result<Self, HttpError> {
        let mut generate = generate_options(fields)?;
        let max_completion_tokens = max_tokens(fields, "max_completion_tokens")?;
        generate.max_tokens = max_completion_tokens.or(generate.max_tokens);
        if fields.get("seed").is_none() {
            generate.seed = fastrand::u64(..);
        }
        let mut stop = strings(fields, "stop")?.unwrap_or_default();
        stop.retain(|stop| !stop.is_empty());
        let n = fields.get_integer_from("n", 1)?.unwrap_or(1);
        let choices = n.saturating_mul(prompts as u64);
        if !(1..=MAX_CHOICES).contains(&choices) {
            return Err(HttpError::bad_request(format!(
                "a request gets from 1 to {MAX_CHOICES} choices, not {choices}"
            )));
        }
        let stream_options = fields.get("stream_options");
        Ok(Self {
            generate,
            n,
            stop,
            stream: fields.get_bool("stream")?.unwrap_or(false),
            include_usage: stream_options.is_some_and(|options| options["include_usage"] == true),
        })
    }
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

    fn choices(&self) -> u64 {
        let prompts = match &self.prompts {
            Prompts::Conversation(_) => 1,
            Prompts::Texts(generators) => generators.len() as u64,
        };
        self.options.n * prompts
    }

    /// The sequence of a choice, and the length of its prompt in tokens.
    fn sequence(&self, app: &AppState, index: u64) -> Result<(Sequence, usize), HttpError> {
        let n = self.options.n;
        match &self.prompts {
            Prompts::Conversation(messages) => {
                let reply = PendingReply::new(&app.model, messages, &self.options.generate, index)
                    .map_err(HttpError::bad_request)?;
                Ok((reply.sequence, reply.prompt_tokens))
            }
            Prompts::Texts(generators) => {
                let generator = &generators[(index / n) as usize];
                Ok((generator.sequence(index % n), generator.prompt_tokens()))
            }
        }
    }

    /// The first fields of the response, or of every event.
    fn envelope(&self) -> Value {
        let object = match (&self.prompts, self.options.stream) {
            (Prompts::Conversation(_), false) => "chat.completion",
            (Prompts::Conversation(_), true) => "chat.completion.chunk",
            (Prompts::Texts(_), _) => "text_completion",
        };
        let id = format!("cmpl-{:016x}", fastrand::u64(..));
        json!({ "id": id, "object": object, "created": unix_time(), "model": MODEL })
    }

    /// The response with all choices.
    fn respond(&self, app: &AppState) -> Result<Response, HttpError> {
        let submit = |index| {
            let (sequence, prompt_tokens) = self.sequence(app, index)?;
            let handle = app.decode_pool.submit(sequence, &self.options.stop);
            Ok((handle, prompt_tokens))
        };
        // All choices are queued before the first is waited for.
        let pending = (0..self.choices()).map(submit);
        let pending: Vec<_> = pending.collect::<Result<_, HttpError>>()?;
        let mut usage = Usage::default();
        let mut choices = Vec::with_capacity(pending.len());
        for (index, (handle, prompt_tokens)) in (0..).zip(pending) {
            let completion = handle.wait()?;
            app.metrics.count_prompt(prompt_tokens);
            usage.add(self, index, prompt_tokens, completion.tokens.len());
            let text = completion.text;
            let (key, value) = match self.prompts {
                Prompts::Conversation(_) => {
                    let message = json!({ "role": "assistant", "content": text, "refusal": null });
                    ("message", message)
                }
                Prompts::Texts(_) => ("text", json!(text)),
            };
            choices.push(choice_json(index, key, value, Some(completion.finish)));
        }
        let mut body = self.envelope();
        body["choices"] = Value::Array(choices);
        body["usage"] = usage.to_json();
        Ok(Response::json(&body))
    }

    /// Decodes the choices in turn and passes each event to `send` as it is generated. Errors where
    /// `send` does, which cancels the rest.
    fn stream(
        &self,
        app: &AppState,
        send: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> io::Result<()> {
        let include_usage = self.options.include_usage;
        let envelope = self.envelope();
        let mut send_event = |choices: Value, usage: Value| {
            let mut event = envelope.clone();
            event["choices"] = choices;
            if include_usage {
                event["usage"] = usage;
            }
            send(&event.to_string())
        };
        let mut usage = Usage::default();
        for index in 0..self.choices() {
            if let Prompts::Conversation(_) = self.prompts {
                let delta = json!({ "content": "", "role": "assistant" });
                let first = choice_json(index, "delta", delta, None);
                send_event(json!([first]), Value::Null)?;
            }
            let (sequence, prompt_tokens) = self.sequence(app, index).map_err(stream_error)?;
            let mut sent = Ok(());
            let visit = |text: &str| {
                sent = send_event(self.delta(index, Some(text), None), Value::Null);
                sent.is_ok()
            };
            let stop = &self.options.stop;
            let completion = app.decode_pool.stream(sequence, stop, visit);
            sent?;
            if let Some(completion) = completion.map_err(|lost| stream_error(lost.into()))? {
                let last = self.delta(index, None, Some(completion.finish));
                send_event(last, Value::Null)?;
                app.metrics.count_prompt(prompt_tokens);
                usage.add(self, index, prompt_tokens, completion.tokens.len());
            }
        }
        if include_usage {
            send_event(json!([]), usage.to_json())?;
        }
        send("[DONE]")
    }

    /// The `choices` of an event with some text, or of the last event of a choice.
    fn delta(&self, index: u64, text: Option<&str>, finish: Option<FinishReason>) -> Value {
        let (key, value) = match (&self.prompts, text) {
            (Prompts::Conversation(_), Some(text)) => ("delta", json!({ "content": text })),
            (Prompts::Conversation(_), None) => ("delta", json!({})),
            (Prompts::Texts(_), text) => ("text", json!(text.unwrap_or_default())),
        };
        json!([choice_json(index, key, value, finish)])
    }
}

fn stream_error(error: HttpError) -> io::Error {
    io::Error::other(error.message)
}

/// A choice of a response or an event, with its output under `key`.
fn choice_json(index: u64, key: &str, output: Value, finish: Option<FinishReason>) -> Value {
    let finish_reason = finish.map(|finish| match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    });
    json!({ "index": index, key: output, "logprobs": null, "finish_reason": finish_reason })
}

/// The numbers of tokens of a response.
#[derive(Default)]
struct Usage {
    prompt: usize,
    completion: usize,
}

impl Usage {
    /// Adds a choice. A prompt counts once for all of its choices.
    fn add(&mut self, request: &CompletionRequest, index: u64, prompt: usize, completion: usize) {
        if index.is_multiple_of(request.options.n) {
            self.prompt += prompt;
        }
        self.completion += completion;
    }

    fn to_json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        })
    }
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
