//! Requests as the endpoints see them, and what they answer.

use std::fmt::Display;

use serde_json::{Map, Value, json};

/// What a client is told when a request cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpError {
    pub status: u16,
    pub message: String,
    /// A header that belongs to the status: `Allow`, `Retry-After`.
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

    /// The client's request is wrong.
    pub fn bad(message: impl Display) -> Self {
        Self::new(400, message)
    }

    /// There is more to do than the server can take on.
    pub fn busy(message: impl Display) -> Self {
        Self {
            header: Some(("Retry-After", "1")),
            ..Self::new(503, message)
        }
    }
}

/// An answer that is there as a whole.
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

    /// An error, in the form that the endpoints of OpenAI's API have for it, or in our own.
    pub fn error(error: &HttpError, openai: bool) -> Self {
        let body = if openai {
            let kind = match error.status {
                500.. => "server_error",
                429 => "rate_limit_error",
                _ => "invalid_request_error",
            };
            json!({
                "error": { "message": error.message, "type": kind, "param": null, "code": null }
            })
        } else {
            json!({ "error": error.message })
        };
        let mut answer = Self::json(&body);
        answer.status = error.status;
        let header = error.header.iter();
        answer
            .headers
            .extend(header.map(|(name, value)| (*name, value.to_string())));
        answer
    }
}

/// What a status means, for those who read answers.
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
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

/// A JSON body, read field by field.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Errors where the body is not the JSON of an object.
    pub fn parse(body: &[u8]) -> Result<Self, HttpError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(HttpError::bad("the body must be a JSON object")),
            Err(error) => Err(HttpError::bad(format!(
                "the body is not valid JSON: {error}"
            ))),
        }
    }

    /// Errors where there is a field that is not among `known`.
    pub fn only(&self, known: &[&str]) -> Result<(), HttpError> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(HttpError::bad(format!(
                "unknown field {key:?}; there are {}",
                known.join(", ")
            ))),
            None => Ok(()),
        }
    }

    /// A field's value, unless it is missing or null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A whole number of at least `least`.
    pub fn whole(&self, name: &str, least: u64) -> Result<Option<u64>, HttpError> {
        let number = |value: &Value| value.as_u64().filter(|number| *number >= least);
        self.convert(name, number, || {
            // A number out of range and what is no number at all are different mistakes.
            match self.get(name) {
                Some(Value::Number(_)) => format!("a whole number >= {least}"),
                _ => "a whole number".to_string(),
            }
        })
    }

    /// A seed: any whole number.
    pub fn seed(&self, name: &str) -> Result<Option<u64>, HttpError> {
        let number = |value: &Value| value.as_u64().or_else(|| value.as_i64().map(|n| n as u64));
        self.convert(name, number, || "a whole number".to_string())
    }

    pub fn number(&self, name: &str) -> Result<Option<f64>, HttpError> {
        self.convert(name, Value::as_f64, || "a number".to_string())
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>, HttpError> {
        self.convert(name, Value::as_bool, || "true or false".to_string())
    }

    pub fn string(&self, name: &str) -> Result<Option<String>, HttpError> {
        let string = |value: &Value| value.as_str().map(str::to_string);
        self.convert(name, string, || "a string".to_string())
    }

    /// A field's value, converted; `expected` says what it has to be.
    pub fn convert<T>(
        &self,
        name: &str,
        convert: impl FnOnce(&Value) -> Option<T>,
        expected: impl FnOnce() -> String,
    ) -> Result<Option<T>, HttpError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(HttpError::bad(format!(
                "{name} must be {}, got {}",
                expected(),
                abbreviate(value)
            ))),
        }
    }
}

/// A JSON value, short enough for a message.
pub fn abbreviate(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_field_is_named_with_its_value() {
        let fields = Fields::parse(br#"{"n": 0, "t": "x", "s": -1, "f": 1.5, "z": null}"#).unwrap();
        let message = |error: HttpError| error.message;
        let error = message(fields.whole("n", 1).unwrap_err());
        assert_eq!(error, "n must be a whole number >= 1, got 0");
        let error = message(fields.number("t").unwrap_err());
        assert_eq!(error, "t must be a number, got \"x\"");
        assert_eq!(fields.seed("s").unwrap(), Some(u64::MAX));
        assert!(fields.whole("f", 0).is_err() && fields.flag("n").is_err());
        assert_eq!(fields.string("z").unwrap(), None);
        assert!(message(fields.only(&["n", "t"]).unwrap_err()).contains("unknown field \"s\""));
        assert!(Fields::parse(b"[]").is_err() && Fields::parse(b"{").is_err());
    }
}
