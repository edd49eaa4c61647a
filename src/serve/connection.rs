//! One client's connection: requests are read from it in turn, and answers written to it.
//!
//! Everything that a client can make longer or slower than it has to be is bounded: the head and
//! the body in bytes, each wait for a byte by the socket's time-out, and a request as a whole by a
//! deadline that a steady trickle does not move.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use super::body::{self, parse_chunk_size, parse_trailers};
use super::head::{Framing, Head};
use super::http::{HttpError, Response, reason};

/// A client that sends or takes no byte for so long is cut off.
const IDLE: Duration = Duration::from_secs(10);

/// The longest that a request may take to arrive, however steadily it trickles.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long, and for how many bytes, a client is still listened to after the last answer, so that
/// it gets to read that.
const FAREWELL: Duration = Duration::from_secs(2);
const FAREWELL_BYTES: usize = 4 << 20;

/// How many bytes are asked for at once.
const PART: usize = 4 << 10;

/// Why there is no request.
#[derive(Debug)]
pub enum ReadError {
    /// The client is gone, or has nothing to say.
    Ended,
    /// It is told why.
    Refused(HttpError),
}

impl From<HttpError> for ReadError {
    fn from(error: HttpError) -> Self {
        Self::Refused(error)
    }
}

/// A stream of requests, and where the answers go.
pub struct Connection<S> {
    stream: S,
    /// What has arrived and is not used yet.
    arrived: Vec<u8>,
    /// When the request that is being read has to be there.
    deadline: Instant,
}

impl Connection<TcpStream> {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(IDLE))?;
        stream.set_write_timeout(Some(IDLE))?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }

    /// Ends the connection so that what was written last arrives: were it closed while there is
    /// something to read, the client might see an error in its place.
    pub fn end(mut self) {
        let end = Instant::now() + FAREWELL;
        let heard = |stream: &mut TcpStream| {
            stream.shutdown(Shutdown::Write)?;
            stream.set_read_timeout(Some(FAREWELL))?;
            let (mut part, mut left) = ([0; PART], FAREWELL_BYTES);
            while Instant::now() < end && left > 0 {
                match stream.read(&mut part)? {
                    0 => break,
                    count => left = left.saturating_sub(count),
                }
            }
            io::Result::Ok(())
        };
        // A client that is gone need not be listened to.
        let _ = heard(&mut self.stream);
    }
}

impl<S: Read + Write> Connection<S> {
    pub fn over(stream: S) -> Self {
        Self {
            stream,
            arrived: Vec::new(),
            deadline: Instant::now() + PATIENCE,
        }
    }

    /// Reads the head of the next request.
    pub fn read_head(&mut self) -> Result<Head, ReadError> {
        // The time that a client takes until it begins is bounded by the socket alone.
        if self.arrived.is_empty() {
            self.fill().map_err(|_| ReadError::Ended)?;
        }
        self.deadline = Instant::now() + PATIENCE;
        loop {
            if let Some((head, size)) = Head::parse(&self.arrived)? {
                self.arrived.drain(..size);
                return Ok(head);
            }
            self.more("the head of the request")?;
        }
    }

    /// Reads the body that belongs to a head.
    pub fn read_body(&mut self, head: &Head) -> Result<Vec<u8>, ReadError> {
        let framing = head.framing()?;
        let there_is_more = framing != Framing::Length(0) && self.arrived.is_empty();
        if head.expects_continue()? && there_is_more {
            let going_on = self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
            going_on.map_err(|_| ReadError::Ended)?;
        }
        match framing {
            Framing::Length(length) => self.take(length),
            Framing::Chunked => self.read_chunks(),
        }
    }

    fn read_chunks(&mut self) -> Result<Vec<u8>, ReadError> {
        let mut body = Vec::new();
        loop {
            let (size, line) = self.until(parse_chunk_size)?;
            self.arrived.drain(..line);
            if size == 0 {
                let trailers = self.until(parse_trailers)?;
                self.arrived.drain(..trailers);
                return Ok(body);
            }
            if body.len() + size > body::LIMIT {
                return Err(body::too_large().into());
            }
            body.extend(self.take(size)?);
            if self.take(2)? != b"\r\n" {
                return Err(HttpError::bad("a chunk is longer than it says").into());
            }
        }
    }

    /// Waits until what has arrived is enough to parse.
    fn until<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Option<T>, HttpError>,
    ) -> Result<T, ReadError> {
        loop {
            if let Some(parsed) = parse(&self.arrived)? {
                return Ok(parsed);
            }
            self.more("the body")?;
        }
    }

    /// Waits for so many bytes, and takes them.
    fn take(&mut self, count: usize) -> Result<Vec<u8>, ReadError> {
        while self.arrived.len() < count {
            self.more("the body")?;
        }
        let rest = self.arrived.split_off(count);
        Ok(std::mem::replace(&mut self.arrived, rest))
    }

    /// Waits for more of a request that has begun.
    fn more(&mut self, what: &str) -> Result<(), ReadError> {
        let late = || HttpError::new(408, format!("{what} did not arrive in time"));
        if Instant::now() > self.deadline {
            return Err(late().into());
        }
        self.fill().map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => late().into(),
            ErrorKind::UnexpectedEof => {
                HttpError::bad(format!("{what} ends before its end")).into()
            }
            _ => ReadError::Ended,
        })
    }

    /// Waits for bytes. Errors where none come.
    fn fill(&mut self) -> io::Result<()> {
        let mut part = [0; PART];
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.arrived.extend_from_slice(&part[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes an answer. Errors where the client is gone.
    pub fn write(&mut self, answer: &Response, head: Option<&Head>, last: bool) -> io::Result<()> {
        let mut bytes = status_line(answer.status);
        for (name, value) in &answer.headers {
            bytes += &format!("{name}: {value}\r\n");
        }
        bytes += &format!("Content-Length: {}\r\n", answer.body.len());
        bytes += connection_header(head, last);
        bytes += "\r\n";
        if head.is_none_or(|head| head.method != "HEAD") {
            bytes += &answer.body;
        }
        self.stream.write_all(bytes.as_bytes())
    }

    /// Writes the head of an answer of events, and then each event as it comes. Errors where the
    /// client is gone.
    pub fn write_events(
        &mut self,
        head: &Head,
        last: bool,
        make: impl FnOnce(&mut dyn FnMut(&str) -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<()> {
        let chunked = head.takes_chunks();
        let mut bytes = status_line(200);
        bytes += "Content-Type: text/event-stream\r\nCache-Control: no-cache\r\n";
        if chunked {
            bytes += "Transfer-Encoding: chunked\r\n";
        }
        bytes += connection_header(Some(head), last);
        bytes += "\r\n";
        self.stream.write_all(bytes.as_bytes())?;
        make(&mut |event| {
            let event = format!("data: {event}\n\n");
            let event = match chunked {
                true => format!("{:x}\r\n{event}\r\n", event.len()),
                false => event,
            };
            self.stream.write_all(event.as_bytes())
        })?;
        if chunked {
            self.stream.write_all(b"0\r\n\r\n")?;
        }
        Ok(())
    }
}

/// The first line of an answer, and the time.
fn status_line(status: u16) -> String {
    let now = httpdate::fmt_http_date(SystemTime::now());
    format!("HTTP/1.1 {status} {}\r\nDate: {now}\r\n", reason(status))
}

/// What a client has to be told of what comes after an answer, in the version that it speaks.
fn connection_header(head: Option<&Head>, last: bool) -> &'static str {
    match head {
        _ if last => "Connection: close\r\n",
        Some(head) if !head.takes_chunks() => "Connection: keep-alive\r\n",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::http_requests::{Client, requests};

    #[test]
    fn requests_are_the_same_however_they_are_cut_into_parts() {
        let chunked = "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let sized = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
        let many = format!(
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
        for at_once in [1, 2, 3, 7, 50, 5000] {
            assert_eq!(requests(many.as_bytes(), at_once), (expected.clone(), None));
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
        assert_eq!(requests(large.as_bytes(), PART).1, None);
        let larger = large.replace("\r\n0\r\n\r\n", "\r\n1\r\na\r\n0\r\n\r\n");
        assert_eq!(requests(larger.as_bytes(), PART).1, Some(413));
    }

    #[test]
    fn a_client_that_waits_for_a_word_gets_it_once() {
        let head =
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n";
        for (at_once, expected) in [(head.len(), 1), (PART, 0)] {
            let sends = format!("{head}abc");
            let mut connection = Connection::over(Client::new(sends.as_bytes(), at_once));
            let head = connection.read_head().unwrap();
            assert_eq!(connection.read_body(&head).unwrap(), b"abc");
            let got = String::from_utf8(connection.stream.got).unwrap();
            assert_eq!(
                got.matches("HTTP/1.1 100 Continue\r\n\r\n").count(),
                expected
            );
        }
    }

    #[test]
    fn an_answer_says_what_comes_after_it() {
        let mut connection = Connection::over(Client::new(b"", 1));
        let answer = Response::new("text/plain", "abc".into());
        let head = |version: &str| {
            let text = format!("HEAD / HTTP/{version}\r\nConnection: keep-alive\r\n\r\n");
            Head::parse(text.as_bytes()).unwrap().unwrap().0
        };
        connection
            .write(&answer, Some(&head("1.0")), false)
            .unwrap();
        connection
            .write(&answer, Some(&head("1.1")), false)
            .unwrap();
        connection.write(&answer, None, true).unwrap();
        let got = String::from_utf8(connection.stream.got).unwrap();
        let answers: Vec<&str> = got.split("HTTP/1.1 200 OK\r\nDate: ").skip(1).collect();
        let ends =
            |end: &str| format!("\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n{end}");
        assert!(
            answers[0].ends_with(&ends("Connection: keep-alive\r\n\r\n")),
            "{got}"
        );
        assert!(answers[1].ends_with(&ends("\r\n")), "{got}");
        assert!(
            answers[2].ends_with(&ends("Connection: close\r\n\r\nabc")),
            "{got}"
        );
    }
}
