//! The score of all lines together.

use serde_json::json;

use crate::cli::console;
use crate::engine::{Score, ScoreUnit};

/// The sums over all lines.
#[derive(Default)]
pub struct Total {
    lines: u64,
    /// Of the lines whose bits are finite, as `tokens`.
    bits: f64,
    tokens: u64,
    bytes: u64,
    unknown: u64,
    /// Lines with unknown characters.
    unknown_lines: u64,
    /// Lines whose bits are infinite.
    left_out: u64,
}

impl Total {
    pub fn add(&mut self, score: &Score) {
        self.lines += 1;
        self.unknown += score.unknown as u64;
        self.unknown_lines += u64::from(score.unknown > 0);
        if score.bits.is_finite() {
            self.bits += score.bits;
            self.tokens += score.tokens as u64;
            self.bytes += score.bytes as u64;
        } else {
            self.left_out += 1;
        }
    }

    /// Returns the line that `--summary` prints.
    pub fn describe(&self, as_json: bool, unit: ScoreUnit) -> String {
        let per_token = self.bits / self.tokens as f64;
        let per_byte = self.bits / self.bytes as f64;
        if as_json {
            // JSON has no NaN: it becomes null.
            let mut json = json!({
                "lines": self.lines,
                "bits": self.bits,
                "tokens": self.tokens,
                "bits_per_token": per_token,
                "lines_with_unknown_characters": self.unknown_lines,
            });
            if unit == ScoreUnit::Byte {
                json["bytes"] = self.bytes.into();
                json["bits_per_byte"] = per_byte.into();
            }
            if self.unknown > 0 {
                json["unknown"] = self.unknown.into();
            }
            return format!("{json}\n");
        }
        let lines = console::pluralize(self.lines, "line");
        let (bits, count) = match unit {
            ScoreUnit::Token => (per_token, console::pluralize(self.tokens, "token")),
            ScoreUnit::Byte => (per_byte, console::pluralize(self.bytes, "byte")),
        };
        let unknown = match (self.left_out, self.unknown) {
            (0, 0) => String::new(),
            (0, count) => format!(", {}", console::pluralize(count, "unknown character")),
            (count, _) => format!(
                ", {} left out for unknown characters",
                console::group_thousands(count)
            ),
        };
        format!("{bits:.6}\t{lines}, {count}{unknown}\n")
    }
}
