//! The fields of OpenAI's requests.

use std::sync::Arc;

use serde_json::Value;

use crate::data::Message;
use crate::engine::{GenerateOptions, Generator, PendingReply, Sequence, chat_tokens};
use crate::serve::app_state::AppState;
use crate::serve::http::HttpError;
use crate::serve::params::{
    SAMPLING_FIELDS, content, generate_options, max_tokens, messages, parse_body, role,
};
use crate::store::{JsonError, JsonObject};

/// The maximum number of choices per request.
const MAX_CHOICES: u64 = 50;

/// The maximum number of likely tokens per position.
const MAX_TOP_LOGPROBS: u64 = 20;

/// Fields of one endpoint.
const CHAT_FIELDS: [&str; 2] = ["messages", "top_logprobs"];
const TEXT_FIELDS: [&str; 2] = ["prompt", "echo"];

/// Fields of both endpoints.
const SHARED_FIELDS: [&str; 10] = [
    "max_completion_tokens",
    "model",
    "n",
    "stop",
    "stream",
    "stream_options",
    "logprobs",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
];

/// Fields that do not change the text.
const IGNORED_FIELDS: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
];

/// Fields that are accepted with a value that asks for nothing else than a plain text.
const NEUTRAL_VALUES: [(&str, &[&str]); 9] = [
    ("tools", &["[]"]),
    ("tool_choice", &["\"none\""]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\""]),
    ("response_format", &["{\"type\":\"text\"}"]),
    ("modalities", &["[\"text\"]"]),
    ("best_of", &["1"]),
    ("suffix", &["\"\""]),
    ("echo", &["false"]),
];

/// A valid request of either endpoint.
pub struct CompletionRequest {
    pub prompts: Prompts,
    pub options: CompletionOptions,
}

pub enum Prompts {
    /// The one prompt of a chat completion.
    Conversation(Vec<Message>),
    /// The prompts of text completions.
    Texts(Vec<Generator>),
}

pub struct CompletionOptions {
    generate: GenerateOptions,
    /// The number of choices per prompt.
    n: u64,
    pub stop: Vec<String>,
    pub stream: bool,
    pub include_usage: bool,
    /// Repeat the prompt before the text.
    pub echo: bool,
    /// Generate nothing.
    pub only_echo: bool,
    /// The number of likely tokens beside each log-probability, if these are asked for.
    pub top_logprobs: Option<usize>,
}

/// A prompt of a text completion.
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

impl CompletionRequest {
    /// Parses the body of `POST /v1/chat/completions`.
    pub fn parse_chat(app: &AppState, body: &[u8]) -> Result<Self, HttpError> {
        let fields = parse_body(body)?;
        check_fields(&fields, &CHAT_FIELDS)?;
        let mut conversation = Vec::new();
        for (index, message) in messages(&fields)?.iter().enumerate() {
            let role = role(index, message)?;
            conversation.push(Message::new(role, content(index, role, message)?));
        }
        chat_tokens(&app.model).map_err(HttpError::bad_request)?;
        let mut options = CompletionOptions::parse(&fields, 1)?;
        if options.only_echo {
            return Err(HttpError::bad_request("max_tokens must be >= 1, got 0"));
        }
        let top_logprobs = top_logprobs(&fields, "top_logprobs")?;
        options.top_logprobs = match (fields.get_bool("logprobs")?, top_logprobs) {
            (Some(true), top) => Some(top.unwrap_or(0)),
            (_, None) => None,
            (_, Some(_)) => {
                return Err(HttpError::bad_request("top_logprobs needs logprobs: true"));
            }
        };
        Ok(Self {
            prompts: Prompts::Conversation(conversation),
            options,
        })
    }

    /// Parses the body of `POST /v1/completions`.
    pub fn parse_text(app: &AppState, body: &[u8]) -> Result<Self, HttpError> {
        let fields = parse_body(body)?;
        check_fields(&fields, &TEXT_FIELDS)?;
        let prompts = prompts(&fields)?;
        let mut options = CompletionOptions::parse(&fields, prompts.len())?;
        options.echo = fields.get_bool("echo")?.unwrap_or(false);
        options.top_logprobs = top_logprobs(&fields, "logprobs")?;
        if options.only_echo && !options.echo {
            return Err(HttpError::bad_request(
                "max_tokens must be >= 1, or 0 with echo, got 0",
            ));
        }
        let generator = |prompt| {
            let model = Arc::clone(&app.model);
            let generate = options.generate.clone();
            let generator = match prompt {
                Prompt::Tokens(tokens) => Generator::for_tokens(model, generate, &tokens),
                Prompt::Text(prompt) => {
                    Generator::for_completion(model, GenerateOptions { prompt, ..generate })
                }
            };
            generator.map_err(HttpError::bad_request)
        };
        let generators = prompts
            .into_iter()
            .map(generator)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            prompts: Prompts::Texts(generators),
            options,
        })
    }

    pub fn choices(&self) -> u64 {
        let prompts = match &self.prompts {
            Prompts::Conversation(_) => 1,
            Prompts::Texts(generators) => generators.len() as u64,
        };
        self.options.n * prompts
    }

    /// Returns whether a choice is the first of its prompt.
    pub fn is_first_choice(&self, index: u64) -> bool {
        index.is_multiple_of(self.options.n)
    }

    /// The generator of a choice of text completions.
    pub fn generator(&self, index: u64) -> Option<&Generator> {
        match &self.prompts {
            Prompts::Conversation(_) => None,
            Prompts::Texts(generators) => generators.get((index / self.options.n) as usize),
        }
    }

    /// The sequence of a choice, and the length of its prompt in tokens.
    pub fn plain_sequence(
        &self,
        app: &AppState,
        index: u64,
    ) -> Result<(Sequence, usize), HttpError> {
        match &self.prompts {
            Prompts::Conversation(messages) => {
                let reply = PendingReply::new(&app.model, messages, &self.options.generate, index)
                    .map_err(HttpError::bad_request)?;
                Ok((reply.sequence, reply.prompt_tokens))
            }
            Prompts::Texts(generators) => {
                let generator = &generators[(index / self.options.n) as usize];
                let sequence = generator.sequence(index % self.options.n);
                Ok((sequence, generator.prompt().len()))
            }
        }
    }
}

impl CompletionOptions {
    fn parse(fields: &JsonObject, prompts: usize) -> Result<Self, HttpError> {
        let mut generate = generate_options(fields)?;
        let max_completion_tokens = max_tokens(fields, "max_completion_tokens")?;
        generate.max_tokens = max_completion_tokens.or(generate.max_tokens);
        let only_echo = generate.max_tokens == Some(0);
        if fields.get("seed").is_none() {
            generate.seed = fastrand::u64(..);
        }
        let sampling = &mut generate.sampling;
        sampling.frequency_penalty = fields.get_number("frequency_penalty")?.unwrap_or(0.0);
        sampling.presence_penalty = fields.get_number("presence_penalty")?.unwrap_or(0.0);
        sampling.logit_bias = logit_bias(fields)?;
        sampling.validate().map_err(HttpError::bad_request)?;
        let mut stop = strings(fields, "stop")?.unwrap_or_default();
        stop.retain(|stop| !stop.is_empty());
        let n = fields.get_integer_from("n", 1)?.unwrap_or(1);
        let choices = n.saturating_mul(prompts as u64);
        if !(1..=MAX_CHOICES).contains(&choices) {
            return Err(HttpError::bad_request(format!(
                "a request gets from 1 to {MAX_CHOICES} choices, not {choices}"
            )));
        }
        let expected = "an object";
        let stream_options = fields.get_as("stream_options", expected, Value::as_object)?;
        let include_usage = stream_options.and_then(|options| options.get("include_usage"));
        Ok(Self {
            generate,
            n,
            stop,
            stream: fields.get_bool("stream")?.unwrap_or(false),
            include_usage: include_usage == Some(&Value::Bool(true)),
            echo: false,
            only_echo,
            top_logprobs: None,
        })
    }
}

/// The fields of chat and of text completions.
#[cfg(test)]
pub fn request_fields() -> [std::collections::BTreeSet<&'static str>; 2] {
    [CHAT_FIELDS, TEXT_FIELDS].map(|own| {
        let neutral = NEUTRAL_VALUES.iter().map(|(key, _)| key);
        let fields = own.iter().chain(&SHARED_FIELDS).chain(&SAMPLING_FIELDS);
        fields
            .chain(&IGNORED_FIELDS)
            .chain(neutral)
            .copied()
            .collect()
    })
}

/// Errors for a field that is unknown, or that asks for what the model cannot do.
fn check_fields(fields: &JsonObject, own: &[&str]) -> Result<(), HttpError> {
    for (key, value) in fields.entries() {
        let known = own.iter().chain(&SHARED_FIELDS).chain(&SAMPLING_FIELDS);
        if value.is_null() || known.chain(&IGNORED_FIELDS).any(|known| known == key) {
            continue;
        }
        let neutral = NEUTRAL_VALUES.iter().find(|(known, _)| known == key);
        match neutral {
            Some((_, values)) if values.contains(&&*value.to_string()) => {}
            Some((_, values)) => {
                return Err(HttpError::bad_request(format!(
                    "{key} is not supported, except as {}",
                    values.join(" or ")
                )));
            }
            None => {
                return Err(HttpError::bad_request(format!("{key} is not supported")));
            }
        }
    }
    Ok(())
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

/// The prompts: a string, an array of token ids, or an array of either.
fn prompts(fields: &JsonObject) -> Result<Vec<Prompt>, HttpError> {
    let tokens = |values: &Vec<Value>| -> Option<Prompt> {
        let token = |value: &Value| u32::try_from(value.as_u64()?).ok();
        values
            .iter()
            .map(token)
            .collect::<Option<_>>()
            .map(Prompt::Tokens)
    };
    let prompt = |value: &Value| match value {
        Value::String(text) => Some(Prompt::Text(text.clone())),
        Value::Array(values) => tokens(values),
        _ => None,
    };
    let convert = |value: &Value| match value {
        Value::Array(values) if !values.is_empty() && !values.iter().any(Value::is_number) => {
            values.iter().map(prompt).collect()
        }
        Value::Array(values) if values.is_empty() => Some(Vec::new()),
        value => prompt(value).map(|prompt| vec![prompt]),
    };
    let expected = "a string, an array of token ids, or an array of these";
    let prompts = fields.get_as("prompt", expected, convert)?;
    Ok(prompts.unwrap_or_else(|| vec![Prompt::Text(String::new())]))
}

/// The number of likely tokens per position.
fn top_logprobs(fields: &JsonObject, key: &str) -> Result<Option<usize>, HttpError> {
    let expected = format!("a whole number from 0 to {MAX_TOP_LOGPROBS}");
    let convert = |value: &Value| value.as_u64().filter(|count| *count <= MAX_TOP_LOGPROBS);
    let count = fields.get_as(key, &expected, convert)?;
    Ok(count.map(|count| count as usize))
}

/// The biases by token id.
fn logit_bias(fields: &JsonObject) -> Result<Vec<(u32, f64)>, HttpError> {
    let Some(biases) = fields.get_as("logit_bias", "an object", Value::as_object)? else {
        return Ok(Vec::new());
    };
    let bias = |(id, bias): (&String, &Value)| {
        let parsed = id.parse().ok().zip(bias.as_f64());
        parsed.ok_or_else(|| {
            JsonError::invalid(
                format_args!("logit_bias[{id:?}]"),
                "a number by token id",
                bias,
            )
        })
    };
    Ok(biases.iter().map(bias).collect::<Result<_, _>>()?)
}
