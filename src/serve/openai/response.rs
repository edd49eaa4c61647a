//! The JSON of OpenAI's responses and events.

use serde_json::{Map, Value, json};

use crate::data::{TextDecoder, Tokenizer};
use crate::engine::{Completion, FinishReason, Generator, TokenLogprob, prompt_logprobs};
use crate::serve::app_state::unix_time;

/// The form of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Chat,
    ChatEvent,
    /// A text completion, whose events have the same form.
    Text,
}

impl Format {
    /// The first fields of the response, or of every event.
    pub fn envelope(self, model: &str) -> Value {
        let (prefix, object) = match self {
            Format::Chat => ("chatcmpl", "chat.completion"),
            Format::ChatEvent => ("chatcmpl", "chat.completion.chunk"),
            Format::Text => ("cmpl", "text_completion"),
        };
        let id = format!("{prefix}-{:016x}", fastrand::u64(..));
        json!({ "id": id, "object": object, "created": unix_time(), "model": model })
    }
}

/// A token of a response. The first token of a prompt has no log-probability.
#[derive(Clone)]
pub struct LoggedToken {
    token: u32,
    logprob: Option<TokenLogprob>,
}

impl From<TokenLogprob> for LoggedToken {
    fn from(logprob: TokenLogprob) -> Self {
        Self {
            token: logprob.token,
            logprob: Some(logprob),
        }
    }
}

/// A prompt that is repeated before the generated text.
#[derive(Clone, Default)]
pub struct Echo {
    pub text: String,
    /// Empty unless log-probabilities are asked for.
    pub tokens: Vec<LoggedToken>,
}

impl Echo {
    pub fn new(generator: &Generator, top_logprobs: Option<usize>) -> Self {
        let (model, prompt) = (generator.model(), generator.prompt());
        let text = model.meta().tokenizer.decode(prompt);
        let Some(top_count) = top_logprobs else {
            let tokens = Vec::new();
            return Self { text, tokens };
        };
        let first = LoggedToken {
            token: prompt[0],
            logprob: None,
        };
        let rest = prompt_logprobs(model, prompt, top_count).into_iter();
        let tokens = [first].into_iter().chain(rest.map(LoggedToken::from));
        Self {
            text,
            // A token before the prompt of the request gives the first one its log-probability.
            tokens: tokens.skip(generator.start_tokens()).collect(),
        }
    }
}

/// A choice of a response, or of an event.
pub struct Choice<'a> {
    pub index: u64,
    /// None in the last event of a choice.
    pub text: Option<String>,
    /// The tokens of the text, and the offset of the first in the text of the choice, in characters.
    pub logprobs: Option<(&'a Tokenizer, usize, Vec<LoggedToken>)>,
    pub finish: Option<FinishReason>,
}

impl Choice<'_> {
    /// The first event of a chat.
    pub fn first_event(index: u64) -> Value {
        let delta = json!({ "content": "", "role": "assistant" });
        json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null })
    }

    pub fn to_json(&self, format: Format) -> Value {
        let text = self.text.as_deref();
        let (key, output) = match format {
            Format::Chat => {
                let content = text.unwrap_or_default();
                let message = json!({ "role": "assistant", "content": content, "refusal": null });
                ("message", message)
            }
            Format::ChatEvent => {
                let delta = text.map_or(json!({}), |text| json!({ "content": text }));
                ("delta", delta)
            }
            Format::Text => ("text", json!(text.unwrap_or_default())),
        };
        let finish_reason = self.finish.map(|finish| match finish {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        });
        let logprobs = self.logprobs.as_ref();
        let logprobs = logprobs.map(|(tokenizer, offset, tokens)| match format {
            Format::Text => text_logprobs(tokenizer, *offset, tokens),
            Format::Chat | Format::ChatEvent => chat_logprobs(tokenizer, tokens),
        });
        json!({
            "index": self.index,
            key: output,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        })
    }
}

/// The `logprobs` of a text completion: parallel arrays.
fn text_logprobs(tokenizer: &Tokenizer, offset: usize, tokens: &[LoggedToken]) -> Value {
    let top = |logged: &LoggedToken| {
        let top = logged.logprob.as_ref()?.top.iter();
        let top = top.map(|&(token, logprob)| (tokenizer.name_of(token), json!(logprob)));
        Some(top.collect::<Map<_, _>>())
    };
    let mut decoder = TextDecoder::default();
    let offsets = tokens.iter().scan(offset, |next, logged| {
        let offset = *next;
        let bytes = tokenizer.bytes_of(logged.token).unwrap_or_default();
        *next += decoder.push(bytes).chars().count();
        Some(offset)
    });
    let logprob = |logged: &LoggedToken| logged.logprob.as_ref().map(|l| l.logprob);
    json!({
        "tokens": tokens.iter().map(|l| tokenizer.name_of(l.token)).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets.collect::<Vec<_>>(),
    })
}

/// The `logprobs` of a chat completion: an object per token.
fn chat_logprobs(tokenizer: &Tokenizer, tokens: &[LoggedToken]) -> Value {
    let entry = |token: u32, logprob: f64| {
        let name = tokenizer.name_of(token);
        let bytes = tokenizer.bytes_of(token).unwrap_or(name.as_bytes());
        json!({ "token": name, "logprob": logprob, "bytes": bytes })
    };
    let logprobs = tokens.iter().filter_map(|logged| logged.logprob.as_ref());
    let content = logprobs.map(|logprob| {
        let mut object = entry(logprob.token, logprob.logprob);
        let top = logprob
            .top
            .iter()
            .map(|&(token, logprob)| entry(token, logprob));
        object["top_logprobs"] = top.collect();
        object
    });
    json!({ "content": content.collect::<Vec<_>>(), "refusal": null })
}

/// The numbers of tokens of a response.
#[derive(Default)]
pub struct Usage {
    prompt: usize,
    completion: usize,
}

impl Usage {
    /// Adds a choice. A prompt counts once for all of its choices.
    pub fn add(&mut self, is_first_choice: bool, prompt_tokens: usize, completion: &Completion) {
        if is_first_choice {
            self.prompt += prompt_tokens;
        }
        self.completion += completion.tokens.len();
    }

    pub fn to_json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        })
    }
}
