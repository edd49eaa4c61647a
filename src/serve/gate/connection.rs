//! One client's connection: reads its requests in turn and writes the responses.
//!
//! All that a client can prolong is bounded: the head and the body in bytes, each read and write by
//! the socket's timeout, and a request as a whole by a deadline, which also ends a steady trickle.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use super::body::{self, parse_chunk_size, parse_trailers};
use super::head::{Framing, RequestHead};
use crate::serve::http::{HttpError, Response, reason_phrase};

/// The timeout of each read and write.
const IO_TIMEOUT: Duration = Duration::from_secs(10);

/// The time that a kept-alive connection waits for the next request, in seconds.
const KEEP_ALIVE_SECONDS: u64 = 75;

/// The time from a request's first byte to its last.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// The time and the number of bytes for which a closing connection still reads, so that the client
/// receives the last response.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 4 << 20;

/// The number of bytes per read.
const READ_SIZE: usize = 4 << 10;

/// The reason for the absence of a request.
#[derive(Debug)]
pub enum ReadError {
    /// The client closed the connection, or sent nothing.
    Closed,
    /// The request is invalid, too large or too late. The client gets the error.
    Refused(HttpError),
}

impl From<HttpError> for ReadError {
    fn from(error: HttpError) -> Self {
        Self::Refused(error)
    }
}

/// A stream of requests in one direction and of responses in the other.
pub struct Connection<S> {
    stream: S,
    /// Bytes that were received and not consumed yet.
    buffer: Vec<u8>,
    /// The deadline of the request that is being read.
    deadline: Instant,
}

impl Connection<TcpStream> {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        stream.set_write_timeout(Some(IO_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }

    /// Waits for the first byte of the next request. Errors where none arrives in time.
    pub fn wait_for_next(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            let timeout = Duration::from_secs(KEEP_ALIVE_SECONDS);
            self.stream.set_read_timeout(Some(timeout))?;
            self.fill()?;
            self.stream.set_read_timeout(Some(IO_TIMEOUT))?;
        }
        Ok(())
    }

    /// Closes the connection after the client has had time to read the last response: the reset
    /// that closing a socket with unread bytes sends could overtake it.
    pub fn close(mut self) {
        // An error means that the client disconnected.
        let _ = self.linger();
    }

    fn linger(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + LINGER;
        self.stream.shutdown(Shutdown::Write)?;
        self.stream.set_read_timeout(Some(LINGER))?;
        let (mut bytes, mut remaining) = ([0; READ_SIZE], LINGER_BYTES);
        while Instant::now() < deadline && remaining > 0 {
            match self.stream.read(&mut bytes)? {
                0 => break,
                count => remaining = remaining.saturating_sub(count),
            }
        }
        Ok(())
    }
}

impl<S: Read + Write> Connection<S> {
    pub fn over(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            deadline: Instant::now() + REQUEST_DEADLINE,
        }
    }

    /// Reads the head of the next request.
    pub fn read_head(&mut self) -> Result<RequestHead, ReadError> {
        // The socket's timeout alone bounds the wait for the first byte.
        if self.buffer.is_empty() {
            self.fill().map_err(|_| ReadError::Closed)?;
        }
        self.deadline = Instant::now() + REQUEST_DEADLINE;
        let (head, size) = self.read_until("the request head", RequestHead::parse)?;
        self.buffer.drain(..size);
        Ok(head)
    }

    /// Reads the body that follows a head.
    pub fn read_body(&mut self, head: &RequestHead) -> Result<Vec<u8>, ReadError> {
        let framing = head.framing()?;
        let is_outstanding = framing != Framing::Length(0) && self.buffer.is_empty();
        if head.expects_continue()? && is_outstanding {
            let written = self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
            written.map_err(|_| ReadError::Closed)?;
        }
        match framing {
            Framing::Length(length) => self.read_exact(length),
            Framing::Chunked => self.read_chunks(),
        }
    }

    fn read_chunks(&mut self) -> Result<Vec<u8>, ReadError> {
        let mut body = Vec::new();
        loop {
            let (size, line) = self.read_until("the body", parse_chunk_size)?;
            self.buffer.drain(..line);
            if size == 0 {
                let trailers = self.read_until("the body", parse_trailers)?;
                self.buffer.drain(..trailers);
                return Ok(body);
            }
            if body.len() + size > body::LIMIT {
                return Err(body::too_large().into());
            }
            body.extend(self.read_exact(size)?);
            if self.read_exact(2)? != b"\r\n" {
                return Err(HttpError::bad_request("a chunk is longer than its size").into());
            }
        }
    }

    /// Reads until the buffer parses. `part` names the part of the request in errors.
    fn read_until<T>(
        &mut self,
        part: &str,
        parse: impl Fn(&[u8]) -> Result<Option<T>, HttpError>,
    ) -> Result<T, ReadError> {
        loop {
            if let Some(parsed) = parse(&self.buffer)? {
                return Ok(parsed);
            }
            self.fill_before_deadline(part)?;
        }
    }

    /// Reads `count` bytes of the body.
    fn read_exact(&mut self, count: usize) -> Result<Vec<u8>, ReadError> {
        while self.buffer.len() < count {
            self.fill_before_deadline("the body")?;
        }
        let rest = self.buffer.split_off(count);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn fill_before_deadline(&mut self, part: &str) -> Result<(), ReadError> {
        let timeout = || HttpError::new(408, format!("{part} did not arrive in time"));
        if Instant::now() > self.deadline {
            return Err(timeout().into());
        }
        self.fill().map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => timeout().into(),
            ErrorKind::UnexpectedEof => {
                HttpError::bad_request(format!("{part} is incomplete")).into()
            }
            _ => ReadError::Closed,
        })
    }

    /// Waits for bytes and appends them to the buffer. Errors at the end of the stream.
    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; READ_SIZE];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.buffer.extend_from_slice(&bytes[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes a response to the request with this head, if there is one. `close` announces the end
    /// of the connection. Errors where the client disconnected.
    pub fn write_response(
        &mut self,
        response: &Response,
        head: Option<&RequestHead>,
        close: bool,
    ) -> io::Result<()> {
        let mut lines = String::new();
        for (name, value) in &response.headers {
            lines += &format!("{name}: {value}\r\n");
        }
        // RFC 9110, 8.6.
        if response.status != 204 {
            lines += &format!("Content-Length: {}\r\n", response.body.len());
        }
        self.write(
            response.status,
            &lines,
            response.body.as_bytes(),
            head,
            close,
        )
    }

    /// Writes a response whose headers are lines, with the length of the body among them.
    pub fn write(
        &mut self,
        status: u16,
        header_lines: &str,
        body: &[u8],
        head: Option<&RequestHead>,
        close: bool,
    ) -> io::Result<()> {
        let mut bytes = response_head(status, header_lines, head, close).into_bytes();
        if head.is_none_or(|head| head.method != "HEAD") {
            bytes.extend_from_slice(body);
        }
        self.stream.write_all(&bytes)
    }

    /// Writes the head of a response of server-sent events.
    pub fn begin_events(
        &mut self,
        header_lines: &str,
        head: &RequestHead,
        close: bool,
    ) -> io::Result<()> {
        let chunked = if head.is_1_0 {
            ""
        } else {
            "Transfer-Encoding: chunked\r\n"
        };
        let lines = format!("{header_lines}{chunked}");
        let bytes = response_head(200, &lines, Some(head), close);
        self.stream.write_all(bytes.as_bytes())
    }

    /// Writes server-sent events. Errors where the client disconnected.
    pub fn write_events(&mut self, events: &[u8], head: &RequestHead) -> io::Result<()> {
        if head.is_1_0 {
            return self.stream.write_all(events);
        }
        let size = format!("{:x}\r\n", events.len());
        self.stream
            .write_all(&[size.as_bytes(), events, b"\r\n"].concat())
    }

    /// Ends a response of server-sent events.
    pub fn end_events(&mut self, head: &RequestHead) -> io::Result<()> {
        match head.is_1_0 {
            true => Ok(()),
            false => self.stream.write_all(b"0\r\n\r\n"),
        }
    }
}

/// The status line, the date and further headers, and the blank line after them.
fn response_head(
    status: u16,
    header_lines: &str,
    head: Option<&RequestHead>,
    close: bool,
) -> String {
    let now = httpdate::fmt_http_date(SystemTime::now());
    let reason = reason_phrase(status);
    let common = common_headers(head, close);
    format!("HTTP/1.1 {status} {reason}\r\nDate: {now}\r\n{header_lines}{common}\r\n")
}

/// The headers of all responses to a request: CORS, and the future of the connection.
fn common_headers(head: Option<&RequestHead>, close: bool) -> String {
    let cors = head.map_or("", |head| &head.cors_headers);
    match close {
        true => format!("{cors}Connection: close\r\n"),
        false => {
            format!("{cors}Connection: keep-alive\r\nKeep-Alive: timeout={KEEP_ALIVE_SECONDS}\r\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::http_requests::{Client, requests};

    #[test]
    fn parsing_does_not_depend_on_read_sizes() {
        let chunked = "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let sized = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
        let pipelined = format!(
            "{sized}\r\nGET /c HTTP/1.1\r\nHost: x\r\n\r\n\
             {chunked}3;x=y\r\ndef\r\n10\r\n0123456789abcdef\r\n0\r\nX: y\r\n\r\n{sized}"
        );
        let request = |path: &str, body: &str| (path.to_string(), body.as_bytes().to_vec());
        let expected = vec![
            request("/a", "abc"),
            request("/c", ""),
            request("/b", "def0123456789abcdef"),
            request("/a", "abc"),
        ];
        for read_size in [1, 2, 3, 7, 50, 5000] {
            assert_eq!(
                requests(pipelined.as_bytes(), read_size),
                (expected.clone(), None)
            );
        }
        for (body, status) in [
            ("3\r\nabcd\r\n0\r\n\r\n", 400),
            ("4\r\nabc\r\n0\r\n\r\n", 400),
            ("3\r\nabc\r\n", 400),
            ("-3\r\nabc\r\n0\r\n\r\n", 400),
            ("100001\r\n", 413),
        ] {
            let broken = format!("{sized}{chunked}{body}");
            let expected = (vec![request("/a", "abc")], Some(status));
            assert_eq!(requests(broken.as_bytes(), 9), expected, "{body:?}");
        }
        let large = format!(
            "{chunked}{}0\r\n\r\n",
            "100000\r\n".to_string() + &"a".repeat(1 << 20) + "\r\n"
        );
        assert_eq!(requests(large.as_bytes(), READ_SIZE).1, None);
        let larger = large.replace("\r\n0\r\n\r\n", "\r\n1\r\na\r\n0\r\n\r\n");
        assert_eq!(requests(larger.as_bytes(), READ_SIZE).1, Some(413));
    }

    #[test]
    fn expect_100_continue_is_answered_once() {
        let head =
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n";
        for (read_size, expected) in [(head.len(), 1), (READ_SIZE, 0)] {
            let sent = format!("{head}abc");
            let mut connection = Connection::over(Client::new(sent.as_bytes(), read_size));
            let head = connection.read_head().unwrap();
            assert_eq!(connection.read_body(&head).unwrap(), b"abc");
            let got = String::from_utf8(connection.stream.received).unwrap();
            assert_eq!(
                got.matches("HTTP/1.1 100 Continue\r\n\r\n").count(),
                expected
            );
        }
    }

    #[test]
    fn responses_announce_the_end_or_the_life_of_the_connection() {
        let mut connection = Connection::over(Client::new(b"", 1));
        let response = Response::new("text/plain", "abc".into());
        let head = |version: &str| {
            let text = format!("HEAD / HTTP/{version}\r\nConnection: keep-alive\r\n\r\n");
            RequestHead::parse(text.as_bytes()).unwrap().unwrap().0
        };
        let (old, new) = (head("1.0"), head("1.1"));
        for (head, close) in [(Some(&old), false), (Some(&new), false), (None, true)] {
            connection.write_response(&response, head, close).unwrap();
        }
        let got = String::from_utf8(connection.stream.received).unwrap();
        let responses: Vec<&str> = got.split("HTTP/1.1 200 OK\r\nDate: ").skip(1).collect();
        let ends =
            |end: &str| format!("\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n{end}");
        assert!(
            responses[0].ends_with(&ends(
                "Connection: keep-alive\r\nKeep-Alive: timeout=75\r\n\r\n"
            )),
            "{got}"
        );
        assert!(responses[1].ends_with("timeout=75\r\n\r\n"), "{got}");
        assert!(
            responses[2].ends_with(&ends("Connection: close\r\n\r\nabc")),
            "{got}"
        );
    }
}
