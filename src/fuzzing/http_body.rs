//! What clients send to the server.

use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::small_model;
use crate::data::CorpusKind;
use crate::serve::api::{self, App};
use crate::serve::engine::Engine;
use crate::serve::http::{HttpError, Response};
use crate::serve::metrics::Metrics;
use crate::serve::openai::{self, Reply};

/// A body for one of the endpoints, which the first byte chooses, with one of two models: the
/// answer is JSON, and never that the server failed.
pub fn http_body(input: &[u8]) {
    static APPS: LazyLock<[App; 2]> =
        LazyLock::new(|| [CorpusKind::Documents, CorpusKind::Conversations].map(app));
    let Some((&choice, body)) = input.split_first() else {
        return;
    };
    let app = &APPS[usize::from(choice / 4 % 2)];
    match choice % 4 {
        0 => check(api::generate(app, body), false),
        1 => check(api::chat(app, body), false),
        2 => check(whole(app, openai::chat_completions(app, body)), true),
        _ => check(whole(app, openai::completions(app, body)), true),
    }
}

fn app(kind: CorpusKind) -> App {
    let model = small_model(kind);
    let metrics = Arc::new(Metrics::default());
    App {
        engine: Engine::start(Arc::clone(&model), Arc::clone(&metrics), 1).expect("a thread"),
        model,
        info: Value::Null,
        metrics,
        started: 0,
    }
}

/// A completion's answer. Events are read here.
fn whole(app: &App, completion: Result<Reply, HttpError>) -> Result<Response, HttpError> {
    let events = match completion? {
        Reply::Whole(answer) => return Ok(answer),
        Reply::Events(events) => events,
    };
    let mut last = String::new();
    let read = |event: &str| {
        assert_ne!(last, "[DONE]");
        assert!(event == "[DONE]" || serde_json::from_str::<Value>(event).is_ok());
        last = event.to_string();
        Ok(())
    };
    events
        .send(app, read)
        .expect("what can fail has failed before");
    assert_eq!(last, "[DONE]");
    Ok(Response::json(&Value::Null))
}

fn check(answer: Result<Response, HttpError>, openai: bool) {
    let answer = answer.unwrap_or_else(|error| {
        assert!((400..500).contains(&error.status), "{error:?}");
        assert!(!error.message.is_empty());
        Response::error(&error, openai)
    });
    assert!(
        serde_json::from_str::<Value>(&answer.body).is_ok(),
        "{answer:?}"
    );
}
