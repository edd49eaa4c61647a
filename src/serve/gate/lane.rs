//! A lane: a kept-alive connection from the gate to a tiny_http server of its own, which has one
//! worker. Servers of several connections wake workers in vain, and can forget a connection of
//! several that come at once.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use httparse::Status;

use super::private_socket;

/// The maximum wait for the first response.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of bytes per read.
const READ_SIZE: usize = 4 << 10;

/// The maximum number of response headers.
const MAX_HEADERS: usize = 32;

/// Response headers that the gate does not relay: those of one hop, and those that it writes itself.
const HOP_HEADERS: [&str; 4] = ["Connection", "Date", "Server", "Transfer-Encoding"];

/// The signals between the gate and a worker about the response on a lane.
#[derive(Default)]
pub struct LaneSignals {
    /// The client disconnected: the worker ends its events early.
    pub client_gone: AtomicBool,
    /// The worker failed after the head of its response: the gate closes the client's connection.
    pub failed: AtomicBool,
}

/// The gate's end of a lane, for one request at a time.
pub struct Lane {
    stream: UnixStream,
    /// Bytes that were received and not consumed yet.
    buffer: Vec<u8>,
    signals: Arc<LaneSignals>,
}

/// The head of a worker's response, with its body unless that is events.
pub struct LaneResponse {
    pub status: u16,
    /// The headers to relay, one per line.
    pub header_lines: String,
    /// None for events: [`Lane::read_events`] reads them, and must reach their end.
    pub body: Option<Vec<u8>>,
}

impl Lane {
    /// Opens a lane to a server whose worker `start_worker` starts, and waits for a first response.
    pub fn open(
        start_worker: impl FnOnce(&'static tiny_http::Server, Arc<LaneSignals>) -> Result<()>,
    ) -> Result<Self> {
        let (stream, listener) = private_socket::pair().context("cannot open a private socket")?;
        let server = tiny_http::Server::from_listener(listener, None)
            .map_err(|error| anyhow!("cannot start tiny_http: {error}"))?;
        let mut lane = Self {
            stream,
            buffer: Vec::new(),
            signals: Arc::default(),
        };
        // Never dropped: tiny_http would unwrap the path of the socket, and an abstract name has
        // none.
        start_worker(Box::leak(Box::new(server)), Arc::clone(&lane.signals))?;
        lane.stream.set_read_timeout(Some(OPEN_TIMEOUT))?;
        let response = lane.request("GET", "/healthz", &[]);
        response.context("tiny_http does not respond")?;
        lane.stream.set_read_timeout(None)?;
        Ok(lane)
    }

    /// Sends a request and waits for the head of the response. The head of the request has nothing
    /// of the client's but the method and the path, which must be ASCII: tiny_http closes the lane
    /// otherwise.
    pub fn request(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<LaneResponse> {
        self.signals.client_gone.store(false, Ordering::Release);
        self.signals.failed.store(false, Ordering::Release);
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        self.stream.write_all(&[head.as_bytes(), body].concat())?;
        self.read_response(method)
    }

    fn read_response(&mut self, method: &str) -> io::Result<LaneResponse> {
        let (head, size) = loop {
            if let Some(parsed) = ResponseHead::parse(&self.buffer)? {
                break parsed;
            }
            self.fill()?;
        };
        self.buffer.drain(..size);
        let body = match head.length {
            Some(_) if method == "HEAD" => Some(Vec::new()),
            Some(length) => Some(self.read_exact(length)?),
            None => None,
        };
        Ok(LaneResponse {
            status: head.status,
            header_lines: head.lines,
            body,
        })
    }

    /// Waits for further events and returns all that were received; none after the last.
    pub fn read_events(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut events = Vec::new();
        loop {
            match httparse::parse_chunk_size(&self.buffer).map_err(|_| malformed())? {
                Status::Complete((line, 0)) => {
                    if !events.is_empty() {
                        return Ok(Some(events));
                    }
                    self.read_exact(line + 2)?;
                    return Ok(None);
                }
                Status::Complete((line, size)) if line + size as usize + 2 <= self.buffer.len() => {
                    events.extend_from_slice(&self.buffer[line..][..size as usize]);
                    self.buffer.drain(..line + size as usize + 2);
                }
                _ if events.is_empty() => self.fill()?,
                _ => return Ok(Some(events)),
            }
        }
    }

    /// Tells the worker that the client disconnected.
    pub fn cancel(&self) {
        self.signals.client_gone.store(true, Ordering::Release);
    }

    /// Returns true if the worker failed within its events. Final once the last event was read.
    pub fn has_failed(&self) -> bool {
        self.signals.failed.load(Ordering::Acquire)
    }

    fn read_exact(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill()?;
        }
        let rest = self.buffer.split_off(count);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; READ_SIZE];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.buffer.extend_from_slice(&bytes[..count]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The status line and the headers of a response.
struct ResponseHead {
    status: u16,
    lines: String,
    /// None if the body is chunked.
    length: Option<usize>,
}

impl ResponseHead {
    /// Parses a head at the start of `bytes`. Returns it with its size, or none where it is
    /// incomplete.
    fn parse(bytes: &[u8]) -> io::Result<Option<(Self, usize)>> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let status = response.parse(bytes).map_err(|_| malformed())?;
        let (Status::Complete(size), Some(status)) = (status, response.code) else {
            return Ok(None);
        };
        let (mut lines, mut length) = (String::new(), None);
        for httparse::Header { name, value } in response.headers {
            let value = str::from_utf8(value).map_err(|_| malformed())?;
            if name.eq_ignore_ascii_case("Content-Length") {
                length = Some(value.parse().map_err(|_| malformed())?);
            }
            if !HOP_HEADERS.iter().any(|hop| name.eq_ignore_ascii_case(hop)) {
                lines += &format!("{name}: {value}\r\n");
            }
        }
        let head = Self {
            status,
            lines,
            length,
        };
        Ok(Some((head, size)))
    }
}

fn malformed() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "malformed response of a worker")
}
