//! `microgpt score`: how odd each line is, on all cores, in the order of the lines.
//!
//! One thread reads, some score what it read, and the first writes, so that a line from a slow pipe
//! is scored when it comes, and memory holds no more than a few chunks of text, or the longest line.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::reorder::Reorder;
use super::{Failure, Words, console, load_model};
use crate::data::CorpusKind;
use crate::engine::{Score, Scorer};
use crate::infer::InferenceGpt;

/// How much is read at once, and so about how much text a thread scores at once.
const CHUNK: usize = 16 << 10;

pub fn run(words: &Words) -> Result<(), Failure> {
    let style = match (words.has("summary"), words.has("json")) {
        (true, _) => Style::Nothing,
        (_, true) => Style::Json,
        _ => Style::Lines,
    };
    let threads = words.threads()?;
    let results = start(words.files().collect(), load_model(words)?, threads, style)?;
    let mut output = console::Output::new();
    let mut total = Total::default();
    let mut in_order = Reorder::new();
    let mut ended = false;
    while !ended {
        let (number, chunk) = results.recv().context("a thread failed")?;
        in_order.insert(number, chunk);
        while let Some(chunk) = in_order.take() {
            match chunk? {
                Some(Scored { text, scores }) => {
                    output.write(&text)?;
                    scores.iter().for_each(|score| total.add(score));
                }
                None => ended = true,
            }
        }
        output.flush()?;
    }
    if words.has("summary") {
        output.write(total.describe(words.has("json")))?;
        output.flush()?;
    }
    Ok(())
}

/// What is printed of a line.
#[derive(Clone, Copy)]
enum Style {
    Lines,
    Json,
    Nothing,
}

/// Some whole lines of the input.
struct Chunk {
    number: u64,
    /// What messages call the file.
    source: Arc<str>,
    first_line: usize,
    text: Vec<u8>,
}

/// What is printed of a chunk, and the scores of its lines.
struct Scored {
    text: Vec<u8>,
    scores: Vec<Score>,
}

/// With its number; nothing after the last.
type ScoredChunk = (u64, Result<Option<Scored>>);

/// Starts to read the files, or standard input where there are none, and to score their lines.
fn start(
    files: Vec<PathBuf>,
    model: Arc<InferenceGpt>,
    threads: usize,
    style: Style,
) -> Result<Receiver<ScoredChunk>> {
    let (chunks, read) = sync_channel(threads);
    let (results, scored) = sync_channel(threads);
    let read = Arc::new(Mutex::new(read));
    let spawn = |work: Box<dyn FnOnce() + Send>| {
        let thread = thread::Builder::new().spawn(work);
        thread.with_context(|| format!("cannot start {threads} threads"))
    };
    for _ in 0..threads {
        let (model, read, results) = (Arc::clone(&model), Arc::clone(&read), results.clone());
        spawn(Box::new(move || {
            score_chunks(&model, &read, &results, style)
        }))?;
    }
    spawn(Box::new(move || {
        let mut reader = Reader { chunks, number: 0 };
        let end = reader.read_all(&files).map(|()| None);
        // Where nobody listens any more, nobody needs to know.
        let _ = results.send((reader.number, end));
    }))?;
    Ok(scored)
}

/// Takes the input apart into chunks.
struct Reader {
    chunks: SyncSender<Chunk>,
    number: u64,
}

impl Reader {
    fn read_all(&mut self, files: &[PathBuf]) -> Result<()> {
        if files.is_empty() {
            return self.read(Path::new("-"));
        }
        files.iter().try_for_each(|file| self.read(file))
    }

    /// Reads one file, `-` being standard input.
    fn read(&mut self, path: &Path) -> Result<()> {
        let (source, mut file): (Arc<str>, Box<dyn Read>) = if path.as_os_str() == "-" {
            ("standard input".into(), Box::new(io::stdin().lock()))
        } else {
            let source: Arc<str> = path.display().to_string().into();
            let file = File::open(path).with_context(|| format!("cannot read {source}"))?;
            (source, Box::new(file))
        };
        self.take_apart(&source, &mut file)
    }

    fn take_apart(&mut self, source: &Arc<str>, file: &mut dyn Read) -> Result<()> {
        let mut text = Vec::new();
        let mut first_line = 1;
        loop {
            // What a pipe has is taken as it comes; the rest of a line is waited for.
            let start = text.len();
            text.resize(start + CHUNK, 0);
            let count = file
                .read(&mut text[start..])
                .with_context(|| format!("cannot read {source}"))?;
            text.truncate(start + count);
            let whole = match text[start..].iter().rposition(|&byte| byte == b'\n') {
                _ if count == 0 => text.len(),
                Some(end) => start + end + 1,
                None => continue,
            };
            let rest = text.split_off(whole);
            let lines = text.iter().filter(|&&byte| byte == b'\n').count();
            if !text.is_empty() && !self.send(source, first_line, text) {
                return Ok(());
            }
            if count == 0 {
                return Ok(());
            }
            text = rest;
            first_line += lines;
        }
    }

    /// Hands some lines on; says whether there is still somebody who takes them.
    fn send(&mut self, source: &Arc<str>, first_line: usize, text: Vec<u8>) -> bool {
        let chunk = Chunk {
            number: self.number,
            source: Arc::clone(source),
            first_line,
            text,
        };
        self.number += 1;
        self.chunks.send(chunk).is_ok()
    }
}

/// A scoring thread's life.
fn score_chunks(
    model: &InferenceGpt,
    chunks: &Mutex<Receiver<Chunk>>,
    results: &SyncSender<ScoredChunk>,
    style: Style,
) {
    let mut scorer = Scorer::new(model);
    loop {
        let chunk = chunks.lock().unwrap_or_else(|e| e.into_inner()).recv();
        let Ok(chunk) = chunk else { return };
        let scored = score_chunk(&mut scorer, model.meta().tokenizer.kind(), &chunk, style);
        let scored = scored.with_context(|| chunk.source.to_string());
        if results.send((chunk.number, scored.map(Some))).is_err() {
            return;
        }
    }
}

fn score_chunk(
    scorer: &mut Scorer,
    kind: CorpusKind,
    chunk: &Chunk,
    style: Style,
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
        CorpusKind::Continuous => text.strip_suffix('\r').unwrap_or(text),
    });
    let trimmed: Vec<&str> = trimmed.collect();
    let scores = scorer.score(&trimmed, chunk.first_line)?;
    let mut printed = Vec::new();
    for ((score, line), text) in scores.iter().zip(&lines).zip(&texts) {
        match style {
            Style::Nothing => {}
            Style::Lines => {
                write!(printed, "{:.6}\t", score.bits_per_token())?;
                printed.extend_from_slice(line);
                printed.push(b'\n');
            }
            Style::Json => {
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

/// What is printed for a text of at most so many chunks, all on this thread.
#[cfg(any(test, fuzzing))]
pub fn score_on_this_thread(
    model: &InferenceGpt,
    text: &mut dyn Read,
    chunks: usize,
) -> Result<Vec<u8>> {
    let (sender, read) = sync_channel(chunks);
    let mut reader = Reader {
        chunks: sender,
        number: 0,
    };
    reader.take_apart(&"the text".into(), text)?;
    drop(reader);
    let mut scorer = Scorer::new(model);
    let kind = model.meta().tokenizer.kind();
    let mut printed = Vec::new();
    for chunk in read {
        printed.extend(score_chunk(&mut scorer, kind, &chunk, Style::Lines)?.text);
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
        let lines = console::group_thousands(self.lines);
        let tokens = console::group_thousands(self.tokens);
        let unknown = match self.unknown {
            0 => String::new(),
            count => format!(
                ", {} left out for unknown characters",
                console::group_thousands(count)
            ),
        };
        format!("{per_token:.6}\t{lines} lines, {tokens} tokens{unknown}\n")
    }
}
