//! Responses and errors, independent of the connection.

use std::fmt::Display;

use serde_json::{Value, json};

use crate::engine::WorkerPanicked;

/// A refusal: the status, and a message for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpError {
    pub status: u16,
    pub message: String,
    /// A header that belongs to the status: `Allow`, `Retry-After`, `WWW-Authenticate`.
    pub header: Option<(&'static str, &'static str)>,
}

impl HttpError {
    pub fn new(status: u16, message: impl Display) -> Self {
        Self {
            status,
            message: message.to_string(),
            header: None,
        }
    }

    pub fn bad_request(message: impl Display) -> Self {
        Self::new(400, message)
    }

    /// A panic, which is reported on stderr.
    pub fn internal() -> Self {
        Self::new(500, "internal error; see the log of the server")
    }

    /// Overload.
    pub fn unavailable(message: impl Display) -> Self {
        Self {
            header: Some(("Retry-After", "1")),
            ..Self::new(503, message)
        }
    }
}

impl From<WorkerPanicked> for HttpError {
    fn from(_: WorkerPanicked) -> Self {
        Self::internal()
    }
}

/// A response with a body of known length.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Response {
    pub fn json(body: &Value) -> Self {
        Self::new("application/json", format!("{body}\n"))
    }

    pub fn new(content_type: &str, body: String) -> Self {
        Self {
            status: 200,
            headers: vec![("Content-Type", content_type.to_string())],
            body,
        }
    }

    /// An error in the JSON form of OpenAI's endpoints, or of microgpt's own.
    pub fn error(error: &HttpError, openai: bool) -> Self {
        let kind = match error.status {
            500.. => "server_error",
            429 => "rate_limit_error",
            _ => "invalid_request_error",
        };
        let message = &error.message;
        let value = match openai {
            true => json!({ "message": message, "type": kind, "param": null, "code": null }),
            false => json!(message),
        };
        let mut response = Self::json(&json!({ "error": value }));
        response.status = error.status;
        let header = error.header.map(|(name, value)| (name, value.to_string()));
        response.headers.extend(header);
        response
    }
}

/// The reason phrase of a status line.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
