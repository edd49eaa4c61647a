//! Chunked bodies (RFC 9112, 7.1), and the limit of all bodies.

use httparse::Status;

use crate::serve::http::HttpError;

/// The maximum size of a body, in bytes.
pub const LIMIT: usize = 1 << 20;

/// The maximum size of a chunk's first line, and of the trailers together, in bytes.
const MAX_LINE: usize = 1 << 10;

const MAX_TRAILERS: usize = 16;

pub fn too_large() -> HttpError {
    HttpError::new(413, format!("the body is larger than {LIMIT} bytes"))
}

/// Parses the line before a chunk. Returns the sizes of the chunk and of the line, or none where
/// the line is incomplete.
pub fn parse_chunk_size(bytes: &[u8]) -> Result<Option<(usize, usize)>, HttpError> {
    let invalid = || HttpError::bad_request("invalid chunk size in the body");
    match httparse::parse_chunk_size(bytes).map_err(|_| invalid())? {
        Status::Partial if bytes.len() > MAX_LINE => Err(invalid()),
        Status::Partial => Ok(None),
        Status::Complete((line, size)) => {
            // httparse reads a line without a number as 0, and accepts control characters after a
            // semicolon, which another parser may take for the end of the line.
            let is_strict =
                bytes[0].is_ascii_hexdigit() && !bytes[..line - 2].iter().any(u8::is_ascii_control);
            match usize::try_from(size) {
                _ if !is_strict => Err(invalid()),
                Ok(size) if size <= LIMIT => Ok(Some((size, line))),
                _ => Err(too_large()),
            }
        }
    }
}

/// Parses the trailers and the blank line after the last chunk, which are ignored. Returns their
/// size, or none where they are incomplete.
pub fn parse_trailers(bytes: &[u8]) -> Result<Option<usize>, HttpError> {
    let mut trailers = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    match httparse::parse_headers(bytes, &mut trailers) {
        Ok(Status::Complete((size, _))) if size <= MAX_LINE => Ok(Some(size)),
        Ok(Status::Partial) if bytes.len() <= MAX_LINE => Ok(None),
        _ => Err(HttpError::bad_request("invalid trailers after the body")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_strict_hexadecimal_numbers() {
        for (line, expected) in [
            ("a\r\n", Ok(Some((10, 3)))),
            ("0A;x=y\r\nrest", Ok(Some((10, 8)))),
            ("100000\r\n", Ok(Some((1 << 20, 8)))),
            ("100001\r\n", Err(413)),
            ("ffffffffffffffff\r\n", Err(413)),
            ("fffffffffffffffff\r\n", Err(400)),
            ("", Ok(None)),
            ("a\r", Ok(None)),
            ("\r\n", Err(400)),
            ("+a\r\n", Err(400)),
            (" a\r\n", Err(400)),
            ("0xa\r\n", Err(400)),
            ("a\n", Err(400)),
            ("a;\nb\r\n", Err(400)),
            (";\r\n", Err(400)),
        ] {
            let parsed = parse_chunk_size(line.as_bytes()).map_err(|error| error.status);
            assert_eq!(parsed, expected, "{line:?}");
        }
        let long = format!("a;{}", "b".repeat(MAX_LINE));
        assert!(parse_chunk_size(long.as_bytes()).is_err());
    }

    #[test]
    fn trailers_end_with_a_blank_line() {
        for (lines, expected) in [
            ("\r\n", Ok(Some(2))),
            ("X: y\r\n\r\nGET", Ok(Some(8))),
            ("X: y\r\n", Ok(None)),
            ("X\r\n\r\n", Err(400)),
        ] {
            let parsed = parse_trailers(lines.as_bytes()).map_err(|error| error.status);
            assert_eq!(parsed, expected, "{lines:?}");
        }
    }
}
