//! The endpoints: the path, the methods and the handler of each.

use serde_json::json;

use super::app_state::AppState;
use super::handler::Handler::{self, Get, Post};
use super::http::{HttpError, Response};
use super::{native, openai, page};

/// A path and its handler.
pub type Route = (&'static str, Handler);

/// The list of models, and the prefix of each model's path.
const MODELS: &str = "/v1/models";

pub static ROUTES: [Route; 12] = [
    ("/", Get(|_, _| Ok(page::html()))),
    ("/style.css", Get(|_, _| Ok(page::style()))),
    ("/script.js", Get(|_, _| Ok(page::script()))),
    ("/microgpt/v1/generate", Post(native::generate)),
    ("/microgpt/v1/chat", Post(native::chat)),
    (
        "/microgpt/v1/info",
        Get(|app, _| Ok(Response::json(&app.info))),
    ),
    ("/v1/chat/completions", Post(openai::chat_completions)),
    ("/v1/completions", Post(openai::completions)),
    (MODELS, Get(models)),
    (
        "/healthz",
        Get(|_, _| Ok(Response::json(&json!({ "status": "ok" })))),
    ),
    ("/metrics", Get(|app, _| Ok(metrics(app)))),
    ("/openapi.json", Get(|_, _| Ok(openapi()))),
];

/// The description of the endpoints.
const OPENAPI: &str = include_str!("openapi.json");

fn openapi() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    Response::new("application/json", OPENAPI.replace("VERSION", version))
}

fn models(app: &AppState, path: &str) -> Result<Response, HttpError> {
    let name = path
        .strip_prefix(MODELS)
        .and_then(|rest| rest.strip_prefix('/'))
        .map(|name| name.strip_suffix('/').unwrap_or(name))
        .filter(|name| !name.is_empty());
    openai::models(app, name)
}

fn metrics(app: &AppState) -> Response {
    let (active, waiting) = app.admission.counts();
    let generated_tokens = app.decode_pool.generated_tokens();
    Response::new(
        "text/plain; version=0.0.4; charset=utf-8",
        app.metrics
            .render(generated_tokens, active as u64, waiting as u64),
    )
}

/// Returns true for the paths of OpenAI's API, whose errors have a form of their own.
pub fn is_openai(path: &str) -> bool {
    path.starts_with("/v1/")
}

/// The route of a path, also with a slash at its end.
pub fn find<'a>(routes: &'a [Route], path: &str) -> Option<&'a Route> {
    let path = match path.strip_suffix('/') {
        Some(rest) if !rest.is_empty() => rest,
        _ => path,
    };
    let is_model = path
        .strip_prefix(MODELS)
        .is_some_and(|rest| rest.starts_with('/'));
    let path = if is_model { MODELS } else { path };
    routes.iter().find(|(known, _)| *known == path)
}

/// The handler of a request. Errors with 404, 405 or 415.
pub fn resolve<'a>(
    routes: &'a [Route],
    method: &str,
    path: &str,
    content_type: Option<&str>,
) -> Result<&'a Handler, HttpError> {
    let Some((path, handler)) = find(routes, path) else {
        return Err(not_found(path));
    };
    let methods = match handler {
        Get(_) => "GET, HEAD",
        Post(_) => "POST",
    };
    if !methods.split(", ").any(|known| known == method) {
        return Err(HttpError {
            header: Some(("Allow", methods)),
            ..HttpError::new(405, format!("{path} takes {methods}, not {method}"))
        });
    }
    if let Post(_) = handler {
        check_content_type(content_type)?;
    }
    Ok(handler)
}

pub fn not_found(path: &str) -> HttpError {
    HttpError::new(404, format!("no endpoint at {path:?}"))
}

/// Errors unless the type is JSON. Without a type, a page of another site could send a body with no
/// preflight.
fn check_content_type(content_type: Option<&str>) -> Result<(), HttpError> {
    let Some(content_type) = content_type else {
        let message = "the request has no Content-Type; it must be application/json";
        return Err(HttpError::new(415, message));
    };
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(HttpError::new(
        415,
        format!("the body must be application/json, got {content_type:?}"),
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::serve::openai::request_fields;
    use crate::serve::params::SAMPLING_FIELDS;

    #[test]
    fn openapi_lists_every_route_and_field() {
        let api: Value = serde_json::from_str(OPENAPI).unwrap();
        let paths = api["paths"].as_object().unwrap();
        let methods = |path: &str| -> Vec<&str> {
            let keys = paths[path].as_object().unwrap().keys();
            keys.map(String::as_str)
                .filter(|key| *key != "parameters")
                .collect()
        };
        for (path, handler) in &ROUTES {
            let method = match handler {
                Get(_) => "get",
                Post(_) => "post",
            };
            assert_eq!(methods(path), [method], "{path}");
        }
        assert_eq!(paths.len(), ROUTES.len() + 1, "with {MODELS}/{{name}}");
        let properties = |schema: &str| -> BTreeSet<&str> {
            let schema = &api["components"]["schemas"][schema];
            assert_eq!(schema["additionalProperties"], false);
            let properties = schema["properties"].as_object().unwrap();
            properties.keys().map(String::as_str).collect()
        };
        let fields = |own: &[&'static str]| -> BTreeSet<&str> {
            own.iter().chain(&SAMPLING_FIELDS).copied().collect()
        };
        assert_eq!(
            properties("GenerateRequest"),
            fields(&["num_samples", "prompt"])
        );
        assert_eq!(properties("ChatRequest"), fields(&["messages"]));
        let [chat, text] = request_fields();
        assert_eq!(properties("ChatCompletionRequest"), chat);
        assert_eq!(properties("CompletionRequest"), text);
    }
}
