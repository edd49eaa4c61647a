//! Text as it comes in files: byte order marks, line breaks, and other encodings than UTF-8.

use std::io::{self, Read};

use anyhow::{Result, anyhow, bail};

const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";
const UTF16_BOMS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// A reader of UTF-8 text without its byte order mark, and with CRLF and CR as LF. Reading UTF-16 is
/// an error.
pub struct TextReader<R> {
    source: R,
    /// Bytes at the start that are not a byte order mark; `None` before the first read.
    start: Option<Vec<u8>>,
    /// The last byte was CR, so that a LF is part of the same line break.
    is_after_cr: bool,
}

impl<R: Read> TextReader<R> {
    pub fn new(source: R) -> Self {
        Self {
            source,
            start: None,
            is_after_cr: false,
        }
    }

    /// Reads the start of the text as far as it may be a byte order mark, and removes that.
    fn read_start(&mut self) -> io::Result<Vec<u8>> {
        let mut start = Vec::new();
        let is_part = |mark: &[u8], start: &[u8]| mark.starts_with(start) && mark != start;
        while is_part(UTF8_BOM, &start) || UTF16_BOMS.iter().any(|mark| is_part(mark, &start)) {
            let mut byte = [0];
            match self.source.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => start.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if UTF16_BOMS.contains(&&start[..]) {
            let message = "it is UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        if start == UTF8_BOM {
            start.clear();
        }
        Ok(start)
    }

    /// Replaces CRLF and CR by LF, and returns the new length.
    fn unify_line_breaks(&mut self, bytes: &mut [u8]) -> usize {
        if !self.is_after_cr && !bytes.contains(&b'\r') {
            return bytes.len();
        }
        let mut length = 0;
        for i in 0..bytes.len() {
            let byte = bytes[i];
            if !(byte == b'\n' && self.is_after_cr) {
                bytes[length] = if byte == b'\r' { b'\n' } else { byte };
                length += 1;
            }
            self.is_after_cr = byte == b'\r';
        }
        length
    }
}

impl<R: Read> Read for TextReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut start = match self.start.take() {
            Some(start) => start,
            None => self.read_start()?,
        };
        let length = loop {
            let count = match &start[..] {
                [] => self.source.read(buffer)?,
                mut bytes => bytes.read(buffer)?,
            };
            start.drain(..count.min(start.len()));
            let length = self.unify_line_breaks(&mut buffer[..count]);
            // The LF of a CRLF alone is not the end.
            if length > 0 || count == 0 {
                break length;
            }
        };
        self.start = Some(start);
        Ok(length)
    }
}

/// Decodes UTF-8. Errors name the line and the likely encoding. NUL is refused because `generate
/// --null` ends samples with it.
pub fn decode_utf8(bytes: Vec<u8>) -> Result<String> {
    check_utf8(&bytes, 0)?;
    Ok(String::from_utf8(bytes)?)
}

/// Decodes a part of a text that `lines_before` line breaks precede. Errors as [`decode_utf8`].
pub fn check_utf8(bytes: &[u8], lines_before: u64) -> Result<&str> {
    let line = |at: usize| 1 + lines_before + count_line_breaks(&bytes[..at]);
    if let Some(at) = bytes.iter().position(|&b| b == 0) {
        if let Some(encoding) = utf16_without_mark(bytes) {
            bail!("it looks like UTF-16; convert it with `iconv -f {encoding} -t UTF-8`");
        }
        bail!(
            "line {} has a NUL byte, which text does not contain",
            line(at)
        );
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let hint = match single_byte_encoding(bytes) {
            Some(encoding) => {
                format!("it looks like {encoding}; convert it with `iconv -f {encoding} -t UTF-8`")
            }
            None => {
                "find its encoding and convert it with `iconv -f ENCODING -t UTF-8`".to_string()
            }
        };
        let line = line(error.valid_up_to());
        anyhow!("line {line} is not UTF-8 text; {hint}")
    })
}

pub fn count_line_breaks(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// Returns the byte order if every other byte of the text is mostly NUL.
fn utf16_without_mark(bytes: &[u8]) -> Option<&'static str> {
    let zeros = |first: usize| {
        bytes[first..]
            .iter()
            .step_by(2)
            .filter(|&&b| b == 0)
            .count()
    };
    let (even, odd) = (zeros(0), zeros(1));
    let most = bytes.len() / 2 * 3 / 4;
    match (even > most, odd > most) {
        (true, false) => Some("UTF-16BE"),
        (false, true) => Some("UTF-16LE"),
        _ => None,
    }
}

/// Returns the encoding of text in Western European languages: mostly ASCII, with single other bytes.
fn single_byte_encoding(bytes: &[u8]) -> Option<&'static str> {
    let others = bytes.iter().filter(|byte| !byte.is_ascii()).count();
    let has_control = bytes.iter().any(|byte| (0x80..0xa0).contains(byte));
    match (others <= bytes.len() / 4, has_control) {
        (false, _) => None,
        (true, false) => Some("LATIN1"),
        (true, true) => Some("WINDOWS-1252"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a text in pieces of `size` bytes.
    fn read_in_pieces(bytes: &[u8], size: usize) -> io::Result<Vec<u8>> {
        struct Pieces<'a>(&'a [u8], usize);
        impl Read for Pieces<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.1.min(buffer.len());
                self.0.read(&mut buffer[..count])
            }
        }
        let mut read = Vec::new();
        TextReader::new(Pieces(bytes, size)).read_to_end(&mut read)?;
        Ok(read)
    }

    #[test]
    fn byte_order_mark_and_carriage_returns_are_removed() {
        for (bytes, expected) in [
            (
                &b"\xef\xbb\xbfab\r\nc\r\rd\n\re\r"[..],
                &b"ab\nc\n\nd\n\ne\n"[..],
            ),
            (b"a\xef\xbb\xbf", b"a\xef\xbb\xbf"),
            (b"\xef\xbb", b"\xef\xbb"),
            (b"\xef\xbbx\r\n", b"\xef\xbbx\n"),
            (b"\xff", b"\xff"),
            (b"", b""),
        ] {
            for size in 1..=bytes.len().max(1) {
                assert_eq!(read_in_pieces(bytes, size).unwrap(), expected, "{size}");
            }
        }
    }

    #[test]
    fn utf16_error_names_iconv() {
        let error = read_in_pieces(b"\xff\xfea\0b\0", 1)
            .unwrap_err()
            .to_string();
        assert!(error.contains("`iconv -f UTF-16 -t UTF-8`"), "{error}");
        for (bytes, expected) in [(b"a\0\n\0b\0", "UTF-16LE"), (b"\0a\0\n\0b", "UTF-16BE")] {
            let error = decode_utf8(bytes.to_vec()).unwrap_err().to_string();
            let expected = format!("`iconv -f {expected} -t UTF-8`");
            assert!(error.contains(&expected), "{error}");
        }
        let error = decode_utf8(b"text\nthen\0\0\0\0binary".to_vec()).unwrap_err();
        assert!(
            error.to_string().starts_with("line 2 has a NUL byte"),
            "{error}"
        );
    }

    #[test]
    fn encoding_error_names_the_line_and_iconv() {
        for (bytes, expected) in [
            (
                &b"abc\nr\xe5n\n"[..],
                "line 2 is not UTF-8 text; it looks like LATIN1; ",
            ),
            (b"it\x92s a quote\n", "`iconv -f WINDOWS-1252 -t UTF-8`"),
            (b"\xcf\xf0\xe8\xe2\xe5\xf2", "find its encoding"),
        ] {
            let error = decode_utf8(bytes.to_vec()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
