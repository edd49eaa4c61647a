//! Request bodies.

use std::sync::LazyLock;

use serde_json::Value;

use super::support::small_model;
use crate::data::CorpusKind;
use crate::serve::app_state::AppState;
use crate::serve::handler::HandlerOutput;
use crate::serve::http::{HttpError, Response};
use crate::serve::{native, openai};

/// A body for the endpoint and the model that the first byte chooses. The response must be JSON,
/// and an error the client's.
pub fn http_body(input: &[u8]) {
    static APPS: LazyLock<[AppState; 2]> = LazyLock::new(|| {
        [CorpusKind::Documents, CorpusKind::Conversations].map(|kind| {
            AppState::new(small_model(kind), Value::Null, 1).expect("the worker starts")
        })
    });
    let Some((&choice, body)) = input.split_first() else {
        return;
    };
    let app = &APPS[usize::from(choice / 4 % 2)];
    match choice % 4 {
        0 => check(collect(app, native::generate(app, body)), false),
        1 => check(collect(app, native::chat(app, body)), false),
        2 => check(collect(app, openai::chat_completions(app, body)), true),
        _ => check(collect(app, openai::completions(app, body)), true),
    }
}

/// The response of an endpoint. Events are read and checked here.
fn collect(
    app: &AppState,
    output: Result<HandlerOutput, HttpError>,
) -> Result<Response, HttpError> {
    let events = match output? {
        HandlerOutput::Full(response) => return Ok(response),
        HandlerOutput::Events(events) => events,
    };
    let mut last = String::new();
    let mut read = |event: &str| {
        assert_ne!(last, "[DONE]");
        assert!(event == "[DONE]" || serde_json::from_str::<Value>(event).is_ok());
        last = event.to_string();
        Ok(())
    };
    let sent = events(app, &mut read);
    sent.expect("a valid request has no late errors");
    assert_eq!(last, "[DONE]");
    Ok(Response::json(&Value::Null))
}

fn check(response: Result<Response, HttpError>, openai: bool) {
    let response = response.unwrap_or_else(|error| {
        assert!((400..500).contains(&error.status), "{error:?}");
        assert!(!error.message.is_empty());
        Response::error(&error, openai)
    });
    let is_json = serde_json::from_str::<Value>(&response.body).is_ok();
    assert!(is_json, "{response:?}");
}
