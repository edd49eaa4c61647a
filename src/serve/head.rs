//! The head of a request: its first line and its headers, and how its body is framed.
//!
//! httparse knows the grammar. What it leaves open is decided here the strict way, for a server
//! and the proxies before it must never disagree about where a request ends: what two readers
//! could take for different lengths is refused, and the connection with it (RFC 9112, 6.3 and
//! 11.2).

use httparse::{Error, Status};

use super::body;
use super::http::HttpError;

/// The most bytes of a head.
pub const LIMIT: usize = 16 << 10;

/// The most headers of a head.
const HEADERS: usize = 100;

/// A request's first line and headers.
#[derive(Debug)]
pub struct Head {
    pub method: String,
    /// What is asked for, without the query.
    pub path: String,
    /// The version is HTTP/1.0 or HTTP/1.1.
    is_1_0: bool,
    headers: Vec<(String, Vec<u8>)>,
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
}

impl Head {
    /// The head that some bytes begin with, and its size; none where more bytes are needed.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HttpError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let status = request.parse(bytes).map_err(|error| match error {
            Error::TooManyHeaders => too_large(),
            Error::Version => HttpError::new(505, "the server speaks HTTP/1.0 and HTTP/1.1"),
            error => HttpError::bad(format!("the request is not HTTP: {error}")),
        })?;
        let size = match status {
            Status::Complete(size) => size,
            Status::Partial => bytes.len(),
        };
        if has_bare_line_feed(&bytes[..size]) {
            return Err(HttpError::bad("a line of the request ends without CR"));
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
            headers: headers
                .map(|header| (header.name.to_string(), header.value.to_vec()))
                .collect(),
        };
        Ok(Some((head, size)))
    }

    /// The values of all headers of a name.
    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let named = move |(known, _): &&(String, Vec<u8>)| known.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .filter(named)
            .map(|(_, value)| &value[..])
    }

    /// The one value of a name, if it is there. Errors where there are several.
    fn value(&self, name: &str) -> Result<Option<&[u8]>, HttpError> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(HttpError::bad(format!("there is more than one {name}"))),
        }
    }

    /// How the body is framed. Errors where that can be understood in more than one way, where the
    /// body is too large, and where there has to be one and nothing says how long it is.
    pub fn framing(&self) -> Result<Framing, HttpError> {
        let hosts = self.value("Host")?;
        if hosts.is_none() && !self.is_1_0 {
            return Err(HttpError::bad("the request has no Host"));
        }
        let length = self.value("Content-Length")?;
        let encoding = self.value("Transfer-Encoding")?;
        match (length, encoding) {
            (Some(_), Some(_)) => Err(HttpError::bad(
                "the request has both a Content-Length and a Transfer-Encoding",
            )),
            (None, Some(_)) if self.is_1_0 => {
                Err(HttpError::bad("HTTP/1.0 has no Transfer-Encoding"))
            }
            (None, Some(encoding)) if encoding.eq_ignore_ascii_case(b"chunked") => {
                Ok(Framing::Chunked)
            }
            (None, Some(_)) => Err(HttpError::new(
                501,
                "the one Transfer-Encoding that the server knows is chunked",
            )),
            (Some(length), None) => parse_length(length).map(Framing::Length),
            (None, None) if self.method == "POST" => {
                Err(HttpError::new(411, "the request has no Content-Length"))
            }
            (None, None) => Ok(Framing::Length(0)),
        }
    }

    /// Whether the client waits for a word before it sends the body.
    pub fn expects_continue(&self) -> Result<bool, HttpError> {
        match self.value("Expect")? {
            None => Ok(false),
            Some(value) if value.eq_ignore_ascii_case(b"100-continue") => Ok(!self.is_1_0),
            Some(_) => Err(HttpError::new(417, "the server knows no such Expect")),
        }
    }

    /// Whether the client may send another request on the connection.
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

    /// Whether the client reads chunks.
    pub fn takes_chunks(&self) -> bool {
        !self.is_1_0
    }

    /// The body's type, if it says one.
    pub fn content_type(&self) -> Option<String> {
        let value = self.values("Content-Type").next()?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

fn too_large() -> HttpError {
    HttpError::new(
        431,
        format!("the head is larger than {LIMIT} bytes or {HEADERS} headers"),
    )
}

/// The path of a request's target, without the query. A target may name the server, too.
fn path<'a>(method: &str, target: &'a str) -> Result<&'a str, HttpError> {
    let local = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
            rest.find('/').map_or("/", |slash| &rest[slash..])
        }
        _ => target,
    };
    let known = local.starts_with('/') || (method == "OPTIONS" && local == "*");
    if !known {
        return Err(HttpError::bad(format!(
            "the request is for {target:?}, which is no path"
        )));
    }
    Ok(local.split(['?', '#']).next().unwrap_or(local))
}

/// Digits and nothing else: signs, lists and the like are what request smugglers write.
fn parse_length(value: &[u8]) -> Result<usize, HttpError> {
    let text = str::from_utf8(value).unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HttpError::bad("the Content-Length is not a number"));
    }
    match text.parse() {
        Ok(length) if length <= body::LIMIT => Ok(length),
        _ => Err(body::too_large()),
    }
}

/// Whether there is a line feed that no carriage return stands before.
fn has_bare_line_feed(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .enumerate()
        .any(|(i, byte)| *byte == b'\n' && (i == 0 || bytes[i - 1] != b'\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Head, u16> {
        match Head::parse(text.as_bytes()) {
            Ok(Some((head, size))) => {
                assert_eq!(size, text.len());
                Ok(head)
            }
            Ok(None) => panic!("{text:?} is not whole"),
            Err(error) => Err(error.status),
        }
    }

    fn framing(lines: &str) -> Result<Framing, u16> {
        let head = parse(&format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n"))?;
        head.framing().map_err(|error| error.status)
    }

    #[test]
    fn a_target_is_a_path_with_or_without_a_server() {
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
    fn a_body_has_one_end_or_is_refused() {
        for (lines, expected) in [
            ("Content-Length: 7\r\n", Ok(Framing::Length(7))),
            ("content-length:0007 \r\n", Ok(Framing::Length(7))),
            ("Transfer-Encoding: Chunked\r\n", Ok(Framing::Chunked)),
            ("", Err(411)),
            ("Content-Length: 1048577\r\n", Err(413)),
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
        let old = |lines: &str| parse(&format!("GET / HTTP/1.0\r\n{lines}\r\n")).unwrap();
        assert_eq!(old("").framing(), Ok(Framing::Length(0)));
        assert!(old("Transfer-Encoding: chunked\r\n").framing().is_err());
    }

    #[test]
    fn what_is_no_head_is_known_before_its_end() {
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
        let many = "X: y\r\n".repeat(HEADERS + 1);
        assert_eq!(
            parse(&format!("GET / HTTP/1.1\r\n{many}\r\n")).unwrap_err(),
            431
        );
        assert!(matches!(Head::parse(b"GET / HTTP/1.1\r\nX: y"), Ok(None)));
    }

    #[test]
    fn the_connection_goes_on_as_both_versions_have_it() {
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
