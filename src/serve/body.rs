//! Chunks of a body, as they arrive (RFC 9112, 7.1).

use httparse::Status;

use super::http::HttpError;

/// The largest body that is read.
pub const LIMIT: usize = 1 << 20;

/// The longest line before a chunk, and the most bytes of trailers after the last.
const LINE: usize = 1 << 10;

pub fn too_large() -> HttpError {
    HttpError::new(413, format!("the body is larger than {LIMIT} bytes"))
}

/// The size of the chunk that some bytes begin with, and of the line that says it; none where more
/// bytes are needed.
pub fn parse_chunk_size(bytes: &[u8]) -> Result<Option<(usize, usize)>, HttpError> {
    let wrong = || HttpError::bad("the body's chunks are not as they have to be");
    match httparse::parse_chunk_size(bytes).map_err(|_| wrong())? {
        Status::Partial if bytes.len() > LINE => Err(wrong()),
        Status::Partial => Ok(None),
        Status::Complete((line, size)) => {
            // httparse takes a line without a number for 0, and lets pass whatever stands after a
            // semicolon, which others may take for the line's end.
            let strict = bytes[0].is_ascii_hexdigit()
                && bytes[..line - 2]
                    .iter()
                    .all(|byte| !byte.is_ascii_control());
            match usize::try_from(size) {
                _ if !strict => Err(wrong()),
                Ok(size) if size <= LIMIT => Ok(Some((size, line))),
                _ => Err(too_large()),
            }
        }
    }
}

/// How many bytes the trailers and the blank line after the last chunk take; none where more bytes
/// are needed. Nothing in a trailer matters to this server.
pub fn parse_trailers(bytes: &[u8]) -> Result<Option<usize>, HttpError> {
    let mut trailers = [httparse::EMPTY_HEADER; 16];
    match httparse::parse_headers(bytes, &mut trailers) {
        Ok(Status::Complete((size, _))) if size <= LINE => Ok(Some(size)),
        Ok(Status::Partial) if bytes.len() <= LINE => Ok(None),
        _ => Err(HttpError::bad(
            "the body's trailers are not as they have to be",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_chunk_is_a_hexadecimal_number() {
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
        let long = format!("a;{}", "b".repeat(LINE));
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
