//! The text of a stream of tokens.

/// Decodes the bytes of tokens to whole characters, and holds back those of an incomplete one.
#[derive(Default)]
pub struct TextDecoder {
    /// The beginning of a character.
    incomplete: Vec<u8>,
}

impl TextDecoder {
    /// Takes the bytes of a token. Returns the text that they complete. Bytes that are not UTF-8 become
    /// U+FFFD, as by [`String::from_utf8_lossy`].
    pub fn push(&mut self, token: &[u8]) -> String {
        self.incomplete.extend_from_slice(token);
        let mut text = String::new();
        let mut rest = &self.incomplete[..];
        let kept = loop {
            let error = match str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    break 0;
                }
                Err(error) => error,
            };
            let (valid, invalid) = rest.split_at(error.valid_up_to());
            text.push_str(str::from_utf8(valid).expect("it is valid up to here"));
            let Some(length) = error.error_len() else {
                break invalid.len();
            };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &invalid[length..];
        };
        let complete = self.incomplete.len() - kept;
        self.incomplete.drain(..complete);
        text
    }

    /// Returns U+FFFD for an incomplete character at the end of the stream.
    pub fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.incomplete);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_parts_of_any_size_decodes_as_the_whole() {
        let texts: [&[u8]; 5] = [
            "héllo, 世界 🙂".as_bytes(),
            b"\xffa\xc3(\xe2\x82",
            b"\xf0\x9f\x99",
            b"\x80\x80\xf0\x9f\xf0\x9f\x99\x82",
            b"",
        ];
        for text in texts {
            for size in 1..5 {
                let mut decoder = TextDecoder::default();
                let mut decoded: String =
                    text.chunks(size).map(|part| decoder.push(part)).collect();
                decoded += &decoder.finish();
                assert_eq!(decoded, String::from_utf8_lossy(text));
            }
        }
    }

    #[test]
    fn incomplete_characters_are_held_back() {
        let mut decoder = TextDecoder::default();
        assert_eq!(decoder.push(b"a\xc3"), "a");
        assert_eq!(decoder.push(b"\xa9\xe2"), "é");
        assert_eq!(decoder.finish(), "\u{fffd}");
        assert_eq!(decoder.finish(), "");
    }
}
