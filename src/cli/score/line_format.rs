//! The output of a scored line.

use std::io::Write;

use anyhow::Result;
use serde::ser::{Serialize, Serializer};

use crate::data::Tokenizer;
use crate::engine::{Score, ScoreUnit, TokenBits};

/// Shades of characters from these bits on, 2⁻⁵, 2⁻⁸ and 2⁻¹², as the parameters of an escape sequence:
/// yellow, then black on yellow and on red.
const SHADES: [(f64, &str); 3] = [(5.0, "33"), (8.0, "30;43"), (12.0, "30;41")];

/// The output format of a line.
#[derive(Clone, Copy)]
pub struct LineFormat {
    pub json: bool,
    /// The unit of the line's bits.
    pub unit: ScoreUnit,
    /// Print the bits of each token.
    pub tokens: bool,
    /// Shade the characters by their bits.
    pub shade: bool,
}

/// A line as JSON. Infinite bits are null.
#[derive(serde::Serialize)]
struct JsonLine<'a> {
    line: &'a str,
    bits: f64,
    tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "is_zero")]
    unknown: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_bits: Option<JsonTokens<'a>>,
}

#[derive(serde::Serialize)]
struct JsonToken {
    token: String,
    bits: f64,
}

/// The tokens of a line, which are converted one at a time: a line may have millions.
struct JsonTokens<'a> {
    tokenizer: &'a Tokenizer,
    tokens: &'a [TokenBits],
}

impl Serialize for JsonTokens<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.tokens
                .iter()
                .map(|&TokenBits { token, bits }| JsonToken {
                    token: self.tokenizer.name_of(token),
                    bits,
                }),
        )
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl LineFormat {
    /// Appends the output of a line, whose bytes are `line` and whose characters are `text`.
    pub fn write(
        self,
        line: &[u8],
        text: &str,
        score: &Score,
        tokenizer: &Tokenizer,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let tokens = &score.token_bits[..];
        if self.json {
            let json = JsonLine {
                line: text,
                bits: score.bits,
                tokens: score.tokens,
                bytes: (self.unit == ScoreUnit::Byte).then_some(score.bytes),
                unknown: score.unknown,
                token_bits: self.tokens.then_some(JsonTokens { tokenizer, tokens }),
            };
            serde_json::to_writer(&mut *out, &json)?;
        } else {
            write!(out, "{:.6}\t", score.bits_per(self.unit))?;
            if self.tokens {
                write_bits(tokens, out)?;
            }
            if self.shade {
                write_shaded(line, tokens, tokenizer, out)?;
            } else {
                out.extend_from_slice(line);
            }
        }
        out.push(b'\n');
        Ok(())
    }
}

/// Writes the bits of each token and a tab.
fn write_bits(tokens: &[TokenBits], out: &mut Vec<u8>) -> Result<()> {
    for (i, TokenBits { bits, .. }) in tokens.iter().enumerate() {
        let separator = if i == 0 { "" } else { " " };
        write!(out, "{separator}{bits:.2}")?;
    }
    out.push(b'\t');
    Ok(())
}

/// Writes a line with its characters shaded by the bits of their tokens, the most of several. Characters
/// that are not scored are not shaded: spaces around a document, and unknown ones that are left out.
fn write_shaded(
    line: &[u8],
    tokens: &[TokenBits],
    tokenizer: &Tokenizer,
    out: &mut Vec<u8>,
) -> Result<()> {
    let mut tokens = ShadedTokens::new(tokens, tokenizer);
    let mut current = None;
    let mut write = |c: char, bytes: &[u8]| -> Result<()> {
        let shade = tokens.bits_of(c).and_then(shade);
        if shade != current {
            if current.is_some() {
                out.extend_from_slice(b"\x1b[0m");
            }
            if let Some(shade) = shade {
                write!(out, "\x1b[{shade}m")?;
            }
            current = shade;
        }
        out.extend_from_slice(bytes);
        Ok(())
    };
    for chunk in line.utf8_chunks() {
        let mut buffer = [0; 4];
        for c in chunk.valid().chars() {
            write(c, c.encode_utf8(&mut buffer).as_bytes())?;
        }
        if !chunk.invalid().is_empty() {
            write(char::REPLACEMENT_CHARACTER, chunk.invalid())?;
        }
    }
    if current.is_some() {
        out.extend_from_slice(b"\x1b[0m");
    }
    Ok(())
}

/// The tokens of a line, in step with its characters.
struct ShadedTokens<'a> {
    tokens: &'a [TokenBits],
    tokenizer: &'a Tokenizer,
    /// The bytes that remain of the token before `tokens`, and its bits.
    rest: usize,
    bits: f64,
}

impl<'a> ShadedTokens<'a> {
    fn new(tokens: &'a [TokenBits], tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokens,
            tokenizer,
            rest: 0,
            bits: 0.0,
        }
    }

    /// Takes a character. Returns the bits of its tokens, the most of several; `None` if it is not
    /// scored.
    fn bits_of(&mut self, c: char) -> Option<f64> {
        let mut buffer = [0; 4];
        let mut bytes: &[u8] = c.encode_utf8(&mut buffer).as_bytes();
        let mut bits = f64::NEG_INFINITY;
        while !bytes.is_empty() {
            if self.rest == 0 {
                let (next, tokens) = self.tokens.split_first()?;
                self.rest = match self.tokenizer.bytes_of(next.token) {
                    Some(token) if token.starts_with(bytes) || bytes.starts_with(token) => {
                        token.len()
                    }
                    None if self.tokenizer.unknown_char(next.token) == Some(c) => bytes.len(),
                    _ => return None,
                };
                (self.tokens, self.bits) = (tokens, next.bits);
            }
            bits = bits.max(self.bits);
            let shared = self.rest.min(bytes.len());
            self.rest -= shared;
            bytes = &bytes[shared..];
        }
        Some(bits)
    }
}

/// Returns the shade of a character.
fn shade(bits: f64) -> Option<&'static str> {
    let mut shades = SHADES.iter().rev();
    shades
        .find(|(min, _)| bits >= *min)
        .map(|(_, shade)| *shade)
}
