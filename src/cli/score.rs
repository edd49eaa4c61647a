//! `microgpt score`: bits per token of each line, on all cores, in the order of the lines.
//!
//! The threads take turns in reading a chunk of lines, which each then scores. So a line from a slow
//! pipe is scored as it arrives, and memory holds a few chunks, or the longest line.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::failure::Failure;
use super::flags::ScoreArgs;
use super::{console, model_dir};
use crate::data::{CorpusKind, TextReader};
use crate::engine::{Pipeline, Score, Scorer};
use crate::infer::InferenceGpt;

/// Bytes per read, and so about the size of a chunk.
const CHUNK: usize = 16 << 10;

/// Chunks in flight per thread, which bounds the memory.
const CHUNKS_AHEAD: u64 = 4;

/// Runs `microgpt score`.
pub fn run(args: ScoreArgs) -> Result<(), Failure> {
    let style = match (args.summary, args.json) {
        (true, _) => ScoreFormat::Nothing,
        (_, true) => ScoreFormat::Json,
        _ => ScoreFormat::Lines,
    };
    let model = model_dir::load(args.model_dir.as_deref())?;
    let mut chunks = start(args.files, model, args.threads.count(), style)?;
    let mut output = console::Output::new();
    let mut total = Total::default();
    while let Some(Scored { text, scores }) = chunks.next_result()? {
        output.write(&text)?;
        scores.iter().for_each(|score| total.add(score));
        if !chunks.is_ready() {
            output.flush()?;
        }
    }
    output.flush()?;
    if args.summary {
        output.write(total.describe(args.json))?;
        output.flush()?;
    }
    Ok(())
}

/// The output format of a line.
#[derive(Clone, Copy)]
enum ScoreFormat {
    Lines,
    Json,
    Nothing,
}

/// Complete lines of one file.
struct LineChunk {
    /// The file's name in messages.
    source: Arc<str>,
    first_line: usize,
    text: Vec<u8>,
}

/// The output for a chunk, and the scores of its lines.
struct Scored {
    text: Vec<u8>,
    scores: Vec<Score>,
}

/// Starts to score the lines of the files, or of standard input if there are none.
fn start(
    mut files: Vec<PathBuf>,
    model: Arc<InferenceGpt>,
    threads: usize,
    style: ScoreFormat,
) -> Result<Pipeline<Scored>> {
    if files.is_empty() {
        files.push(PathBuf::from("-"));
    }
    let mut files = files.into_iter();
    let mut lines: Option<LineReader<Box<dyn Read + Send>>> = None;
    let source = move |_| {
        loop {
            if let Some(lines) = &mut lines
                && let Some(chunk) = lines.next_chunk()?
            {
                return Ok(Some(chunk));
            }
            let Some(path) = files.next() else {
                return Ok(None);
            };
            lines = Some(open(&path)?);
        }
    };
    let max_in_flight = CHUNKS_AHEAD * threads as u64;
    Pipeline::start(threads, max_in_flight, source, move |_, jobs| {
        let mut scorer = Scorer::new(&model);
        let kind = model.meta().tokenizer.kind();
        while let Some((number, chunk)) = jobs.take() {
            let scored = score_chunk(&mut scorer, kind, &chunk, style);
            let scored = scored.with_context(|| chunk.source.to_string());
            if !jobs.deliver(number, scored) {
                return;
            }
        }
    })
}

/// Opens a file, or standard input for `-`.
fn open(path: &Path) -> Result<LineReader<Box<dyn Read + Send>>> {
    if path.as_os_str() == "-" {
        return Ok(LineReader::new("standard input", Box::new(io::stdin())));
    }
    let source = path.display().to_string();
    let file = File::open(path).with_context(|| format!("cannot read {source}"))?;
    Ok(LineReader::new(&source, Box::new(file)))
}

/// Reads a file in chunks of complete lines.
struct LineReader<R> {
    source: Arc<str>,
    file: TextReader<R>,
    /// The beginning of a line whose end was not read yet.
    rest: Vec<u8>,
    next_line: usize,
    is_at_end: bool,
}

impl<R: Read> LineReader<R> {
    fn new(source: &str, file: R) -> Self {
        Self {
            source: source.into(),
            file: TextReader::new(file),
            rest: Vec::new(),
            next_line: 1,
            is_at_end: false,
        }
    }

    /// Reads the next complete lines as soon as there are any; none at the end of the file.
    fn next_chunk(&mut self) -> Result<Option<LineChunk>> {
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

fn score_chunk(
    scorer: &mut Scorer,
    kind: CorpusKind,
    chunk: &LineChunk,
    style: ScoreFormat,
) -> Result<Scored> {
    let text = chunk.text.strip_suffix(b"\n").unwrap_or(&chunk.text);
    let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    // What is not UTF-8 becomes a character that hardly any model knows.
    let texts: Vec<_> = lines
        .iter()
        .map(|line| String::from_utf8_lossy(line))
        .collect();
    let trimmed = texts.iter().map(|text| match kind {
        // As training takes them.
        CorpusKind::Documents | CorpusKind::Conversations => text.trim(),
        CorpusKind::Continuous => text,
    });
    let trimmed: Vec<&str> = trimmed.collect();
    let scores = scorer.score(&trimmed, chunk.first_line)?;
    let mut printed = Vec::new();
    for ((score, line), text) in scores.iter().zip(&lines).zip(&texts) {
        match style {
            ScoreFormat::Nothing => {}
            ScoreFormat::Lines => {
                write!(printed, "{:.6}\t", score.bits_per_token())?;
                printed.extend_from_slice(line);
                printed.push(b'\n');
            }
            ScoreFormat::Json => {
                let json = json!({
                    "line": text,
                    "bits": finite(score.bits),
                    "tokens": score.tokens,
                });
                writeln!(printed, "{json}")?;
            }
        }
    }
    Ok(Scored {
        text: printed,
        scores,
    })
}

/// Returns what is printed for a text, all scored on this thread.
#[cfg(any(test, fuzzing))]
pub fn score_on_this_thread(model: &InferenceGpt, text: &mut dyn Read) -> Result<Vec<u8>> {
    let mut lines = LineReader::new("the text", text);
    let mut scorer = Scorer::new(model);
    let kind = model.meta().tokenizer.kind();
    let mut printed = Vec::new();
    while let Some(chunk) = lines.next_chunk()? {
        printed.extend(score_chunk(&mut scorer, kind, &chunk, ScoreFormat::Lines)?.text);
    }
    Ok(printed)
}

/// A number as JSON, which has no infinity.
fn finite(number: f64) -> Value {
    if number.is_finite() {
        json!(number)
    } else {
        Value::Null
    }
}

/// All lines together.
#[derive(Default)]
struct Total {
    lines: u64,
    bits: f64,
    tokens: u64,
    /// Lines with unknown characters, which are in none of the above but the first.
    unknown: u64,
}

impl Total {
    fn add(&mut self, score: &Score) {
        self.lines += 1;
        if score.bits.is_finite() {
            self.bits += score.bits;
            self.tokens += score.tokens as u64;
        } else {
            self.unknown += 1;
        }
    }

    fn describe(&self, as_json: bool) -> String {
        let per_token = self.bits / self.tokens as f64;
        if as_json {
            let json = json!({
                "lines": self.lines,
                "bits": self.bits,
                "tokens": self.tokens,
                "bits_per_token": finite(per_token),
                "lines_with_unknown_characters": self.unknown,
            });
            return format!("{json}\n");
        }
        let lines = console::pluralize(self.lines, "line");
        let tokens = console::pluralize(self.tokens, "token");
        let unknown = match self.unknown {
            0 => String::new(),
            count => format!(
                ", {} left out for unknown characters",
                console::group_thousands(count)
            ),
        };
        format!("{per_token:.6}\t{lines}, {tokens}{unknown}\n")
    }
}
