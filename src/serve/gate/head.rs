//! The head of a request: the request line, the headers, and the framing of the body.
//!
//! httparse implements the grammar. The rest is strict, because the server and the proxies before
//! it must agree on the end of each request: ambiguous framing is refused and closes the connection
//! (RFC 9112, 6.3 and 11.2).

use httparse::{Error, Status};

use super::body;
use crate::serve::http::HttpError;

/// The maximum size of a head, in bytes.
pub const LIMIT: usize = 16 << 10;

/// The maximum number of headers.
const MAX_HEADERS: usize = 100;

/// A request line and headers.
#[derive(Debug)]
pub struct RequestHead {
    pub method: String,
    /// The target without the query.
    pub path: String,
    /// The version is HTTP/1.0, which has no chunked bodies, not HTTP/1.1.
    pub is_1_0: bool,
    /// Header lines of every response to this request.
    pub cors_headers: String,
    headers: Vec<(String, Vec<u8>)>,
}

/// The length of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
}

impl RequestHead {
    /// Parses a head at the start of `bytes`. Returns it with its size, or none where it is
    /// incomplete.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HttpError> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let status = request.parse(bytes).map_err(|error| match error {
            Error::TooManyHeaders => too_large(),
            Error::Version => HttpError::new(505, "the version must be HTTP/1.0 or HTTP/1.1"),
            error => HttpError::bad_request(format!("the request is not HTTP: {error}")),
        })?;
        let size = match status {
            Status::Complete(size) => size,
            Status::Partial => bytes.len(),
        };
        if has_bare_line_feed(&bytes[..size]) {
            let message = "a line of the request head ends without CR";
            return Err(HttpError::bad_request(message));
        }
        if size > LIMIT || (status.is_partial() && size == LIMIT) {
            return Err(too_large());
        }
        let (Status::Complete(_), Some(method), Some(target), Some(minor)) =
            (status, request.method, request.path, request.version)
        else {
            return Ok(None);
        };
        let headers = request.headers.iter();
        let head = Self {
            method: method.to_string(),
            path: path(method, target)?.to_string(),
            is_1_0: minor == 0,
            cors_headers: String::new(),
            headers: headers
                .map(|header| (header.name.to_string(), header.value.to_vec()))
                .collect(),
        };
        Ok(Some((head, size)))
    }

    /// The values of all headers with this name.
    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let named = move |(other, _): &&(String, Vec<u8>)| other.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .filter(named)
            .map(|(_, value)| &value[..])
    }

    /// The value of a header. Errors where there are several.
    fn value(&self, name: &str) -> Result<Option<&[u8]>, HttpError> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(HttpError::bad_request(format!("more than one {name}"))),
        }
    }

    /// The value of a header as text. Errors where there are several, or where it is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>, HttpError> {
        let text = |value: &[u8]| {
            let text = String::from_utf8(value.to_vec());
            text.map_err(|_| HttpError::bad_request(format!("{name} is not UTF-8")))
        };
        self.value(name)?.map(text).transpose()
    }

    /// The framing of the body. Errors where it is ambiguous, too large, compressed, or absent from a
    /// POST.
    pub fn framing(&self) -> Result<Framing, HttpError> {
        let host = self.value("Host")?;
        if host.is_none() && !self.is_1_0 {
            return Err(HttpError::bad_request("the request has no Host"));
        }
        let coding = self.text("Content-Encoding")?;
        if let Some(coding) = coding.filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
            return Err(HttpError::new(
                415,
                format!("Content-Encoding must be identity, got {coding:?}"),
            ));
        }
        let length = self.value("Content-Length")?;
        let encoding = self.value("Transfer-Encoding")?;
        match (length, encoding) {
            (Some(_), Some(_)) => Err(HttpError::bad_request(
                "the request has both a Content-Length and a Transfer-Encoding",
            )),
            (None, Some(_)) if self.is_1_0 => {
                Err(HttpError::bad_request("HTTP/1.0 has no Transfer-Encoding"))
            }
            (None, Some(encoding)) if encoding.eq_ignore_ascii_case(b"chunked") => {
                Ok(Framing::Chunked)
            }
            (None, Some(_)) => Err(HttpError::new(501, "Transfer-Encoding must be chunked")),
            (Some(length), None) => parse_length(length).map(Framing::Length),
            (None, None) if self.method == "POST" => {
                Err(HttpError::new(411, "the request has no Content-Length"))
            }
            (None, None) => Ok(Framing::Length(0)),
        }
    }

    /// Returns true if the client waits for a 100 response before it sends the body.
    pub fn expects_continue(&self) -> Result<bool, HttpError> {
        match self.value("Expect")? {
            None => Ok(false),
            Some(value) if value.eq_ignore_ascii_case(b"100-continue") => Ok(!self.is_1_0),
            Some(_) => Err(HttpError::new(417, "Expect must be 100-continue")),
        }
    }

    /// Returns true if the client may send another request on the connection.
    pub fn keeps_alive(&self) -> bool {
        let mut options = self
            .values("Connection")
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii);
        match self.is_1_0 {
            true => options.any(|option| option.eq_ignore_ascii_case(b"keep-alive")),
            false => !options.any(|option| option.eq_ignore_ascii_case(b"close")),
        }
    }

    pub fn content_type(&self) -> Option<String> {
        let value = self.values("Content-Type").next()?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

fn too_large() -> HttpError {
    HttpError::new(
        431,
        format!("the request head is larger than {LIMIT} bytes or {MAX_HEADERS} headers"),
    )
}

/// The path of a request target in origin or absolute form, without the query.
fn path<'a>(method: &str, target: &'a str) -> Result<&'a str, HttpError> {
    let origin = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
            rest.find('/').map_or("/", |slash| &rest[slash..])
        }
        _ => target,
    };
    if !target.is_ascii() {
        return Err(HttpError::bad_request(format!(
            "the request target {target:?} is not percent-encoded"
        )));
    }
    let is_path = origin.starts_with('/') || (method == "OPTIONS" && origin == "*");
    if !is_path {
        return Err(HttpError::bad_request(format!(
            "the request target {target:?} is not a path"
        )));
    }
    Ok(origin.split(['?', '#']).next().unwrap_or(origin))
}

/// Parses digits only: signs and lists are means of request smuggling.
fn parse_length(value: &[u8]) -> Result<usize, HttpError> {
    let text = str::from_utf8(value).unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HttpError::bad_request("Content-Length must be a number"));
    }
    match text.parse() {
        Ok(length) if length <= body::LIMIT => Ok(length),
        _ => Err(body::too_large()),
    }
}

/// Returns true if a line feed follows no carriage return.
fn has_bare_line_feed(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .enumerate()
        .any(|(i, byte)| *byte == b'\n' && (i == 0 || bytes[i - 1] != b'\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RequestHead, u16> {
        match RequestHead::parse(text.as_bytes()) {
            Ok(Some((head, size))) => {
                assert_eq!(size, text.len());
                Ok(head)
            }
            Ok(None) => panic!("{text:?} is incomplete"),
            Err(error) => Err(error.status),
        }
    }

    fn framing(lines: &str) -> Result<Framing, u16> {
        let head = parse(&format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n"))?;
        head.framing().map_err(|error| error.status)
    }

    #[test]
    fn target_in_origin_or_absolute_form_gives_the_path() {
        for (target, expected) in [
            ("/", Ok("/")),
            ("/a/b?c=/d", Ok("/a/b")),
            ("/a#b", Ok("/a")),
            ("http://x", Ok("/")),
            ("HTTP://x:80/a?b", Ok("/a")),
            ("https://x/a", Err(400)),
            ("x:443", Err(400)),
            ("*", Err(400)),
            ("//a", Ok("//a")),
            ("/é", Err(400)),
        ] {
            let head = parse(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
            assert_eq!(
                head.as_ref().map(|head| head.path.as_str()),
                expected.as_ref().copied(),
                "{target}"
            );
        }
        assert_eq!(parse("OPTIONS * HTTP/1.1\r\n\r\n").unwrap().path, "*");
    }

    #[test]
    fn ambiguous_body_framing_is_refused() {
        for (lines, expected) in [
            ("Content-Length: 7\r\n", Ok(Framing::Length(7))),
            ("content-length:0007 \r\n", Ok(Framing::Length(7))),
            ("Transfer-Encoding: Chunked\r\n", Ok(Framing::Chunked)),
            ("", Err(411)),
            ("Content-Length: 1048577\r\n", Err(413)),
            ("Content-Length: 9223372036854775807\r\n", Err(413)),
            ("Content-Length: 99999999999999999999999\r\n", Err(413)),
            ("Content-Length: +7\r\n", Err(400)),
            ("Content-Length: 7, 7\r\n", Err(400)),
            ("Content-Length:\r\n", Err(400)),
            ("Content-Length: 7\r\nContent-Length: 7\r\n", Err(400)),
            (
                "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n",
                Err(400),
            ),
            ("Transfer-Encoding: gzip, chunked\r\n", Err(501)),
            ("Content-Encoding: gzip\r\nContent-Length: 7\r\n", Err(415)),
            (
                "Content-Encoding: Identity\r\nContent-Length: 7\r\n",
                Ok(Framing::Length(7)),
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
                Err(400),
            ),
            ("Content-Length : 7\r\n", Err(400)),
            ("X: y\r\n Content-Length: 7\r\n", Err(400)),
            ("Content-Length: 7\r\nHost: y\r\n", Err(400)),
        ] {
            assert_eq!(framing(lines), expected, "{lines:?}");
        }
        let http_1_0 = |lines: &str| parse(&format!("GET / HTTP/1.0\r\n{lines}\r\n")).unwrap();
        assert_eq!(http_1_0("").framing(), Ok(Framing::Length(0)));
        assert!(
            http_1_0("Transfer-Encoding: chunked\r\n")
                .framing()
                .is_err()
        );
    }

    #[test]
    fn invalid_heads_are_refused_before_their_end() {
        for (bytes, status) in [
            ("\u{16}\u{3}\u{1}", 400),
            ("GET / HTTP/1.1\n", 400),
            ("GET / HTTP/2.0\r\n", 505),
            ("GET / HTTP/1.1\r\nX\r\n", 400),
            ("GET / HTTP/1.1\r\nX: \0", 400),
        ] {
            assert_eq!(parse(bytes).unwrap_err(), status, "{bytes:?}");
        }
        let endless = format!("GET /{}", "a".repeat(LIMIT));
        assert_eq!(parse(&endless[..LIMIT]).unwrap_err(), 431);
        let headers = "X: y\r\n".repeat(MAX_HEADERS + 1);
        assert_eq!(
            parse(&format!("GET / HTTP/1.1\r\n{headers}\r\n")).unwrap_err(),
            431
        );
        assert!(matches!(
            RequestHead::parse(b"GET / HTTP/1.1\r\nX: y"),
            Ok(None)
        ));
    }

    #[test]
    fn keep_alive_follows_version_and_connection_header() {
        for (version, lines, expected) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: x, Close\r\n", false),
            ("1.1", "Connection: x\r\nConnection: close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
        ] {
            let head = parse(&format!("GET / HTTP/{version}\r\n{lines}\r\n")).unwrap();
            assert_eq!(head.keeps_alive(), expected, "{version} {lines:?}");
        }
    }
}
