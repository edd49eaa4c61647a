//! What comes over a connection to the server.

use std::io::{self, Read, Write};

use crate::serve::connection::{Connection, ReadError};
use crate::serve::http::reason;

/// The bytes of a connection, of which the first chooses how many arrive at once: the requests in
/// them do not depend on that, nor whether something is wrong. Of several things that are wrong,
/// each way may meet another one first.
pub fn http_requests(input: &[u8]) {
    let Some((&at_once, bytes)) = input.split_first() else {
        return;
    };
    let (whole, end) = requests(bytes, usize::MAX);
    let (cut, cut_end) = requests(bytes, usize::from(at_once).max(1));
    assert_eq!(cut, whole);
    assert_eq!(cut_end.is_some(), end.is_some(), "{cut_end:?}, {end:?}");
    let used: usize = whole.iter().map(|(_, body)| body.len()).sum();
    assert!(used <= bytes.len(), "more bodies than bytes");
    for status in [end, cut_end].into_iter().flatten() {
        assert!(status >= 400 && !reason(status).is_empty(), "{status}");
    }
}

/// A client that sends some bytes, a few at a time, and takes what comes back.
pub(crate) struct Client<'a> {
    sends: &'a [u8],
    at_once: usize,
    pub got: Vec<u8>,
}

impl<'a> Client<'a> {
    pub fn new(sends: &'a [u8], at_once: usize) -> Self {
        Self {
            sends,
            at_once,
            got: Vec::new(),
        }
    }
}

impl Read for Client<'_> {
    fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
        let count = self.at_once.min(part.len());
        self.sends.read(&mut part[..count])
    }
}

impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.got.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The path and the body of each request in some bytes, and the status that ends them.
pub(crate) fn requests(sends: &[u8], at_once: usize) -> (Vec<(String, Vec<u8>)>, Option<u16>) {
    let mut connection = Connection::over(Client::new(sends, at_once));
    let mut requests = Vec::new();
    loop {
        let request = connection.read_head().and_then(|head| {
            let body = connection.read_body(&head)?;
            Ok((head.path, body))
        });
        match request {
            Ok(request) => requests.push(request),
            Err(ReadError::Ended) => return (requests, None),
            Err(ReadError::Refused(error)) => return (requests, Some(error.status)),
        }
    }
}
