//! OpenAI's API, as far as a model of characters can serve it: chat completions, completions, and
//! the list of models (<https://platform.openai.com/docs/api-reference>).
//!
//! The name of the model in a request is not looked at: there is one. Messages of the system are
//! left out, for the model has no token for them. Without a seed, each request has its own.

use std::io;
use std::sync::Arc;

use serde_json::{Value, json};

use super::api::{App, generate_options, max_tokens, messages, role, seconds_since_1970, wrong};
use super::http::{Answer, Fields, HttpError};
use crate::data::Message;
use crate::model::{Chat, Finish, GenerateOptions, Generated, Generator};

/// What the one model is called.
const MODEL: &str = "microgpt";

/// The most choices that one request gets.
const MAX_CHOICES: u64 = 50;

/// An answer, whole or as events.
pub enum Completion {
    Whole(Answer),
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
pub fn chat_completions(app: &App, body: &[u8]) -> Result<Completion, HttpError> {
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
    Chat::new(&app.model).map_err(HttpError::bad)?;
    let subject = Subject::Conversation(conversation);
    complete(app, &fields, Kind::Chat, vec![subject])
}

/// `POST /v1/completions`.
pub fn completions(app: &App, body: &[u8]) -> Result<Completion, HttpError> {
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
) -> Result<Completion, HttpError> {
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
        return Ok(Completion::Events(Events {
            kind,
            request,
            include_usage,
        }));
    }
    let mut usage = Usage::default();
    let mut choices = Vec::new();
    for index in 0..request.choices() {
        let generated = request.choice(app, index, |_| true)?;
        usage.add(&generated, index % request.n == 0);
        let mut choice = json!({ "index": index });
        match kind {
            Kind::Chat => {
                choice["message"] =
                    json!({ "role": "assistant", "content": generated.text, "refusal": null });
            }
            Kind::Text => choice["text"] = json!(generated.text),
        }
        choice["logprobs"] = Value::Null;
        choice["finish_reason"] = json!(reason(generated.finish));
        choices.push(choice);
    }
    let mut body = envelope(kind.object(false));
    body["choices"] = Value::Array(choices);
    body["usage"] = usage.to_json();
    Ok(Completion::Whole(Answer::json(&body)))
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

    /// Makes a choice. `visit` sees the text as it comes, and ends it by returning false.
    fn choice(
        &self,
        app: &App,
        index: u64,
        mut visit: impl FnMut(&str) -> bool,
    ) -> Result<Generated, HttpError> {
        let mut filter = StopFilter::new(&self.stop);
        let take = |c| {
            let text = filter.push(c);
            (text.is_empty() || visit(&text)) && !filter.stopped
        };
        let mut generated = match &self.subjects[(index / self.n) as usize] {
            Subject::Conversation(messages) => {
                let mut chat = Chat::new(&app.model).map_err(HttpError::bad)?;
                chat.reply(messages, &self.options, index % self.n, take)
                    .generated
            }
            Subject::Prompt(prompt) => self
                .generator(app, prompt)?
                .continuation(index % self.n, take),
        };
        let rest = filter.finish();
        if !rest.is_empty() {
            visit(&rest);
        }
        generated.text = filter.text;
        app.count_tokens(generated.prompt_tokens, generated.tokens);
        Ok(generated)
    }
}

impl Events {
    /// Makes the completion, and sends each event as soon as it is there. Errors where the client
    /// is gone.
    pub fn send(self, app: &App, mut send: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
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
            let mut sent = Ok(());
            let generated = self.request.choice(app, index, |text| {
                sent = event(choice(Some(text), Value::Null), Value::Null);
                sent.is_ok()
            });
            sent?;
            let generated = generated.map_err(|error| io::Error::other(error.message))?;
            event(choice(None, json!(reason(generated.finish))), Value::Null)?;
            usage.add(&generated, index % self.request.n == 0);
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

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

#[derive(Default)]
struct Usage {
    prompt: usize,
    completion: usize,
}

impl Usage {
    /// Adds a choice; the prompt counts once for all of its choices.
    fn add(&mut self, generated: &Generated, first: bool) {
        self.prompt += if first { generated.prompt_tokens } else { 0 };
        self.completion += generated.tokens;
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
pub fn models(app: &App, name: Option<&str>) -> Result<Answer, HttpError> {
    let model =
        json!({ "id": MODEL, "object": "model", "created": app.started, "owned_by": MODEL });
    match name {
        None => Ok(Answer::json(&json!({ "object": "list", "data": [model] }))),
        Some(MODEL) => Ok(Answer::json(&model)),
        Some(name) => Err(HttpError::new(404, format!("there is no model {name:?}"))),
    }
}

/// Lets text through up to the first stop sequence, and holds back what may become one.
struct StopFilter<'a> {
    stops: &'a [String],
    /// What may be the beginning of a stop sequence.
    held: String,
    /// What was let through.
    text: String,
    stopped: bool,
}

impl<'a> StopFilter<'a> {
    fn new(stops: &'a [String]) -> Self {
        Self {
            stops,
            held: String::new(),
            text: String::new(),
            stopped: false,
        }
    }

    /// Takes a character, and gives the text that is certain by now.
    fn push(&mut self, c: char) -> String {
        self.held.push(c);
        let ended = self
            .stops
            .iter()
            .filter(|stop| self.held.ends_with(stop.as_str()));
        let certain = if let Some(longest) = ended.map(String::len).max() {
            self.stopped = true;
            self.held.len() - longest
        } else {
            // The earliest place from which what is held may still become a stop sequence.
            let mut starts = self.held.char_indices().map(|(at, _)| at);
            let may_stop = |at: &usize| {
                self.stops
                    .iter()
                    .any(|stop| stop.starts_with(&self.held[*at..]))
            };
            starts.find(may_stop).unwrap_or(self.held.len())
        };
        let rest = self.held.split_off(certain);
        let certain = std::mem::replace(
            &mut self.held,
            if self.stopped { String::new() } else { rest },
        );
        self.text += &certain;
        certain
    }

    /// Gives what is still held when the text has ended.
    fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.held);
        self.text += &rest;
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(stops: &[&str], text: &str) -> (Vec<String>, String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut filter = StopFilter::new(&stops);
        let mut parts = Vec::new();
        for c in text.chars() {
            parts.push(filter.push(c));
            if filter.stopped {
                break;
            }
        }
        parts.push(filter.finish());
        parts.retain(|part| !part.is_empty());
        (parts, filter.text, filter.stopped)
    }

    #[test]
    fn text_is_held_back_only_while_it_may_become_a_stop_sequence() {
        let parts = |parts: &[&str]| parts.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        assert_eq!(filter(&[], "ab"), (parts(&["a", "b"]), "ab".into(), false));
        assert_eq!(
            filter(&["ló"], "hello, lóng"),
            (
                parts(&["h", "e", "l", "lo", ",", " "]),
                "hello, ".into(),
                true
            )
        );
        assert_eq!(filter(&["aab"], "aaab"), (parts(&["a"]), "a".into(), true));
        assert_eq!(
            filter(&["xyz", "y"], "wxyz"),
            (parts(&["w", "x"]), "wx".into(), true)
        );
        assert_eq!(
            filter(&["xyz"], "wxy"),
            (parts(&["w", "xy"]), "wxy".into(), false)
        );
    }
}
