//! `--prompt-file`: a prompt per line.

use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::input_file;
use crate::data::{TextReader, decode_utf8};
use crate::engine::{GenerateOptions, Generator, SampleBlock};
use crate::infer::InferenceGpt;

/// The samples of a prompt that go to a thread at once.
const BLOCK: u64 = 64;

/// The lines of a file of prompts.
pub struct PromptLines {
    /// The file's name in messages.
    source: String,
    file: BufReader<TextReader<Box<dyn Read + Send>>>,
    /// The number of lines that were read.
    count: u64,
}

impl PromptLines {
    /// Opens a file, or standard input for `-`.
    pub fn open(path: &Path) -> Result<Self> {
        let (source, file) = input_file::open(path)?;
        Ok(Self {
            source,
            file: BufReader::new(TextReader::new(file)),
            count: 0,
        })
    }

    /// Returns whether the next line is read already.
    fn is_ready(&self) -> bool {
        self.file.buffer().contains(&b'\n')
    }

    /// The next line without its line break; none at the end.
    pub fn next_line(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        let read = self.file.read_until(b'\n', &mut line);
        let length = read.with_context(|| format!("cannot read {}", self.source))?;
        if length == 0 {
            return Ok(None);
        }
        self.count += 1;
        line.pop_if(|byte| *byte == b'\n');
        let line = decode_utf8(line).with_context(|| self.place())?;
        Ok(Some(line))
    }

    /// The last line that was read, in messages.
    pub fn place(&self) -> String {
        format!("{}, line {}", self.source, self.count)
    }
}

/// The blocks of samples of a file of prompts.
pub struct PromptBlocks {
    lines: PromptLines,
    model: Arc<InferenceGpt>,
    options: GenerateOptions,
    /// The indices of the samples of each prompt.
    indices: Range<u64>,
    /// The current prompt, and its indices that were not returned yet.
    current: Option<(Arc<Generator>, Range<u64>)>,
}

impl PromptBlocks {
    pub fn new(
        lines: PromptLines,
        model: Arc<InferenceGpt>,
        options: GenerateOptions,
        indices: Range<u64>,
    ) -> Self {
        Self {
            lines,
            model,
            options,
            indices,
            current: None,
        }
    }

    /// The next block; none at the end, or if it takes waiting for a line and `may_wait` is false. Errors
    /// name the line.
    pub fn next(&mut self, may_wait: bool) -> Result<Option<SampleBlock>> {
        if self.current.is_none() {
            if !may_wait && !self.lines.is_ready() {
                return Ok(None);
            }
            let Some(prompt) = self.lines.next_line()? else {
                return Ok(None);
            };
            let options = GenerateOptions {
                prompt,
                ..self.options.clone()
            };
            let generator = Generator::new(Arc::clone(&self.model), options)
                .with_context(|| self.lines.place())?;
            self.current = Some((Arc::new(generator), self.indices.clone()));
        }
        let Some((generator, rest)) = &mut self.current else {
            return Ok(None);
        };
        let indices = rest.start..rest.end.min(rest.start + BLOCK);
        rest.start = indices.end;
        let generator = Arc::clone(generator);
        if rest.is_empty() {
            self.current = None;
        }
        Ok(Some(SampleBlock {
            generator,
            prompt: self.lines.count - 1,
            indices,
        }))
    }
}
