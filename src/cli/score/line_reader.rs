//! The lines of a file, in chunks.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::super::input_file;
use crate::data::TextReader;

/// Bytes per read, and so about the size of a chunk.
const CHUNK: usize = 16 << 10;

/// Complete lines of one file.
pub struct LineChunk {
    /// The file's name in messages.
    pub source: Arc<str>,
    pub first_line: usize,
    pub text: Vec<u8>,
}

/// Reads a file in chunks of complete lines.
pub struct LineReader<R> {
    source: Arc<str>,
    file: TextReader<R>,
    /// The beginning of a line whose end was not read yet.
    rest: Vec<u8>,
    next_line: usize,
    is_at_end: bool,
}

/// Opens a file, or standard input for `-`.
pub fn open(path: &Path) -> Result<LineReader<Box<dyn Read + Send>>> {
    let (source, file) = input_file::open(path)?;
    Ok(LineReader::new(&source, file))
}

impl<R: Read> LineReader<R> {
    pub fn new(source: &str, file: R) -> Self {
        Self {
            source: source.into(),
            file: TextReader::new(file),
            rest: Vec::new(),
            next_line: 1,
            is_at_end: false,
        }
    }

    /// Reads the next complete lines as soon as there are any; none at the end of the file.
    pub fn next_chunk(&mut self) -> Result<Option<LineChunk>> {
        let mut text = std::mem::take(&mut self.rest);
        while !self.is_at_end {
            let start = text.len();
            text.resize(start + CHUNK, 0);
            let count = self.file.read(&mut text[start..]);
            let count = count.with_context(|| format!("cannot read {}", self.source))?;
            text.truncate(start + count);
            self.is_at_end = count == 0;
            if let Some(end) = text[start..].iter().rposition(|&byte| byte == b'\n') {
                self.rest = text.split_off(start + end + 1);
                break;
            }
        }
        if text.is_empty() {
            return Ok(None);
        }
        let first_line = self.next_line;
        self.next_line += text.iter().filter(|&&byte| byte == b'\n').count();
        Ok(Some(LineChunk {
            source: Arc::clone(&self.source),
            first_line,
            text,
        }))
    }
}
