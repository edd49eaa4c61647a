//! The bytes of a connection to the server.

use std::io::{self, Read, Write};

use crate::serve::gate::connection::{Connection, ReadError};
use crate::serve::http::reason_phrase;

/// A connection, of which the first byte is the number of bytes per read. The requests must not
/// depend on that number, nor must the presence of an error. The status may: of several errors,
/// each read size may meet another one first.
pub fn http_requests(input: &[u8]) {
    let Some((&read_size, bytes)) = input.split_first() else {
        return;
    };
    let (expected, expected_error) = requests(bytes, usize::MAX);
    let (parsed, error) = requests(bytes, usize::from(read_size).max(1));
    assert_eq!(parsed, expected);
    let errors = [expected_error, error];
    assert_eq!(error.is_some(), expected_error.is_some(), "{errors:?}");
    let body_bytes: usize = parsed.iter().map(|(_, body)| body.len()).sum();
    assert!(body_bytes <= bytes.len(), "bodies longer than the input");
    for status in errors.into_iter().flatten() {
        let is_known = !reason_phrase(status).is_empty();
        assert!(status >= 400 && is_known, "{status}");
    }
}

/// A client that sends bytes in reads of a fixed size and keeps the responses.
pub(crate) struct Client<'a> {
    unsent: &'a [u8],
    read_size: usize,
    pub received: Vec<u8>,
}

impl<'a> Client<'a> {
    pub fn new(bytes: &'a [u8], read_size: usize) -> Self {
        Self {
            unsent: bytes,
            read_size,
            received: Vec::new(),
        }
    }
}

impl Read for Client<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.read_size.min(buffer.len());
        self.unsent.read(&mut buffer[..count])
    }
}

impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.received.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The path and the body of each request, and the status of the error that ends them.
pub(crate) fn requests(bytes: &[u8], read_size: usize) -> (Vec<(String, Vec<u8>)>, Option<u16>) {
    let mut connection = Connection::over(Client::new(bytes, read_size));
    let mut requests = Vec::new();
    loop {
        let request = connection.read_head().and_then(|head| {
            let body = connection.read_body(&head)?;
            Ok((head.path, body))
        });
        match request {
            Ok(request) => requests.push(request),
            Err(ReadError::Closed) => return (requests, None),
            Err(ReadError::Refused(error)) => return (requests, Some(error.status)),
        }
    }
}
