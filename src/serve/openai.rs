//! OpenAI's API, as far as a model of characters can serve it: chat completions, completions, and
//! the list of models (<https://platform.openai.com/docs/api-reference>).
//!
//! The name of the model in a request is not looked at: there is one. Messages of the system are
//! left out, for the model has no token for them. Without a seed, each request has its own.

use std::io;
use std::sync::Arc;

use serde_json::{Value, json};

use super::api::{App, generate_options, max_tokens, messages, role, seconds_since_1970, wrong};
use super::engine::Completion;
use super::http::{Fields, HttpError, Response};
use crate::data::Message;
use crate::engine::{
    FinishReason, GenerateOptions, Generator, PendingReply, Sequence, chat_tokens,
};

/// What the one model is called.
const MODEL: &str = "microgpt";

/// The most choices that one request gets.
const MAX_CHOICES: u64 = 50;

/// An answer, whole or as events.
pub enum Reply {
    Whole(Response),
    Events(Events),
}

/// A completion that is still to be made, an event for each character.
pub struct Events {
    kind: Kind,
    request: Request,
    include_usage: bool,
}

/// Which of the two endpoints.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Chat,
    Text,
}

impl Kind {
    fn object(self, stream: bool) -> &'static str {
        match (self, stream) {
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
            (Kind::Text, _) => "text_completion",
        }
    }
}

/// What is to be completed, and how.
struct Request {
    subjects: Vec<Subject>,
    options: GenerateOptions,
    /// How many choices there are of each.
    n: u64,
    stop: Vec<String>,
}

enum Subject {
    Conversation(Vec<Message>),
    Prompt(String),
}

/// `POST /v1/chat/completions`.
pub fn chat_completions(app: &App, body: &[u8]) -> Result<Reply, HttpError> {
    let fields = Fields::parse(body)?;
    let mut conversation = Vec::new();
    for (i, value) in messages(&fields)?.iter().enumerate() {
        if !matches!(value["role"].as_str(), Some("system" | "developer")) {
            conversation.push(Message::new(
                role(i, value)?,
                content(i, &value["content"])?,
            ));
        }
    }
    chat_tokens(&app.model).map_err(HttpError::bad)?;
    let subject = Subject::Conversation(conversation);
    complete(app, &fields, Kind::Chat, vec![subject])
}

/// `POST /v1/completions`.
pub fn completions(app: &App, body: &[u8]) -> Result<Reply, HttpError> {
    let fields = Fields::parse(body)?;
    if app.model.meta().is_chat() {
        return Err(HttpError::bad("this model chats; use /v1/chat/completions"));
    }
    let prompts = fields.convert("prompt", strings, || "a string, or an array of them".into())?;
    let prompts = prompts.unwrap_or_else(|| vec![String::new()]);
    complete(
        app,
        &fields,
        Kind::Text,
        prompts.into_iter().map(Subject::Prompt).collect(),
    )
}

/// One string, or an array of them.
fn strings(value: &Value) -> Option<Vec<String>> {
    let string = |value: &Value| value.as_str().map(str::to_string);
    match value {
        Value::Array(values) => values.iter().map(string).collect(),
        value => string(value).map(|string| vec![string]),
    }
}

/// A message's content: a string, or parts of text.
fn content(index: usize, content: &Value) -> Result<String, HttpError> {
    let part = |part: &Value| part["text"].as_str().map(str::to_string);
    let text = match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(part).collect(),
        _ => None,
    };
    text.ok_or_else(|| {
        wrong(
            index,
            "content",
            "a string or an array of text parts",
            content,
        )
    })
}

fn complete(
    app: &App,
    fields: &Fields,
    kind: Kind,
    subjects: Vec<Subject>,
) -> Result<Reply, HttpError> {
    let mut options = generate_options(fields)?;
    let most = max_tokens(fields, "max_completion_tokens")?;
    options.max_tokens = most.or(options.max_tokens);
    if fields.get("seed").is_none() {
        options.seed = fastrand::u64(..);
    }
    let mut stop = fields
        .convert("stop", strings, || "a string, or an array of them".into())?
        .unwrap_or_default();
    stop.retain(|stop| !stop.is_empty());
    let n = fields.whole("n", 1)?.unwrap_or(1);
    if !(1..=MAX_CHOICES).contains(&n.saturating_mul(subjects.len() as u64)) {
        return Err(HttpError::bad(format!(
            "a request gets from 1 to {MAX_CHOICES} choices"
        )));
    }
    let request = Request {
        subjects,
        options,
        n,
        stop,
    };
    // What is wrong with a prompt has to be said before the first event.
    for subject in &request.subjects {
        if let Subject::Prompt(prompt) = subject {
            request.generator(app, prompt)?;
        }
    }
    if fields.flag("stream")?.unwrap_or(false) {
        let include_usage = fields
            .get("stream_options")
            .is_some_and(|o| o["include_usage"] == true);
        return Ok(Reply::Events(Events {
            kind,
            request,
            include_usage,
        }));
    }
    let mut usage = Usage::default();
    let mut choices = Vec::new();
    let choice = |index| request.choice(app, index);
    let pending = (0..request.choices()).map(choice);
    let pending: Vec<Choice> = pending.collect::<Result<_, _>>()?;
    let order = |choice: Choice| {
        let pending = app.engine.order(choice.text, &request.stop);
        (pending, choice.prompt_tokens)
    };
    // All of them are under way before the first is waited for.
    let pending: Vec<_> = pending.into_iter().map(order).collect();
    for (index, (pending, prompt_tokens)) in (0..).zip(pending) {
        let made = pending.wait()?;
        usage.add(app, &made, prompt_tokens, index % request.n == 0);
        let mut choice = json!({ "index": index });
        match kind {
            Kind::Chat => {
                choice["message"] =
                    json!({ "role": "assistant", "content": made.text, "refusal": null });
            }
            Kind::Text => choice["text"] = json!(made.text),
        }
        choice["logprobs"] = Value::Null;
        choice["finish_reason"] = json!(reason(made.finish));
        choices.push(choice);
    }
    let mut body = envelope(kind.object(false));
    body["choices"] = Value::Array(choices);
    body["usage"] = usage.to_json();
    Ok(Reply::Whole(Response::json(&body)))
}

/// A choice that is still to be made.
struct Choice {
    text: Sequence,
    prompt_tokens: usize,
}

impl Request {
    fn choices(&self) -> u64 {
        self.n * self.subjects.len() as u64
    }

    fn generator(&self, app: &App, prompt: &str) -> Result<Generator, HttpError> {
        let options = GenerateOptions {
            prompt: prompt.to_string(),
            ..self.options.clone()
        };
        Generator::new(Arc::clone(&app.model), options).map_err(HttpError::bad)
    }

    fn choice(&self, app: &App, index: u64) -> Result<Choice, HttpError> {
        match &self.subjects[(index / self.n) as usize] {
            Subject::Conversation(messages) => {
                let index = index % self.n;
                let reply = PendingReply::new(&app.model, messages, &self.options, index)
                    .map_err(HttpError::bad)?;
                Ok(Choice {
                    text: reply.text,
                    prompt_tokens: reply.prompt_tokens,
                })
            }
            Subject::Prompt(prompt) => {
                let generator = self.generator(app, prompt)?;
                Ok(Choice {
                    text: generator.text(index % self.n),
                    prompt_tokens: generator.prompt_tokens(),
                })
            }
        }
    }
}

impl Events {
    /// Makes the completion, and sends each event as soon as it is there. Errors where the client
    /// is gone.
    pub fn send(self, app: &App, mut send: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
        let failed = |error: HttpError| io::Error::other(error.message);
        let envelope = envelope(self.kind.object(true));
        let mut event = |choices: Value, usage: Value| {
            let mut event = envelope.clone();
            event["choices"] = choices;
            if self.include_usage {
                event["usage"] = usage;
            }
            send(&event.to_string())
        };
        let mut usage = Usage::default();
        for index in 0..self.request.choices() {
            let choice = |text: Option<&str>, reason: Value| match self.kind {
                Kind::Chat => {
                    let delta = text.map_or(json!({}), |text| json!({ "content": text }));
                    json!([{ "index": index, "delta": delta, "logprobs": null, "finish_reason": reason }])
                }
                Kind::Text => {
                    let text = text.unwrap_or_default();
                    json!([{ "index": index, "text": text, "logprobs": null, "finish_reason": reason }])
                }
            };
            if self.kind == Kind::Chat {
                let mut first = choice(Some(""), Value::Null);
                first[0]["delta"]["role"] = json!("assistant");
                event(first, Value::Null)?;
            }
            let Choice {
                text,
                prompt_tokens,
            } = self.request.choice(app, index).map_err(failed)?;
            let mut sent = Ok(());
            let visit = |text: &str| {
                sent = event(choice(Some(text), Value::Null), Value::Null);
                sent.is_ok()
            };
            let made = app.engine.stream(text, &self.request.stop, visit);
            sent?;
            if let Some(made) = made.map_err(failed)? {
                event(choice(None, json!(reason(made.finish))), Value::Null)?;
                usage.add(app, &made, prompt_tokens, index % self.request.n == 0);
            }
        }
        if self.include_usage {
            event(json!([]), usage.to_json())?;
        }
        send("[DONE]")
    }
}

/// What every completion begins with.
fn envelope(object: &str) -> Value {
    let id = format!("cmpl-{:016x}", fastrand::u64(..));
    let created = seconds_since_1970();
    json!({ "id": id, "object": object, "created": created, "model": MODEL })
}

fn reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

#[derive(Default)]
struct Usage {
    prompt: usize,
    completion: usize,
}

impl Usage {
    /// Adds a choice; the prompt counts once for all of its choices.
    fn add(&mut self, app: &App, made: &Completion, prompt_tokens: usize, first: bool) {
        app.metrics.count_prompt(prompt_tokens);
        self.prompt += if first { prompt_tokens } else { 0 };
        self.completion += made.sampled.len();
    }

    fn to_json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        })
    }
}

/// `GET /v1/models`, and one of them by its name.
pub fn models(app: &App, name: Option<&str>) -> Result<Response, HttpError> {
    let model =
        json!({ "id": MODEL, "object": "model", "created": app.started, "owned_by": MODEL });
    match name {
        None => Ok(Response::json(
            &json!({ "object": "list", "data": [model] }),
        )),
        Some(MODEL) => Ok(Response::json(&model)),
        Some(name) => Err(HttpError::new(404, format!("there is no model {name:?}"))),
    }
}
