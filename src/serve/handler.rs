//! The interface between the server and the endpoints.

use std::io;

use super::app_state::AppState;
use super::http::{HttpError, Response};

pub enum Handler {
    /// Answers GET and HEAD from the path at once, however many requests wait.
    Get(fn(&AppState, &str) -> Result<Response, HttpError>),
    /// Answers the POST of a JSON body when the request is admitted.
    Post(fn(&AppState, &[u8]) -> Result<HandlerOutput, HttpError>),
}

pub enum HandlerOutput {
    Full(Response),
    Events(EventSource),
}

/// Passes each server-sent event to its second argument as it is generated. Errors where that does,
/// which cancels the rest.
pub type EventSource =
    Box<dyn FnOnce(&AppState, &mut dyn FnMut(&str) -> io::Result<()>) -> io::Result<()>>;
