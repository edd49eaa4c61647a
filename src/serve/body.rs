//! The body of a request, read within bounds of size and time.

use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

use tiny_http::{Method, Request};

use super::http::HttpError;

/// The largest body that is read.
pub const LIMIT: usize = 1 << 20;

/// tiny_http hands a request over with a body of up to this size already read.
const READ_AHEAD: usize = 1024;

/// The longest that a body may take to arrive, however steadily it trickles.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether reading the body may have to wait for the client.
pub fn may_block(request: &Request) -> bool {
    match request.body_length() {
        Some(length) => length > READ_AHEAD || (length > 0 && has_header(request, "Expect")),
        None => has_header(request, "Transfer-Encoding"),
    }
}

fn has_header(request: &Request, name: &'static str) -> bool {
    request
        .headers()
        .iter()
        .any(|header| header.field.equiv(name))
}

/// Reads the body. Errors where there has to be one and its end is unknown, where it is too large,
/// and where it does not arrive.
pub fn read(request: &mut Request) -> Result<Vec<u8>, HttpError> {
    let too_large = || HttpError::new(413, format!("the body is larger than {LIMIT} bytes"));
    match request.body_length() {
        Some(length) if length > LIMIT => return Err(too_large()),
        None if !has_header(request, "Transfer-Encoding") => {
            return match request.method() {
                Method::Post => Err(HttpError::new(411, "the request has no Content-Length")),
                _ => Ok(Vec::new()),
            };
        }
        _ => {}
    }
    let expected = request.body_length();
    let body = read_within(request.as_reader(), PATIENCE).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            HttpError::new(408, "the body did not arrive in time")
        }
        _ => HttpError::bad(format!("the body cannot be read: {error}")),
    })?;
    if body.len() > LIMIT {
        return Err(too_large());
    }
    if expected.is_some_and(|length| body.len() < length) {
        return Err(HttpError::bad(
            "the body is shorter than its Content-Length",
        ));
    }
    Ok(body)
}

/// Reads at most one byte more than the limit, for at most so long.
fn read_within(reader: &mut dyn Read, patience: Duration) -> io::Result<Vec<u8>> {
    let start = Instant::now();
    let mut reader = reader.take(LIMIT as u64 + 1);
    let (mut body, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match reader.read(&mut part) {
            Ok(0) => return Ok(body),
            Ok(count) => body.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if start.elapsed() > patience {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}
