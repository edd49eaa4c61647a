//! Which endpoint answers a request.

use serde_json::json;

use super::api::{self, App};
use super::head::Head;
use super::http::{HttpError, Response};
use super::openai::{self, Reply};
use super::page;

/// The endpoints, with the methods that they take.
const ENDPOINTS: [(&str, &str); 9] = [
    ("/", "GET, HEAD"),
    ("/microgpt/v1/generate", "POST"),
    ("/microgpt/v1/chat", "POST"),
    ("/microgpt/v1/info", "GET, HEAD"),
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/models", "GET, HEAD"),
    ("/healthz", "GET, HEAD"),
    ("/metrics", "GET, HEAD"),
];

/// Whether an endpoint is one of OpenAI's API.
pub fn is_openai(path: &str) -> bool {
    path.starts_with("/v1/")
}

/// What the metrics call the endpoint of a path.
pub fn endpoint(path: &str) -> &'static str {
    if path.starts_with("/v1/models/") {
        return "/v1/models";
    }
    ENDPOINTS
        .iter()
        .find(|(known, _)| *known == path)
        .map_or("other", |(known, _)| known)
}

/// What operators ask for, which has to work when nothing else does.
pub fn answer_operator(app: &App, head: &Head) -> Option<Response> {
    match head.path.as_str() {
        _ if !matches!(head.method.as_str(), "GET" | "HEAD") => None,
        "/healthz" => Some(Response::json(&json!({ "status": "ok" }))),
        "/metrics" => Some(Response::new(
            "text/plain; version=0.0.4; charset=utf-8",
            app.metrics.render(),
        )),
        _ => None,
    }
}

/// Finds the endpoint of a request, and lets it answer.
pub fn route(app: &App, head: &Head, body: &[u8]) -> Result<Reply, HttpError> {
    let (method, path) = (&head.method, head.path.as_str());
    let name = endpoint(path);
    #[cfg(test)]
    assert_ne!(path, "/panic", "as a handler that fails does");
    let Some((_, methods)) = ENDPOINTS.iter().find(|(known, _)| *known == name) else {
        return Err(HttpError::new(404, format!("there is nothing at {path:?}")));
    };
    if !methods.split(", ").any(|known| known == method) {
        return Err(HttpError {
            header: Some(("Allow", methods)),
            ..HttpError::new(405, format!("{name} takes {methods}, not {method}"))
        });
    }
    if *methods == "POST" {
        check_content_type(head)?;
    }
    match name {
        "/" => Ok(Reply::Whole(page::page())),
        "/v1/chat/completions" => openai::chat_completions(app, body),
        "/v1/completions" => openai::completions(app, body),
        "/v1/models" => openai::models(app, path.strip_prefix("/v1/models/")).map(Reply::Whole),
        "/microgpt/v1/generate" => api::generate(app, body).map(Reply::Whole),
        "/microgpt/v1/chat" => api::chat(app, body).map(Reply::Whole),
        _ => Ok(Reply::Whole(Response::json(&app.info))),
    }
}

/// Bodies are JSON; a request that says nothing of its body's type is believed to know that.
fn check_content_type(head: &Head) -> Result<(), HttpError> {
    let Some(value) = head.content_type() else {
        return Ok(());
    };
    let kind = value.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(HttpError::new(
        415,
        format!("the body must be application/json, got {value:?}"),
    ))
}
