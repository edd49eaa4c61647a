//! The endpoints: the path, the methods and the handler of each.

use serde_json::json;

use super::app_state::AppState;
use super::http::{HttpError, Request, Response};
use super::openai::{self, Output};
use super::{native, page};

/// An endpoint.
pub struct Route {
    pub path: &'static str,
    pub handler: Handler,
}

pub enum Handler {
    /// Answers GET and HEAD from the path at once, however many requests wait.
    Get(fn(&AppState, &str) -> Result<Response, HttpError>),
    /// Answers the POST of a JSON body when the request is admitted.
    Post(fn(&AppState, &[u8]) -> Result<Output, HttpError>),
}

impl Handler {
    fn methods(&self) -> &'static str {
        match self {
            Handler::Get(_) => "GET, HEAD",
            Handler::Post(_) => "POST",
        }
    }
}

/// The endpoint of the list of models, and of each model below it.
const MODELS: &str = "/v1/models";

pub static ROUTES: [Route; 11] = [
    get("/", |_, _| Ok(page::html())),
    get("/style.css", |_, _| Ok(page::style())),
    get("/script.js", |_, _| Ok(page::script())),
    post("/microgpt/v1/generate", |app, body| {
        native::generate(app, body).map(Output::Full)
    }),
    post("/microgpt/v1/chat", |app, body| {
        native::chat(app, body).map(Output::Full)
    }),
    get("/microgpt/v1/info", |app, _| Ok(Response::json(&app.info))),
    post("/v1/chat/completions", openai::chat_completions),
    post("/v1/completions", openai::completions),
    get(MODELS, |app, path| {
        let name = path[MODELS.len()..].strip_prefix('/');
        openai::models(app, name)
    }),
    get("/healthz", |_, _| {
        Ok(Response::json(&json!({ "status": "ok" })))
    }),
    get("/metrics", |app, _| Ok(metrics(app))),
];

type GetHandler = fn(&AppState, &str) -> Result<Response, HttpError>;
type PostHandler = fn(&AppState, &[u8]) -> Result<Output, HttpError>;

const fn get(path: &'static str, handler: GetHandler) -> Route {
    let handler = Handler::Get(handler);
    Route { path, handler }
}

const fn post(path: &'static str, handler: PostHandler) -> Route {
    let handler = Handler::Post(handler);
    Route { path, handler }
}

fn metrics(app: &AppState) -> Response {
    let (active, waiting) = app.admission.counts();
    let generated_tokens = app.decode_pool.generated_tokens();
    Response::new(
        "text/plain; version=0.0.4; charset=utf-8",
        app.metrics.render(generated_tokens, active, waiting),
    )
}

/// Whether a path belongs to OpenAI's API, and errors take its form.
pub fn is_openai(path: &str) -> bool {
    path.starts_with("/v1/")
}

/// The route of a path.
pub fn find<'a>(routes: &'a [Route], path: &str) -> Option<&'a Route> {
    let is_model = path.starts_with(MODELS) && path[MODELS.len()..].starts_with('/');
    let path = if is_model { MODELS } else { path };
    routes.iter().find(|route| route.path == path)
}

/// The handler of a request. Errors with 404, 405 or 415.
pub fn resolve<'a>(routes: &'a [Route], request: &Request) -> Result<&'a Handler, HttpError> {
    let Request { method, path, .. } = request;
    let Some(route) = find(routes, path) else {
        return Err(HttpError::new(404, format!("no endpoint at {path:?}")));
    };
    let methods = route.handler.methods();
    if !methods.split(", ").any(|known| known == *method) {
        return Err(HttpError {
            header: Some(("Allow", methods)),
            ..HttpError::new(405, format!("{} takes {methods}, not {method}", route.path))
        });
    }
    if let Handler::Post(_) = route.handler {
        check_content_type(request)?;
    }
    Ok(&route.handler)
}

/// Errors unless the body is JSON. A request without a type passes: the parser decides.
fn check_content_type(request: &Request) -> Result<(), HttpError> {
    let Some(value) = request.content_type else {
        return Ok(());
    };
    let media_type = value.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(HttpError::new(
        415,
        format!("the body must be application/json, got {value:?}"),
    ))
}
